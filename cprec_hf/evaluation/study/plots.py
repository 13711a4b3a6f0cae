"""A picture of a study's table: bars with the spread over seeds, or lines over an axis. Names are plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cprec_hf.evaluation.plots import colour_of
from cprec_hf.hub.curves import STYLE, png
from cprec_hf.hub.markdown import one_line

_LINES = ("#2b6cb0", "#c05621", "#2f855a", "#b83280", "#6b46c1", "#718096")


def plot_table(table: Mapping[str, Any], metrics: Sequence[str]) -> bytes:
    """A PNG with a panel for each metric: means over domains and seeds, and a standard deviation over seeds."""
    rows = {name: row for name, row in table["rows"].items() if row["overall"]}
    placed = {name: row for name, row in rows.items() if row["at"] is not None}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.4 if placed else 1.5 + 0.32 * len(rows)), layout="constrained")
        panels = figure.subplots(1, len(metrics), sharey=not placed, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            (_lines if placed else _bars)(panel, placed or rows, metric)
            if placed:
                panel.set(xlabel=one_line(table["axis"]), ylabel=metric)
        if placed:
            panels[0].legend(frameon=False, fontsize=8)
        else:
            panels[0].set_yticks(range(len(rows)), [_short(name) for name in rows])
            panels[0].invert_yaxis()
        return png(figure)


def _bars(panel: Axes, rows: Mapping[str, Any], metric: str) -> None:
    values = [row["overall"][metric] for row in rows.values()]
    colours = [colour_of(row["method"]["kind"]) for row in rows.values()]
    error = [value["std_seeds"] or 0.0 for value in values]
    panel.barh(
        range(len(values)), [value["mean"] for value in values], xerr=error, color=colours, height=0.7,
        error_kw={"lw": 1, "capsize": 2},
    )  # fmt: skip
    panel.set(xlabel=f"{metric}, mean over domains", xlim=(0, None))


def _lines(panel: Axes, rows: Mapping[str, Any], metric: str) -> None:
    """One line for each `line`; places that are no numbers stand side by side in their order."""
    places = list(dict.fromkeys(row["at"] for row in rows.values()))
    numeric = all(isinstance(place, int | float) for place in places)
    where = {place: float(place) if numeric else float(i) for i, place in enumerate(places)}
    for colour, line in zip(_LINES * len(rows), dict.fromkeys(row["line"] for row in rows.values()), strict=False):
        points = sorted((where[row["at"]], row["overall"][metric]) for row in rows.values() if row["line"] == line)
        panel.errorbar(
            [x for x, _ in points], [value["mean"] for _, value in points],
            yerr=[value["std_seeds"] or 0.0 for _, value in points],
            color=colour, marker="o", ms=4, lw=1.4, capsize=2, label=_short(line),
        )  # fmt: skip
    if not numeric:
        panel.set_xticks(list(where.values()), [_short(str(place)) for place in places])


def _short(name: str) -> str:
    line = one_line(name)
    return line if len(line) <= 60 else line[:59] + "…"
