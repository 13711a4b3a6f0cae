"""Tables of published layouts: a reader says how one file becomes columns of the schema, the rest is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.sources.files import SourceFile, Table, kind_of, matching
from cprec_hf.behaviors.sources.json_lines import DAMAGED, SUFFIXES, scan_json_lines
from cprec_hf.errors import InputError

Reader = Callable[[Path], pl.LazyFrame]


@dataclass(frozen=True, kw_only=True)
class Prepared(Table):
    """A `Table` whose columns a reader makes itself, file by file.

    Attributes:
        read: a file -> its rows, lazily, under the schema's names; for items, with their attributes; maybe `DAMAGED`.
        columns: the schema's names that `read` gives -> what the file calls them, for error messages.
    """

    read: Reader

    def whole(self) -> list[pl.LazyFrame]:
        """Queries that read every field that `read` gives; of JSON, whose fields have names, none."""
        text = [path for path in self.paths if kind_of(path) not in SUFFIXES]
        frames = [self._scan(path, attributes=True, damaged=False) for path in text]
        return [frame.select(pl.all().null_count()) for frame in frames]

    def _scan(self, path: SourceFile, *, attributes: bool, damaged: bool) -> pl.LazyFrame:
        assert isinstance(path, Path)
        frame = self.read(path).with_columns(pl.lit(value).alias(name) for name, value in self.constants.items())
        if DAMAGED not in frame.collect_schema():
            frame = frame.with_columns(pl.lit(None, pl.String).alias(DAMAGED))
        frame = frame if attributes else frame.select(*self.columns, *self.constants, DAMAGED)
        return frame if damaged else frame.drop(DAMAGED)


def layout(folder: str, layouts: dict[str, list[str]], where: str) -> tuple[str, list[Path]]:
    """Which layout a folder has: the first one of which every file lies there.

    Args:
        folder: a folder, or `hf://datasets/USER/NAME`.
        layouts: name -> its files, each a pattern that must match exactly one file.
        where: what to call the recipe in error messages.

    Returns:
        The layout's name, and its files in the order of its patterns.

    Raises:
        InputError: no layout is complete (the message lists them), or a pattern matches several files.
    """
    for name, patterns in layouts.items():
        files = [matching(f"{folder}/{pattern}", where) for pattern in patterns]
        for pattern, found in zip(patterns, files, strict=True):
            if len(found) > 1:
                raise InputError(f"{where}: {folder} holds {len(found)} files {pattern}; leave one of them there")
        if all(files):
            return name, [found[0] for found in files]
    known = "; or ".join(f"{' and '.join(patterns)} ({name})" for name, patterns in layouts.items())
    raise InputError(f"{where}: {folder} has no layout that is known here; it must hold {known}")


def lines(path: Path) -> pl.LazyFrame:
    """The lines of a UTF-8 file that are not blank, as the column `line`, without a byte order mark."""
    line = pl.col("line").str.strip_prefix("\ufeff")
    return pl.scan_lines(path, glob=False).select(line).filter(line.str.strip_chars() != "")


def lines_of_any_encoding(path: Path) -> pl.LazyFrame:
    """`lines` of a small file, read at once, that is in UTF-8 or else in Latin-1 (older MovieLens editions are)."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return pl.LazyFrame({"line": text.splitlines()}, schema={"line": pl.String}).filter(
        pl.col("line").str.strip_chars() != ""
    )


def csv_rows(path: Path, columns: list[str]) -> pl.LazyFrame:
    """The rows of a CSV file whose fields are `columns`, as text, with or without a header line that names them."""
    rows = pl.scan_csv(
        path, has_header=False, new_columns=columns, infer_schema=False, encoding="utf8-lossy", glob=False
    )
    header = pl.all_horizontal(pl.col(name) == name for name in columns)
    return rows.filter(~header.fill_null(False))


def json_rows(path: Path, keys: list[str]) -> pl.LazyFrame:
    """The values under `keys` of JSON Lines, as text, null where a line has none; and `DAMAGED` (`json_lines`)."""
    return scan_json_lines(path, keys)


def histories_as_events(path: Path) -> pl.LazyFrame:
    """Lines of a user and their items, oldest first, blanks or tabs between -> user_id, item_id, timestamp (position).

    A user without items gives one row without an item, which is refused and counted later.
    """
    words = pl.col("line").str.extract_all(r"\S+")
    users = lines(path).select(user_id=words.list.first(), item_id=words.list.slice(1))
    events = users.with_columns(timestamp=pl.int_ranges(pl.col("item_id").list.len().cast(pl.Int64)))
    return events.explode("item_id", "timestamp", empty_as_null=True)
