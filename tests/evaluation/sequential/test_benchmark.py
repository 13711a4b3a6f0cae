"""The benchmark against cornac runs, and ours ranks as well; how fast each is, is no test's business."""

import json
import runpy
from pathlib import Path

import pytest


def test_ours_rank_as_well_as_cornacs(tmp_path: Path) -> None:
    pytest.importorskip("cornac")
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "sequential.py"))
    script["main"](["--toy", "--json", str(tmp_path / "figures.json")])
    models = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert {*models} == {"SASRec", "GRU4Rec"} and all(row["agrees"] for row in models.values())
    assert models["SASRec"]["right"] > 0.7 and models["SASRec"]["cornac_right"] > 0.7
