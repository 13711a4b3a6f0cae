"""What the audit's two halves share: rows of the report, the running tally, and texts rendered again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError

BATCH_ROWS = 1 << 14
SAMPLE_ROWS = 256
"""Texts of a batch that are encoded whole, beside the sums over their lines that are taken of all."""


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

    def add(self, check: str, n: int, bad: pl.DataFrame) -> None:
        """Count `n` rows looked at and the rows of `bad`, of which the very first is kept for the message."""
        seen, broken, first = self.checks.get(check, (0, 0, ""))
        if not broken and len(bad):
            first = ", ".join(f"{key} {_short(value)}" for key, value in bad.row(0, named=True).items())
        self.checks[check] = (seen + n, broken + len(bad), first)

    def rows(self) -> list[AuditRow]:
        """One row per check."""
        return [
            AuditRow(check, not broken, seen, f"{broken:,} rows, the first: {first}" if broken else "none")
            for check, (seen, broken, first) in self.checks.items()
        ]


def batches(path: Path) -> Iterator[pl.DataFrame]:
    """A Parquet file, `BATCH_ROWS` rows at a time, with `row` numbering all its rows."""
    with pq.ParquetFile(path) as file:
        first = 0
        for batch in file.iter_batches(BATCH_ROWS):
            frame = pl.DataFrame(pl.from_arrow(batch))
            yield frame.with_row_index("row", offset=first)
            first += len(frame)


def render(ids: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The item lines of each row of `ids` (row, domain, item_id, in order): row, lines (null: unknown item), tokens."""
    titles = items.select("domain", "item_id", "title", "tokens")
    joined = ids.join(titles, on=["domain", "item_id"], how="left", maintain_order="left")
    line = pl.col("title") + DELIMITER
    text = pl.when(line.is_not_null().all()).then(line.str.join(""))
    return joined.group_by("row", maintain_order=True).agg(lines=text, tokens=pl.col("tokens").sum())


def sampled_tokens(batch: pl.DataFrame, encoder: Encoder, *columns: str) -> pl.DataFrame:
    """Some rows of the batch with `encoded`, the tokens of these columns' texts as the encoder gives them."""
    sample = batch.gather_every(max(len(batch) // SAMPLE_ROWS, 1))
    lengths = [encoder.documents(sample[name].to_arrow(), start=name == columns[0]).lengths for name in columns]
    return sample.with_columns(encoded=pl.Series(np.sum(lengths, axis=0)))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
