"""Users' histories in files, a row a user: whom to recommend to. Read lazily and in order, some rows at a time.

A history is a list of item ids, oldest first: a list column in Parquet, an array in JSON Lines; in CSV and TSV, and
wherever else it is text, a JSON array (`["a", "b"]`) or ids with blanks between them (`a b`, RecBole's `token_seq`). An
empty cell of CSV is an empty history; a null elsewhere says that nothing is known of the row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from cprec_hf.behaviors.sources.files import (
    READERS,
    SourceFile,
    Table,
    columns_of,
    find_files,
    require_columns,
    said_plainly,
)
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys

COLUMNS = ("user_id", "history")


@dataclass(frozen=True)
class Histories:
    """Files of histories, in the order their rows are read in.

    Attributes:
        paths: the files.
        columns: "user_id" and "history" -> their names in the files.
    """

    paths: tuple[SourceFile, ...]
    columns: Mapping[str, str]

    @classmethod
    def find(cls, given: str | list[str], columns: Mapping[str, str], where: str) -> Histories:
        """Find the files; their rows are not read yet.

        Args:
            given: as `files.find_files` takes it.
            columns: our name -> the files' name, where they differ.
            where: what to call the recipe in error messages.

        Raises:
            InputError: no such file, or one without these columns or with other types in them.
        """
        check_keys(columns, COLUMNS, f"{where}: `columns`")
        wanted = {name: columns.get(name, name) for name in COLUMNS}
        paths = find_files(given, where)
        for path in paths:
            require_columns(path, columns_of(path), wanted, where)
        found = cls(paths, wanted)
        with said_plainly(*paths):
            for path in paths:
                found._scan(path)
        return found

    def count(self) -> int:
        """How many rows there are; reads them all, so that what cannot be read is said now and not later.

        Raises:
            InputError: a file that is damaged, or text that is no list of ids (file, row and value are named).
        """
        with said_plainly(*self.paths):
            for path in self.paths:
                table = Table((path,), self.columns)
                pl.collect_all(table.whole(), engine="streaming")
                damaged = table.scan(damaged=True).select(pl.col(DAMAGED).max()).collect(engine="streaming").item()
                if damaged:
                    raise InputError(f"{path}: {damaged}; the file was cut off: write or fetch it again")
                try:
                    self._scan(path).select(pl.col("history").list.len().sum()).collect(engine="streaming")
                except pl.exceptions.ComputeError:
                    self._refuse_bad_text(path)
                    raise
            return self._rows().select(pl.len()).collect(engine="streaming").item()

    def sha256(self) -> list[str]:
        """The SHA-256 of each file's bytes, as hexadecimal text."""
        found = []
        for path in self.paths:
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        return found

    def shards(self, rows: int, wanted: Collection[int]) -> Iterator[tuple[int, pa.Table]]:
        """Shard `n` is the rows from `n * rows` on, `rows` of them (the last has fewer).

        One pass from the first wanted shard to the last; those between that are not wanted are read and dropped, which
        takes a small part of the time that recommending to them would.

        Args:
            rows: of a shard.
            wanted: numbers of shards.

        Yields:
            Number and table of each wanted shard, rising; columns user_id and history (a list of text), with nulls.
        """
        if not wanted:
            return
        number, last, kept = min(wanted), max(wanted), pl.DataFrame()
        with said_plainly(*self.paths):
            for batch in self._rows().slice(number * rows).collect_batches(chunk_size=rows, maintain_order=True):
                kept = pl.concat([kept, batch]) if len(kept) else batch
                while len(kept) >= rows:
                    if number in wanted:
                        yield number, kept.head(rows).to_arrow()
                    number, kept = number + 1, kept.slice(rows)
                    if number > last:
                        return
            if len(kept) and number in wanted:
                yield number, kept.to_arrow()

    def _rows(self) -> pl.LazyFrame:
        return pl.concat([self._scan(path) for path in self.paths])

    def _scan(self, path: SourceFile) -> pl.LazyFrame:
        """The rows of one file: user_id String, history List(String)."""
        frame = Table((path,), self.columns).scan()
        types = frame.collect_schema()
        user, history = pl.col("user_id"), pl.col("history")
        if not _is_id(types["user_id"]):
            raise InputError(f"{path}: column `{self.columns['user_id']}` holds {types['user_id']}, which are no ids")
        inner = getattr(types["history"], "inner", None)
        if types["history"] == pl.String:
            history = _from_text(history.fill_null("") if _suffix(path) in _CELLS else history)
        elif inner is None or not (_is_id(inner) or inner == pl.Null):
            raise InputError(
                f"{path}: column `{self.columns['history']}` holds {types['history']}; a history is a list of item ids"
            )
        return frame.select(user.cast(pl.String), history.cast(pl.List(pl.String)))

    def _refuse_bad_text(self, path: SourceFile) -> None:
        """Raise `InputError` for the first text that begins like a JSON array and is none; only once reading failed."""
        row = 0
        for batch in Table((path,), self.columns).scan().collect_batches(maintain_order=True):
            for text in batch["history"]:
                row += 1
                try:
                    if text and text.lstrip().startswith("["):
                        json.loads(text)
                except ValueError:
                    raise InputError(
                        f"{path}, row {row:,}: {self.columns['history']} is {text[:60]!r}, which is no JSON array; "
                        'write ["a", "b"] with double quotes, or the ids with blanks between them'
                    ) from None


_CELLS = {suffix for suffix, dialect in READERS.items() if dialect}  # text files with cells, where null is empty


def _suffix(path: SourceFile) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _is_id(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum)


def _from_text(text: pl.Expr) -> pl.Expr:
    """Lists of ids from JSON arrays and from ids with blanks between them."""
    text = text.str.strip_chars()
    is_array = text.str.starts_with("[")
    arrays = pl.when(is_array).then(text).str.json_decode(pl.List(pl.String))  # null where there is none
    return pl.when(is_array).then(arrays).otherwise(text.str.extract_all(r"\S+"))
