"""The pictures of a corpus' card, drawn from its facts: what domains share, and how long histories and documents are.

    write_figures(folder, facts)  # folder/figures/overlap.png, folder/figures/lengths.png

Equal facts give equal bytes. Names are text of users: drawn as plain text, and a name that the font (the one that comes
with matplotlib, so every machine draws alike) has no glyphs for is drawn as its slug.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import LogLocator, NullLocator

from cprec_hf.hub.curves import STYLE, png
from cprec_hf.hub.markdown import one_line

OVERLAP, LENGTHS = "figures/overlap.png", "figures/lengths.png"
MOST_LINES = 10
"""Domains with a line of their own; the rest are drawn as one. Our choice: more colours cannot be told apart."""
MOST_NUMBERS = 12
"""With more domains, cells are too small for their numbers."""
_FONT = "DejaVu Sans"
_LABEL = 8  # points
_STYLE = {**STYLE, "font.family": _FONT, "axes.titlesize": 10, "axes.titlelocation": "left"}
_CPT, _DOWNSTREAM = "#1a202c", "#c05621"
_COLOURS = (
    "#2b6cb0", "#c05621", "#2f855a", "#b83280", "#6b46c1", "#b7791f", "#2c7a7b", "#822727", "#4a5568", "#97266d",
    "#a0aec0",
)  # fmt: skip


def user_interactions(lengths: Mapping[str, Mapping[int, int]]) -> dict[str, Any]:
    """How many users have how many interactions in each domain, in bins that grow by a tenth of a decade.

    Args:
        lengths: by domain, how many users have just so many interactions: interactions -> users.

    Returns:
        `edges`, the first value of each bin and the end of the last; `users`, domain -> users in each bin.
    """
    top = max((size for sizes in lengths.values() for size in sizes), default=1)
    edges = np.unique(np.round(10 ** (np.arange(10 * np.log10(top) + 3) / 10)).astype(np.int64))
    edges = edges[: np.searchsorted(edges, top, side="right") + 1]
    users = {}
    for domain, sizes in sorted(lengths.items()):
        bins = np.searchsorted(edges, np.array([*sizes], dtype=np.int64), side="right") - 1
        users[domain] = np.bincount(bins, [*sizes.values()], len(edges) - 1).astype(np.int64).tolist()
    return {"edges": edges.tolist(), "users": users}


def write_figures(folder: Path, facts: Mapping[str, Any]) -> None:
    """Draw both pictures into the folder.

    Args:
        folder: of the corpus.
        facts: `domains`, and `figures` as `AuditReport.figures` has them, with `user_interactions`.
    """
    (folder / OVERLAP).parent.mkdir(exist_ok=True)
    (folder / OVERLAP).write_bytes(draw_overlap(facts["figures"]["overlap"], facts["domains"]))
    (folder / LENGTHS).write_bytes(draw_lengths(facts["figures"], facts["domains"]))


def draw_overlap(overlap: Mapping[str, Any], domains: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG of two heatmaps: users active in both domains, and titles that both have.

    Numbers are counts; the colour is their share of the smaller domain, on one scale for both panels.
    """
    names = overlap["domains"]
    labels = [label(name, domains[name]["slug"]) for name in names]
    downstream = [domains[name]["role"] == "downstream" for name in names]
    side = max(2.7, len(names) * min(max(3.6 / len(names), 0.24), 0.6))
    longest = max(map(_inches, labels))
    left, below, above = longest + 0.15, 0.75 * longest + 0.4, 0.3
    size = np.array([left + 2 * side + 1.1, below + side + above])  # inches, like all of these
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size.tolist())
        for number, (key, what) in enumerate((("users", "users active"), ("titles", "titles"))):
            place = (left + number * (side + 0.2), below, side, side)
            panel = figure.add_axes(np.divide(place, np.tile(size, 2)).tolist())
            image = _heatmap(panel, np.array(overlap[key]))
            panel.set_title(f"{what} in both domains")
            panel.set_xticks(
                range(len(names)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=_LABEL
            )
            _colour_ticks(panel.get_xticklabels(), downstream)
            panel.set_yticks(range(len(names)), labels if number == 0 else [], fontsize=_LABEL)
            _colour_ticks(panel.get_yticklabels(), downstream)
        scale = (left + 2 * side + 0.35, below, 0.1, side)
        bar = figure.colorbar(image, cax=figure.add_axes(np.divide(scale, np.tile(size, 2)).tolist()))
        bar.set_label("share of the smaller domain", fontsize=_LABEL)
        bar.ax.tick_params(labelsize=_LABEL)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        figure.text(left / size[0], 0.1 / size[1], "grey: a domain itself", fontsize=_LABEL, color=_CPT)
        said = "orange: domains kept out of pre-training"
        figure.text(
            (left + 2 * side + 0.2) / size[0], 0.1 / size[1], said, fontsize=_LABEL, color=_DOWNSTREAM, ha="right"
        )
        return png(figure)


def draw_lengths(figures: Mapping[str, Any], domains: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A PNG of two histograms: interactions of a user in a domain, and tokens of a pre-training document."""
    interactions, documents = figures["user_interactions"], figures["document_tokens"]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 3.3))
        left, right = figure.add_axes((0.065, 0.15, 0.36, 0.77)), figure.add_axes((0.685, 0.15, 0.3, 0.77))
        lines = _few({name: np.array(users) for name, users in interactions["users"].items()}, domains)
        edges = np.array(interactions["edges"], dtype=np.float64)
        for (name, users), colour in zip(lines.items(), _COLOURS, strict=False):
            left.stairs(users, edges, label=name, color=colour, lw=1.4)
        left.set(xscale="log", yscale="log")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
        left.set(title="histories", xlabel="interactions of a user in a domain", ylabel="users")
        filled = np.flatnonzero(np.sum(list(lines.values()), axis=0))
        left.set(xlim=(edges[filled[0]] / 1.1, edges[filled[-1] + 1] * 1.1), ylim=(0.8, None))
        edges = np.array(documents["edges"], dtype=np.float64)
        for (kind, counts), colour in zip(sorted(documents["documents"].items()), _COLOURS, strict=False):
            right.stairs(counts, edges, label=_short(kind), color=colour, lw=1.2, fill=True, alpha=0.25)
            right.stairs(counts, edges, color=colour, lw=1.2)
        right.set(title="pre-training documents", xlabel="tokens of a document", ylabel="documents")
        right.set_ylim(bottom=0)
        right.set_xlim(left=0)
        for panel in (left, right):
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(lambda value, _: compact(value))
                axis.set_minor_locator(NullLocator())
            panel.grid(axis="y", lw=0.4, color="#e2e8f0")
            panel.set_axisbelow(True)
        left.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        if documents["documents"]:
            right.legend(frameon=False, fontsize=7.5)
        else:  # a corpus of downstream domains alone
            right.remove()
        return png(figure)


def label(name: str, slug: str) -> str:
    """A domain's name as it can be drawn: on one line, not too long, and its slug where the font lacks a glyph."""
    line = one_line(name)
    font = get_font(findfont(_FONT))
    drawable = line and all(font.get_char_index(ord(c)) for c in line)
    return _short(line if drawable else slug)


def _inches(text: str) -> float:
    """How wide a label is drawn."""
    font = get_font(findfont(_FONT))
    font.set_size(_LABEL, 72)
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0]) / 64 / 72


def compact(value: float) -> str:
    """A count in few characters: 950, 9.5k, 95k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if abs(value) < 99.95 * size else f"{value / size:.0f}{unit}"
    return f"{value:g}"


def _heatmap(panel: Axes, shared: np.ndarray) -> Any:
    own = np.diag(shared)
    smaller = np.minimum(own[:, None], own[None, :])
    share = np.divide(shared, smaller, out=np.zeros(shared.shape), where=smaller > 0)
    diagonal = np.eye(len(shared), dtype=bool)
    panel.imshow(np.where(diagonal, 0.16, np.nan), cmap="Greys", norm=Normalize(0, 1))
    image = panel.imshow(np.ma.array(share, mask=diagonal), cmap="Blues", norm=Normalize(0, 1))
    if len(shared) <= MOST_NUMBERS:
        for (row, column), n in np.ndenumerate(shared):
            dark = share[row, column] > 0.55 and row != column
            panel.text(
                column, row, compact(n), ha="center", va="center", fontsize=7.5, color="w" if dark else "#1a202c"
            )
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    return image


def _few(lines: Mapping[str, np.ndarray], domains: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Counts by label, the domains with most users first; those beyond `MOST_LINES` added up."""
    ordered = sorted(lines, key=lambda name: (-int(lines[name].sum()), name))
    few = {label(name, domains[name]["slug"]): lines[name] for name in ordered[:MOST_LINES]}
    if rest := ordered[MOST_LINES:]:
        few[f"{len(rest)} others"] = np.sum([lines[name] for name in rest], axis=0)
    return few


def _colour_ticks(ticks: Sequence[Any], downstream: Sequence[bool]) -> None:
    for tick, is_downstream in zip(ticks, downstream, strict=True):
        tick.set_color(_DOWNSTREAM if is_downstream else _CPT)


def _short(name: str) -> str:
    line = one_line(name)
    return line if len(line) <= 28 else f"{line[:27]}…"
