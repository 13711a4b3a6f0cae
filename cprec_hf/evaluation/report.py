"""The files of a report: `results.json` with everything recorded, its plots, and `report.md` for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprec_hf.hub.report import report_markdown

if TYPE_CHECKING:
    from cprec_hf.evaluation.plots import Curve


def write_report(folder: Path, results: Mapping[str, Any], curves: Sequence[Curve]) -> None:
    """Write results.json, the plots and report.md into an existing folder.

    Args:
        folder: where to.
        results: what `run_evaluation` gathered.
        curves: learning curves of the training stages in the results' `curves`; none, no such plots.
    """
    from cprec_hf.evaluation.plots import plot_comparison, plot_learning_rates, plot_losses, plot_reliability

    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    plot_comparison(results, folder / "comparison.png")
    if any("calibration" in method for method in results["methods"]):
        plot_reliability(results, folder / "reliability.png")
    if curves:
        plot_learning_rates(curves, folder / "learning_rate.png")
        plot_losses(curves, folder / "losses.png")
    (folder / "report.md").write_text(report_markdown(results), encoding="utf-8")
