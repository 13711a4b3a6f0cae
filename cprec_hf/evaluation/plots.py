"""The report's pictures: methods with their intervals and ceilings; learning rate and losses of training stages.

Drawn by matplotlib's Agg canvas, without a display or global state. Names come from users: drawn as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cprec_hf.evaluation.config import COMBINED, EMBEDDED, MODELS, ORACLES
from cprec_hf.hub.curves import STYLE, Curve, plot_learning_rate, png, shade_phases
from cprec_hf.hub.markdown import one_line

_OTHER = "#9aa5b1"
_KINDS = {
    **dict.fromkeys([*MODELS, *EMBEDDED], "#2b6cb0"), **dict.fromkeys(COMBINED, "#2c7a7b"),
    **dict.fromkeys(ORACLES, "#111111"),
}  # fmt: skip


def colour_of(kind: str) -> str:
    """The colour of a method's bar: of one with a language model, of one made of others, of a ceiling, of the rest."""
    return _KINDS.get(kind, _OTHER)


def plot_comparison(results: Mapping[str, Any], path: Path) -> None:
    """One panel for the first hit rate and one for the last ndcg; oracles as dashed lines, all else as bars."""
    metrics = [f"hr@{results['k'][0]}", f"ndcg@{results['k'][-1]}"]
    methods = [m for m in results["methods"] if m["kind"] not in ORACLES]
    oracles = [m for m in results["methods"] if m["kind"] in ORACLES]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.5 + 0.32 * len(methods)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            values = [m["metrics"][metric] for m in methods]
            means = [v["mean"] for v in values]
            error = [[max(v["mean"] - v["low"], 0) for v in values], [max(v["high"] - v["mean"], 0) for v in values]]
            colours = [colour_of(m["kind"]) for m in methods]
            panel.barh(
                range(len(methods)), means, xerr=error, color=colours, height=0.7, error_kw={"lw": 1, "capsize": 2}
            )
            for oracle, shade in zip(oracles, ("#111111", "#b83280", "#2f855a"), strict=False):
                value = oracle["metrics"][metric]
                panel.axvline(
                    value["mean"], color=shade, ls="--", lw=1.2, label=f"{oracle['name']} {value['mean']:.3f}"
                )
                panel.axvspan(value["low"], value["high"], color=shade, alpha=0.08, lw=0)
            panel.set(xlabel=metric, xlim=(0, None))
            if oracles:
                panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=1, fontsize=8)
        panels[0].set_yticks(range(len(methods)), [_short(m["name"]) for m in methods])
        panels[0].invert_yaxis()
        path.write_bytes(png(figure))


def plot_reliability(results: Mapping[str, Any], path: Path) -> None:
    """A panel for each method with calibrated scores: how often its first choice is right over how sure it is."""
    methods = [method for method in results["methods"] if "calibration" in method]
    across = min(4, len(methods))
    down = -(-len(methods) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * across + 0.4, 2.7 * down + 0.3), layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for panel, method in zip(panels, methods, strict=False):
            panel.plot([0, 1], [0, 1], color=_OTHER, lw=1, ls="--")
            found, temperature = method["calibration"], method["calibration"]["temperature"]
            lines = [("as scored", "#2b6cb0", found["as_scored"])]
            if "tempered" in found:
                lines.append((f"scores / {temperature:.2f}", "#c05621", found["tempered"]))
            for label, colour, line in lines:
                sure, right = ([held[key] for held in line["bins"]] for key in ("confidence", "right"))
                sizes = [4 + 90 * held["share"] for held in line["bins"]]
                panel.plot(sure, right, color=colour, lw=1)
                panel.scatter(sure, right, s=sizes, color=colour, label=f"{label}, error {line['ece']:.3f}", alpha=0.8)
            panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            panel.set_title(_short(method["name"], 34), loc="left", fontsize=9)
            legend = panel.legend(fontsize=7, loc="upper left", edgecolor="none", framealpha=0.85)
            for handle in legend.legend_handles:
                handle.set_sizes([16])
        for panel in panels[len(methods) :]:
            panel.set_axis_off()
        figure.supxlabel("chance given to the first choice (size: share of rows)", fontsize=9)
        figure.supylabel("how often it is right", fontsize=9)
        path.write_bytes(png(figure))


def plot_learning_rates(curves: Sequence[Curve], path: Path) -> None:
    """Learning rate over steps, one panel a stage, the schedule's phases shaded and named."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.6 + 1.7 * len(curves)), layout="constrained")
        for panel, curve in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
            plot_learning_rate(panel, curve)
            panel.set_title(_short(curve.label), loc="left", fontsize=9)
        figure.axes[-1].set_xlabel("step")
        path.write_bytes(png(figure))


def plot_losses(curves: Sequence[Curve], path: Path) -> None:
    """Training and evaluation loss, one panel a stage: steps below, tokens seen above where they were logged."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 2.1 * len(curves)), layout="constrained")
        for panel, curve in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
            shade_phases(panel, curve)
            panel.plot(*curve.series("loss"), color="#2b6cb0", lw=1.2, label="training")
            steps, values = curve.series("eval_loss")
            if len(steps):
                panel.plot(steps, values, color="#c05621", marker="o", ms=3, lw=1.2, label="validation")
            panel.set_ylabel("loss (nats a token)")
            panel.set_title(_short(curve.label), loc="left", fontsize=9)
            panel.legend(frameon=False, fontsize=8, loc="upper right")
            _tokens_above(panel, *curve.series("tokens"))
        figure.axes[len(curves) - 1].set_xlabel("step")
        path.write_bytes(png(figure))


def _tokens_above(panel: Axes, steps: np.ndarray, tokens: np.ndarray) -> None:
    if len(steps) < 2:
        return
    ticks = np.linspace(steps[0], steps[-1], 5)
    above = panel.twiny()
    above.set_xlim(panel.get_xlim())
    above.set_xticks(ticks, [_count(n) for n in np.interp(ticks, steps, tokens)], fontsize=7)
    above.set_xlabel("tokens", fontsize=7)


def _count(n: float) -> str:
    return f"{n / 1e6:.2f} M" if n >= 1e6 else f"{n / 1e3:.0f} k" if n >= 1e3 else f"{n:.0f}"


def _short(name: str, most: int = 60) -> str:
    line = one_line(name)
    return line if len(line) <= most else line[: most - 1] + "…"
