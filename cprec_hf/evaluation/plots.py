"""The report's pictures: methods with their intervals and ceilings; learning rate and losses of training stages.

Drawn by matplotlib's Agg canvas, without a display or global state. Names come from users: drawn as plain text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import ORACLES
from cprec_hf.hub.markdown import one_line

_PHASES = {"warmup": "#f6c667", "stable": "#bfe3c8", "anneal": "#b9d3f0"}
_KINDS = {"model": "#2b6cb0", "other": "#9aa5b1"}
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Curve:
    """What a training stage logged (`log.jsonl`), one value per logged step; NaN where a row has none."""

    label: str
    steps: np.ndarray
    columns: dict[str, np.ndarray]
    """learning_rate, loss, eval_loss, tokens (of this stage, up to the step); each float64 [rows]."""
    phases: list[tuple[str, float, float]]
    """Name, first and last step of each phase of the schedule that the stage ran through."""

    @classmethod
    def read(cls, stage: str | Path) -> Curve:
        """Read a stage's output folder: `log.jsonl` (one JSON object per logging step) and its `cprec.json`.

        Raises:
            InputError: no log there, or a line of it that is not a JSON object with a `step`.
        """
        path = Path(stage) / "log.jsonl"
        if not path.is_file():
            raise InputError(f"{path}: no such file; `curves` names output folders of training stages")
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                rows.append(json.loads(line))
                rows[-1]["step"]
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{path}, line {number}: expected a JSON object with a `step`") from None
        record = ModelRecord.load(stage)
        steps = np.array([row["step"] for row in rows], dtype=np.float64)
        names = ("learning_rate", "loss", "eval_loss", "tokens")
        columns = {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
        name = Path(stage).name
        label = name if record.stage in name else f"{record.stage} ({name})"
        return cls(label, steps, columns, _phases(record.schedule, steps))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one column, rows without a value left out."""
        present = np.isfinite(self.columns[name])
        return self.steps[present], self.columns[name][present]


def plot_comparison(results: Mapping[str, Any], path: Path) -> None:
    """One panel for the first hit rate and one for the last ndcg; oracles as dashed lines, all else as bars."""
    metrics = [f"hr@{results['k'][0]}", f"ndcg@{results['k'][-1]}"]
    methods = [m for m in results["methods"] if m["kind"] not in ORACLES]
    oracles = [m for m in results["methods"] if m["kind"] in ORACLES]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.5, 1.5 + 0.32 * len(methods)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            values = [m["metrics"][metric] for m in methods]
            means = [v["mean"] for v in values]
            error = [[max(v["mean"] - v["low"], 0) for v in values], [max(v["high"] - v["mean"], 0) for v in values]]
            colours = [_KINDS["model" if m["kind"] == "model" else "other"] for m in methods]
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
        _save(figure, path)


def plot_learning_rates(curves: Sequence[Curve], path: Path) -> None:
    """Learning rate over steps, one panel a stage, the schedule's phases shaded and named."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.6 + 1.7 * len(curves)), layout="constrained")
        for panel, curve in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
            _shade(panel, curve)
            panel.plot(*curve.series("learning_rate"), color="#1a202c", lw=1.5)
            panel.set(ylabel="learning rate", ylim=(0, None))
            panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, -1))
            panel.set_title(_short(curve.label), loc="left", fontsize=9)
        figure.axes[-1].set_xlabel("step")
        _save(figure, path)


def plot_losses(curves: Sequence[Curve], path: Path) -> None:
    """Training and evaluation loss, one panel a stage: steps below, tokens seen above where they were logged."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.8 + 2.1 * len(curves)), layout="constrained")
        for panel, curve in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves, strict=True):
            _shade(panel, curve)
            panel.plot(*curve.series("loss"), color="#2b6cb0", lw=1.2, label="training")
            steps, values = curve.series("eval_loss")
            if len(steps):
                panel.plot(steps, values, color="#c05621", marker="o", ms=3, lw=1.2, label="validation")
            panel.set_ylabel("loss (nats a token)")
            panel.set_title(_short(curve.label), loc="left", fontsize=9)
            panel.legend(frameon=False, fontsize=8, loc="upper right")
            _tokens_above(panel, *curve.series("tokens"))
        figure.axes[len(curves) - 1].set_xlabel("step")
        _save(figure, path)


def _phases(schedule: Mapping[str, Any], steps: np.ndarray) -> list[tuple[str, float, float]]:
    """The phases in steps, cut to the steps that were logged; none for a schedule without them."""
    lengths = [schedule.get(f"{name}_steps") for name in _PHASES]
    if None in lengths or not len(steps):
        return []
    edges = np.cumsum([0.0, *lengths])
    logged = np.unique(steps)
    begin = max(0.0, logged[0] - (logged[1] - logged[0])) if len(logged) > 1 else 0.0  # one logging interval earlier
    edges = np.clip(edges, begin, logged[-1])
    spans = zip(_PHASES, edges[:-1], edges[1:], strict=True)
    return [(name, float(first), float(last)) for name, first, last in spans if last > first]


def _shade(panel: Axes, curve: Curve) -> None:
    panel.margins(x=0.01)
    for name, first, last in curve.phases:
        panel.axvspan(first, last, color=_PHASES[name], alpha=0.45, lw=0)
        panel.annotate(
            name,
            ((first + last) / 2, 0.03),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=7,
            color="#4a5568",
        )


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


def _short(name: str) -> str:
    line = one_line(name)
    return line if len(line) <= 60 else line[:59] + "…"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=130, metadata={"Software": None})
