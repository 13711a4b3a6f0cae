"""MovieLens as GroupLens publishes it: 100K, 1M, 10M, 20M, 25M, 32M and latest, told apart by their files.

    source:
      kind: movielens
      folder: ${CPREC_MOVIELENS}/ml-1m

    100K                     u.data, tab-separated; u.item, Latin-1, `|` between a title and 19 genre flags
    1M, 10M                  ratings.dat, movies.dat: `::` between fields, Latin-1 (1M) or UTF-8 (10M)
    20M, 25M, 32M, latest    ratings.csv, movies.csv: UTF-8, titles quoted where they hold a comma

Titles stay as they are (`Matrix, The (1999)`); genres become `category`, as in `Action, Sci-Fi`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.prepared import Prepared, Reader, csv_rows, layout, lines, lines_of_any_encoding

LAYOUTS = {
    "100K": ["u.data", "u.item"],
    "1M or 10M": ["ratings.dat", "movies.dat"],
    "20M and later": ["ratings.csv", "movies.csv"],
}
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
NO_GENRE = ("", "unknown", "(no genres listed)")
RATING = ("user_id", "item_id", "rating", "timestamp")


@dataclass(frozen=True)
class MovielensConfig:
    """The keys of a source of kind `movielens`."""

    folder: str
    """The unpacked folder of one edition; `${VARIABLE}` is expanded, hf:// paths are read."""
    domain: str = "Movies"
    """The domain of all its rows."""

    def read(self, where: str) -> Behaviors:
        """Read the edition that lies in `folder`; `where` names the recipe in error messages.

        Raises:
            InputError: a folder of no edition, an unreadable file, and what `intake.take_in` finds.
        """
        edition, (ratings, movies) = layout(self.folder, LAYOUTS, where)
        readers: dict[str, tuple[Reader, Reader]] = {
            "100K": (partial(_split, "\t"), _flags),
            "1M or 10M": (partial(_split, "::"), _titles_in_colons),
            "20M and later": (_csv, _titles_in_csv),
        }
        domain = {"domain": self.domain}
        about = About(
            f"MovieLens {edition}", "research use, no redistribution (GroupLens)",
            "Harper and Konstan: The MovieLens Datasets: History and Context, 2015", "time",
        )  # fmt: skip
        return take_in(
            Prepared((ratings,), {name: name for name in RATING}, domain, read=readers[edition][0]),
            Prepared((movies,), {"item_id": "movie id", "title": "title"}, domain, read=readers[edition][1]),
            about,
        )


def _split(separator: str, path: Path) -> pl.LazyFrame:
    parts = pl.col("line").str.split_exact(separator, len(RATING) - 1).struct
    return lines(path).select(parts.field(f"field_{i}").alias(name) for i, name in enumerate(RATING))


def _csv(path: Path) -> pl.LazyFrame:
    raw = dict(zip(["userId", "movieId", "rating", "timestamp"], RATING, strict=True))
    return csv_rows(path, list(raw)).rename(raw)


def _flags(path: Path) -> pl.LazyFrame:
    fields = pl.col("line").str.split("|")
    field = [fields.list.get(i, null_on_oob=True) for i in range(5 + len(GENRES_100K))]
    named = [pl.when(flag == "1").then(pl.lit(genre)) for flag, genre in zip(field[5:], GENRES_100K, strict=True)]
    genres = pl.concat_list(named).list.drop_nulls().list.join("|")
    return _movies(lines_of_any_encoding(path), field[0], field[1], genres)


def _titles_in_colons(path: Path) -> pl.LazyFrame:
    parts = pl.col("line").str.extract_groups(r"^(?<id>[^:]*)::(?<title>.*?)(?:::(?<genres>[^:]*))?$").struct
    return _movies(lines_of_any_encoding(path), parts.field("id"), parts.field("title"), parts.field("genres"))


def _titles_in_csv(path: Path) -> pl.LazyFrame:
    rows = csv_rows(path, ["movieId", "title", "genres"])
    return _movies(rows, pl.col("movieId"), pl.col("title"), pl.col("genres"))


def _movies(rows: pl.LazyFrame, item_id: pl.Expr, title: pl.Expr, genres: pl.Expr) -> pl.LazyFrame:
    named = pl.when(~genres.is_in(NO_GENRE)).then(genres.str.replace_all("|", ", ", literal=True))
    return rows.select(item_id=item_id, title=title, category=named)
