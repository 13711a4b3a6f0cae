"""What a training run logged, and its learning rate drawn: for model cards and for an evaluation's report.

    draw_learning_rate(Path("outputs/my-shop/cpt/log.jsonl"))  # PNG

Drawn by matplotlib's Agg canvas, without a display or global state. Names come from users: drawn as plain text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cprec_hf.errors import InputError

PHASES = {"warmup": "#f6c667", "stable": "#bfe3c8", "anneal": "#b9d3f0"}
"""Phases of the schedule in their order, with the colours they are shaded in."""
STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
"""For `matplotlib.rc_context`: dollar signs in names are dollar signs."""
_COLUMNS = ("learning_rate", "loss", "eval_loss", "tokens")


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
        """Read a stage's output folder. Raises as `from_log`."""
        return cls.from_log(Path(stage) / "log.jsonl")

    @classmethod
    def from_log(cls, log: str | Path, until: int | None = None) -> Curve:
        """Read a log: one JSON object per logging step; with `until`, no step after it.

        The phases are those of the schedule in the `cprec.json` beside it; a run that has not finished has none yet,
        and its phases are the log's own, known to one logging interval.

        Raises:
            InputError: no such log, a line of it that is not a JSON object with a `step`, or a broken `cprec.json`.
        """
        log, rows = Path(log), read_log(log, until)
        steps = np.array([row["step"] for row in rows], dtype=np.float64)
        columns = {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in _COLUMNS}
        name, record = log.resolve().parent.name, _record(log.with_name("cprec.json"))
        if record is None:
            return cls(name, steps, columns, _logged_phases(rows))
        label = name if record["stage"] in name else f"{record['stage']} ({name})"
        return cls(label, steps, columns, _scheduled_phases(record["schedule"], steps))

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one column, rows without a value left out."""
        present = np.isfinite(self.columns[name])
        return self.steps[present], self.columns[name][present]


def read_log(log: str | Path, until: int | None = None) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, of training and of evaluations, in their order; with `until`, no step after it.

    Raises:
        InputError: no such log, or a line of it that is not a JSON object with a `step`.
    """
    log = Path(log)
    if not log.is_file():
        raise InputError(f"{log}: no such file; a training stage writes it into its output folder")
    rows = []
    for number, line in enumerate(log.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
            rows[-1]["step"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{log}, line {number}: expected a JSON object with a `step`") from None
    return [row for row in rows if until is None or row["step"] <= until]


def draw_learning_rate(log: str | Path, until: int | None = None) -> bytes:
    """A PNG of the learning rate over steps, the schedule's phases shaded and named; the same bytes for the same log.

    Args:
        log: a `log.jsonl`.
        until: the last step to draw; all if not given.

    Raises:
        InputError: see `Curve.from_log`; or no row of the log has a learning rate.
    """
    curve = Curve.from_log(log, until)
    if not len(curve.series("learning_rate")[0]):
        raise InputError(f"{log}: no line has a `learning_rate`; train for at least one logging step")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 2.4), layout="constrained")
        panel = figure.subplots()
        plot_learning_rate(panel, curve)
        panel.set_xlabel("step")
        return png(figure)


def plot_learning_rate(panel: Axes, curve: Curve) -> None:
    """Draw a curve's learning rate into a panel, phases shaded."""
    shade_phases(panel, curve)
    panel.plot(*curve.series("learning_rate"), color="#1a202c", lw=1.5)
    panel.set(ylabel="learning rate", ylim=(0, None))
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, -1))


def shade_phases(panel: Axes, curve: Curve) -> None:
    """Shade and name the phases of a curve's schedule in a panel over steps."""
    panel.margins(x=0.01)
    for name, first, last in curve.phases:
        panel.axvspan(first, last, color=PHASES[name], alpha=0.45, lw=0)
        panel.annotate(
            name,
            ((first + last) / 2, 0.03),
            xycoords=("data", "axes fraction"),
            ha="center",
            fontsize=7,
            color="#4a5568",
        )


def png(figure: Figure) -> bytes:
    """The figure as PNG, without what would make the bytes differ between two runs."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()


def _record(path: Path) -> dict[str, Any] | None:
    """Stage and schedule of a finished run, None without one."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {"stage": str(values["stage"]), "schedule": dict(values["schedule"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: expected a JSON object with `stage` and `schedule`") from None


def _scheduled_phases(schedule: Mapping[str, Any], steps: np.ndarray) -> list[tuple[str, float, float]]:
    """The phases in steps, cut to the steps that were logged; none for a schedule without them."""
    lengths = [schedule.get(f"{name}_steps") for name in PHASES]
    if None in lengths or not len(steps):
        return []
    edges = np.clip(np.cumsum([0.0, *lengths]), _begin(steps), steps.max())
    spans = zip(PHASES, edges[:-1], edges[1:], strict=True)
    return [(name, float(first), float(last)) for name, first, last in spans if last > first]


def _logged_phases(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """Each phase from the logged step before its first to its last."""
    named = [(float(row["step"]), row.get("phase")) for row in rows if row.get("phase") in PHASES]
    spans: list[tuple[str, float, float]] = []
    at = _begin(np.array([step for step, _ in named])) if named else 0.0
    for step, name in named:
        first = spans.pop()[1] if spans and spans[-1][0] == name else at
        spans.append((str(name), first, step))
        at = step
    return spans


def _begin(steps: np.ndarray) -> float:
    """One logging interval before the first logged step: an anneal begins at its trunk's step."""
    logged = np.unique(steps)
    return float(max(0.0, logged[0] - (logged[1] - logged[0]))) if len(logged) > 1 else 0.0
