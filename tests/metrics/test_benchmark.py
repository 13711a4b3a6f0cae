"""The benchmark of the metrics runs, and its sides agree; what it measures is no test's business."""

import importlib.util
import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "metrics.py"


def test_its_sides_agree(tmp_path: Path) -> None:
    pytest.importorskip("ranx", reason="the dev extra has ranx")
    spec = importlib.util.spec_from_file_location("benchmark_of_metrics", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figures = module.main(["--toy", "--json", str(tmp_path / "figures.json")])
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert [case["relevant"] for case in figures["ranking_at_k"]] == [1, 10]
    gaps = [gap for case in figures["ranking_at_k"] for gap in case["largest_difference"].values()]
    assert max(*gaps, figures["beyond_accuracy"]["largest_difference"]) < 1e-9
    assert all(figures["compute"]["microseconds_a_list"].values())
