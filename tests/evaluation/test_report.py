"""The files of a report hold what was gathered."""

import json
from pathlib import Path

from cprec_hf.evaluation.report import write_report
from cprec_hf.hub.report import report_markdown

ESTIMATES = {f"{name}@{k}": {"mean": 0.4, "low": 0.3, "high": 0.5} for name in ("hr", "ndcg") for k in (1, 10)}
RESULTS = {
    "corpus": {"location": "outputs/c", "revision": None, "name": "shop", "content_sha256": "abc",
               "candidates_sha256": "d", "split_policy": {"policy": "time"}},
    "domain": "Toys", "split": "test", "users": 9, "rows": 9, "candidates": 20, "items": 30, "k": [1, 10], "seed": 0,
    "bootstrap_resamples": 100, "versions": {"numpy": "2"}, "reference": {}, "curves": [],
    "methods": [{"name": "popularity", "kind": "popularity", "metrics": ESTIMATES, "against_reference": {}}],
}  # fmt: skip


def test_the_results_are_written_in_full(tmp_path: Path) -> None:
    write_report(tmp_path, RESULTS, [])
    assert json.loads((tmp_path / "results.json").read_text()) == RESULTS
    assert (tmp_path / "report.md").read_text() == report_markdown(RESULTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["comparison.png", "report.md", "results.json"]
