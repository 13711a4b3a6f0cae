"""The benchmarks of ranking run, and their ways agree; what they measure is no test's business."""

import json
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_ways_to_score_candidates_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(FOLDER / "rank_candidates.py"))["main"]
    figures = main(["--toy", "--device", "cpu", "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert all(0 < shape["largest_difference"] < 1e-4 for shape in figures["shapes"])
    assert "| a batch of whole sequences a user |" in capsys.readouterr().out
    first = figures["shapes"][0]  # 5 users, 30 + 20 x 6: 35 tokens read a candidate, or the 30 once and 5 each
    assert [way["tokens"] for way in first["ways"]][:3] == [5 * 20 * 35, 5 * 20 * 35, 5 * (30 + 20 * 5)]


def test_ways_to_rank_a_catalogue_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))  # it uses the other one
    main = runpy.run_path(str(FOLDER / "rank_catalogue.py"))["main"]
    figures = main(["--toy", "--device", "cpu", "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert 0 < figures["exact"]["largest_difference"] < 1e-4
    beam, ours = figures["top"]["ways"]
    assert (ours["missed"], ours["invalid"], figures["top"]["proven"]) == (0, 0, 1.0)
    assert beam["steps"] > 1 and beam["mask_seconds"] > 0
    assert figures["memory"][0]["peak_mb"] > figures["memory"][0]["before_mb"] > 0
    assert "proven for 100% of users" in capsys.readouterr().out
