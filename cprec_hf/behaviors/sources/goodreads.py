"""Goodreads, the UCSD Book Graph: which books users put on their shelves.

    source:
      kind: goodreads
      folder: ${CPREC_GOODREADS}
      genres: {Poetry: poetry, Comics: comics_graphic}     # without: the whole graph, one domain, Books

With times, `goodreads_interactions_dedup.json.gz` and `goodreads_books.json.gz`; or by genre, each a domain, users
shared across them, `goodreads_interactions_GENRE.json.gz` and `goodreads_books_GENRE.json.gz`. An event is a book put
on a shelf, at `date_added`, read by now or not; a rating of 0 is none. Where `goodreads_book_genres_initial.json.gz`
lies beside them, a book's genres become `category`.

`goodreads_interactions.csv` (with `book_id_map.csv` and `user_id_map.csv`) has no times, and its publishers do not say
how a user's rows are ordered: it is read only if `csv_order` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.files import matching
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.behaviors.sources.prepared import Prepared, csv_rows, json_rows, layout
from cprec_hf.errors import InputError

TIMED = ["goodreads_interactions_{}.json*", "goodreads_books{}.json*"]
CSV = ["goodreads_interactions.csv", "goodreads_books.json*", "book_id_map.csv", "user_id_map.csv"]
CSV_COLUMNS = ["user_id", "book_id", "is_read", "rating", "is_reviewed"]
DATE = "%a %b %d %H:%M:%S %z %Y"


@dataclass(frozen=True)
class GoodreadsConfig:
    """The keys of a source of kind `goodreads`."""

    folder: str
    """The folder of the files, packed or not; `${VARIABLE}` is expanded, hf:// paths are read."""
    genres: dict[str, str] | None = None
    """Domain -> the genre in the names of its files, e.g. `young_adult`; null: the whole graph."""
    csv_order: Literal["oldest_first", "newest_first"] | None = None
    """Read goodreads_interactions.csv, whose rows of one user are in this order."""

    def __post_init__(self) -> None:
        """Raise `InputError` for no genre, or genres of the CSV file, which has none."""
        if self.genres == {} or (self.genres and self.csv_order):
            raise InputError("`genres` names at least one domain, and stands alone: the CSV file is the whole graph")

    def read(self, where: str) -> Behaviors:
        """Read the files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing or unreadable file, and what `intake.take_in` finds.
        """
        domains: dict[Path, str] = {}
        maps: list[Path] = []
        if self.csv_order:
            (events, books, *maps) = layout(self.folder, {"CSV": CSV}, where)[1]
            domains = {events: "Books", books: "Books"}
        else:
            for domain, genre in (self.genres or {"Books": ""}).items():
                patterns = [TIMED[0].format(genre or "dedup"), TIMED[1].format(f"_{genre}" if genre else "")]
                domains |= dict.fromkeys(layout(self.folder, {domain: patterns}, where)[1], domain)
        genres_of = (*matching(f"{self.folder}/goodreads_book_genres_initial.json*", where), None)[0]
        paths, about = tuple(domains), About(
            f"Goodreads ({', '.join(self.genres or ['the whole graph'])})", "research use, no redistribution (UCSD)",
            "Wan and McAuley: Item Recommendation on Monotonic Behavior Chains, 2018",
            "position" if self.csv_order else "time",
        )  # fmt: skip
        named = {"user_id": "user_id", "item_id": "book_id", "timestamp": "date_added", "rating": "rating"}
        named |= {"domain": "genre"}

        def read_events(path: Path) -> pl.LazyFrame:
            rows = _from_csv(path, *maps, newest_first=self.csv_order == "newest_first") if maps else _from_json(path)
            return _events(rows, domains[path])

        return take_in(
            Prepared(paths[::2], named, read=read_events),
            Prepared(paths[1::2], {"item_id": "book_id", "title": "title"}, read=partial(_books, domains, genres_of)),
            about,
            unit="s" if self.csv_order else "iso",
        )


def _events(rows: pl.LazyFrame, domain: str) -> pl.LazyFrame:
    rating = pl.col("rating").cast(pl.String)
    return rows.with_columns(domain=pl.lit(domain), rating=pl.when(rating != "0").then(rating))


def _from_json(path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["user_id", "book_id", "rating", "date_added"])
    added = pl.col("date_added").str.to_datetime(DATE, strict=False, time_zone="UTC").dt.strftime("%+")
    return rows.select("user_id", "rating", DAMAGED, item_id="book_id", timestamp=pl.coalesce(added, "date_added"))


def _from_csv(path: Path, books: Path, users: Path, *, newest_first: bool) -> pl.LazyFrame:
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    rows = csv_rows(path, CSV_COLUMNS).select(
        "rating", user_id_csv="user_id", book_id_csv="book_id",
        timestamp=pl.len() - 1 - row if newest_first else row,
    )  # fmt: skip
    for number, name, ids in [("book_id_csv", "book_id", books), ("user_id_csv", "user_id", users)]:
        rows = rows.join(csv_rows(ids, [number, name]), on=number, how="left", maintain_order="left")
    return rows.select("user_id", "rating", "timestamp", item_id="book_id")


def _books(domains: dict[Path, str], genres_of: Path | None, path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["book_id", "title", "description"])
    if genres_of is not None:
        names = pl.col("genres").str.extract_all(r'"[^"]+":').list.eval(pl.element().str.slice(1).str.head(-2))
        genres = json_rows(genres_of, ["book_id", "genres"]).select("book_id", category=names.list.join("; "))
        rows = rows.join(genres, on="book_id", how="left", maintain_order="left")
    return rows.rename({"book_id": "item_id"}).with_columns(domain=pl.lit(domains[path]))
