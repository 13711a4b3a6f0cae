"""Goodreads as one CSV file, which has no times: `goodreads_interactions.csv` with its two maps of ids.

    source:
      kind: goodreads_csv
      folder: ${CPREC_GOODREADS}    # also goodreads_books.json.gz, book_id_map.csv and user_id_map.csv
      rows: newest_first

Its publishers do not say how a user's rows are ordered, so you must: positions are made of it. With times, and genres
as domains, there is `goodreads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.goodreads import CITATION, LICENCE, books, stars
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.prepared import Prepared, csv_rows, layout

FILES = ["goodreads_interactions.csv", "goodreads_books.json*", "book_id_map.csv", "user_id_map.csv"]
COLUMNS = ["user_id", "book_id", "is_read", "rating", "is_reviewed"]


@dataclass(frozen=True)
class GoodreadsCsvConfig:
    """The keys of a source of kind `goodreads_csv`."""

    folder: str
    """The folder of the files; `${VARIABLE}` is expanded, hf:// paths are read."""
    rows: Literal["oldest_first", "newest_first"]
    """The order of one user's rows."""

    def read(self, where: str) -> Behaviors:
        """Read the files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing or unreadable file, and what `intake.take_in` finds.
        """
        _, (events, catalogue, *maps) = layout(self.folder, {"Goodreads as CSV": FILES}, where)
        columns = {"user_id": "user_id", "item_id": "book_id", "timestamp": "row", "rating": "rating"}
        read = partial(_events, tuple(maps), self.rows == "newest_first")
        return take_in(
            Prepared((events,), columns, {"domain": "Books"}, read=read),
            books((catalogue,), {catalogue: "Books"}, self.folder, where),
            About("Goodreads (the whole graph, without times)", LICENCE, CITATION, "position"),
        )


def _events(maps: tuple[Path, ...], newest_first: bool, path: Path) -> pl.LazyFrame:
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    rows = csv_rows(path, COLUMNS).select(
        book_id_csv="book_id", user_id_csv="user_id", rating=stars(pl.col("rating")),
        timestamp=pl.len() - 1 - row if newest_first else row,
    )  # fmt: skip
    for ids, name in zip(maps, ("book_id", "user_id"), strict=True):
        number = f"{name}_csv"
        rows = rows.join(csv_rows(ids, [number, name]), on=number, how="left", maintain_order="left")
    return rows.select("user_id", "rating", "timestamp", item_id="book_id")
