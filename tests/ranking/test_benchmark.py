"""The benchmark of shared prefixes runs, and its ways agree; what it measures is no test's business."""

import runpy
from pathlib import Path

import pytest


def test_the_ways_agree(capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "shared_prefix.py"
    assert runpy.run_path(str(script))["main"](["--toy", "--device", "cpu"]) < 1e-4
    assert "shared prefix, auto (mask)" in capsys.readouterr().out
