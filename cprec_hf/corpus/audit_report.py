"""What the audit's parts share: the rows of its report, the figures beside them, and the running tally."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from cprec_hf.errors import InputError
from cprec_hf.hub.markdown import table


@dataclass(frozen=True)
class AuditRow:
    """One promise and whether it holds."""

    check: str
    passed: bool
    n: int
    """Rows (documents, examples, events) looked at."""
    detail: str
    """The first row that breaks it and how many do; or what was found."""


@dataclass(frozen=True)
class AuditReport:
    """All checks of one corpus."""

    folder: str
    rows: list[AuditRow]
    figures: dict[str, Any] = field(default_factory=dict)
    """What was counted and is no breach (see `audit_figures.Figures`); empty if the files could not be read."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(row.passed for row in self.rows)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON-ready dict a check."""
        return [asdict(row) for row in self.rows]

    def table(self) -> str:
        """The checks as a Markdown table."""
        body = [f"| {row.check} | {'yes' if row.passed else 'NO'} | {row.n:,} | {row.detail} |" for row in self.rows]
        return "\n".join(["| check | passed | rows | found |", "|---|---|---:|---|", *body])

    def figures_tables(self) -> str:
        """The figures as Markdown tables: titles that repeat, and what each two domains share."""
        if not self.figures:
            return ""
        overlap, titles = self.figures["overlap"], self.figures["titles"]
        columns = ["domain", "items", "share their title within the domain", "share it with another domain"]
        parts = [table(columns, [[name, *counts.values()] for name, counts in titles.items()])]
        for key, what in {
            "users": "users active in both",
            "item_ids": "item ids in both",
            "titles": "titles in both",
        }.items():
            rows = [[name, *row] for name, row in zip(overlap["domains"], overlap[key], strict=True)]
            parts.append(table([what, *overlap["domains"]], rows))
        return "\n\n".join(parts)

    def require(self) -> AuditReport:
        """This report.

        Raises:
            InputError: a check failed; the message names each with its first offending row.
        """
        if self.passed:
            return self
        failures = "; ".join(f"{row.check}: {row.detail}" for row in self.rows if not row.passed)
        raise InputError(f"the audit of {self.folder} failed: {failures}")


@dataclass
class Tally:
    """Counts per check while files pass by in batches."""

    checks: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Check -> rows looked at, rows that break it, the first of them in words."""

    def add(self, check: str, n: int, bad: pl.DataFrame) -> None:
        """Count `n` rows looked at and the rows of `bad`, of which the very first is kept for the message."""
        self._count(check, n, len(bad), lambda: bad.row(0, named=True))

    def mark(self, check: str, bad: np.ndarray, shown: Callable[[int], Mapping[str, Any]]) -> None:
        """Count rows looked at and those where `bad` [rows, bool] is true; `shown` says what the n-th row holds."""
        self._count(check, len(bad), int(np.count_nonzero(bad)), lambda: shown(int(np.argmax(bad))))

    def join(self, later: Tally) -> None:
        """Count what another tally counted in rows that stand behind those of this one."""
        for check, (seen, broken, first) in later.checks.items():
            self._count(check, seen, broken, first)

    def _count(self, check: str, n: int, bad: int, first: str | Callable[[], Mapping[str, Any]]) -> None:
        seen, broken, told = self.checks.get(check, (0, 0, ""))
        if bad and not broken:
            told = (
                first
                if isinstance(first, str)
                else ", ".join(f"{key} {_short(value)}" for key, value in first().items())
            )
        self.checks[check] = (seen + n, broken + bad, told)

    def rows(self) -> list[AuditRow]:
        """One row per check."""
        return [
            AuditRow(check, not broken, seen, f"{broken:,} rows, the first: {first}" if broken else "none")
            for check, (seen, broken, first) in self.checks.items()
        ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
