"""How long cells should take: by those finished, of the same group; else as the study declares."""

from __future__ import annotations

from collections.abc import Iterable

from cprec_hf.evaluation.study.cells import Cells
from cprec_hf.evaluation.study.plan import Cell


class Estimates:
    """Seconds of cells, from those that stand in a study's folder and what is added."""

    def __init__(self, cells: Cells) -> None:
        self._measured = cells.measured()

    def add(self, cell: Cell, seconds: float) -> None:
        """Learn from a finished cell."""
        self._measured.setdefault(cell.group, []).append(seconds)

    def of(self, cell: Cell) -> float | None:
        """Seconds a cell should take; None if nothing is known."""
        measured = self._measured.get(cell.group)
        return sum(measured) / len(measured) if measured else cell.seconds

    def left(self, cells: Iterable[Cell], workers: int) -> float:
        """Seconds that some workers should take for cells; those nothing is known of are left out.

        Each chain of cells that need each other takes its time, however many workers there are.
        """
        cells = list(cells)
        chain: dict[str, float] = {}
        for cell in cells:  # each after those it needs
            before = max((chain.get(need, 0.0) for need in cell.needs.values()), default=0.0)
            chain[cell.hash] = before + (self.of(cell) or 0.0)
        total = sum(self.of(cell) or 0.0 for cell in cells)
        return max(total / workers, max(chain.values(), default=0.0))


def spoken(seconds: float) -> str:
    """Seconds as people say them: 48 s, 12 min, 2 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
