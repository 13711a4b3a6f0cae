"""Goodreads, the UCSD Book Graph with its times: which books users put on their shelves.

    source:
      kind: goodreads
      folder: ${CPREC_GOODREADS}
      genres: {Poetry: poetry, Comics: comics_graphic}     # without: the whole graph, one domain, Books

The whole graph is `goodreads_interactions_dedup.json.gz` and `goodreads_books.json.gz`, a genre is
`goodreads_interactions_GENRE.json.gz` and `goodreads_books_GENRE.json.gz`; users are shared across genres. An event is
a book put on a shelf, at `date_added`, read by now or not; a rating of 0 is none. Where
`goodreads_book_genres_initial.json.gz` lies beside them, a book's genres become `category`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.files import matching
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.behaviors.sources.prepared import Prepared, json_rows, layout
from cprec_hf.errors import InputError

DATE = "%a %b %d %H:%M:%S %z %Y"
LICENCE = "academic use, no redistribution (UCSD)"
CITATION = "Wan and McAuley: Item Recommendation on Monotonic Behavior Chains, 2018"


@dataclass(frozen=True)
class GoodreadsConfig:
    """The keys of a source of kind `goodreads`."""

    folder: str
    """The folder of the files, packed or not; `${VARIABLE}` is expanded, hf:// paths are read."""
    genres: dict[str, str] | None = None
    """Domain -> the genre in the names of its files, e.g. `young_adult`; null: the whole graph."""

    def __post_init__(self) -> None:
        """Raise `InputError` for no genre."""
        if self.genres == {}:
            raise InputError("`genres` is empty; name at least one, or leave it out to read the whole graph")

    def read(self, where: str) -> Behaviors:
        """Read the files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing or unreadable file, and what `intake.take_in` finds.
        """
        domains: dict[Path, str] = {}
        for domain, genre in (self.genres or {"Books": ""}).items():
            files = [
                f"goodreads_interactions_{genre or 'dedup'}.json*",
                f"goodreads_books{genre and f'_{genre}'}.json*",
            ]
            domains |= dict.fromkeys(layout(self.folder, {domain: files}, where)[1], domain)
        columns = {"user_id": "user_id", "item_id": "book_id", "timestamp": "date_added", "rating": "rating"}
        name = f"Goodreads ({', '.join(self.genres or ['the whole graph'])})"
        return take_in(
            Prepared(tuple(domains)[::2], columns | {"domain": "genre"}, read=partial(_events, domains)),
            books(tuple(domains)[1::2], domains, self.folder, where),
            About(name, LICENCE, CITATION, "time"),
            unit="iso",
        )


def books(paths: tuple[Path, ...], domains: dict[Path, str], folder: str, where: str) -> Prepared:
    """The items in files of books, with their genres if those lie in `folder`."""
    found = matching(f"{folder}/goodreads_book_genres_initial.json*", where)
    genres = json_rows(found[0], ["book_id", "genres"]) if found else None
    return Prepared(paths, {"item_id": "book_id", "title": "title"}, read=partial(_books, domains, genres))


def stars(rating: pl.Expr) -> pl.Expr:
    """A rating, null where it is 0."""
    return pl.when(rating.cast(pl.String) != "0").then(rating)


def _events(domains: dict[Path, str], path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["user_id", "book_id", "rating", "date_added"])
    added = pl.col("date_added").str.to_datetime(DATE, strict=False, time_zone="UTC").dt.strftime("%+")
    when, domain = pl.coalesce(added, "date_added"), pl.lit(domains[path])
    rating = stars(pl.col("rating"))
    return rows.select("user_id", DAMAGED, item_id="book_id", timestamp=when, rating=rating, domain=domain)


def _books(domains: dict[Path, str], genres: pl.LazyFrame | None, path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["book_id", "title", "description"])
    if genres is not None:
        names = pl.col("genres").str.extract_all(r'"[^"]+":').list.eval(pl.element().str.slice(1).str.head(-2))
        category = genres.select("book_id", category=names.list.join("; "))
        rows = rows.join(category, on="book_id", how="left", maintain_order="left")
    return rows.rename({"book_id": "item_id"}).with_columns(domain=pl.lit(domains[path]))
