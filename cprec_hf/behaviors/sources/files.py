"""Files of a source, found and opened lazily: Parquet, CSV, TSV, JSON Lines and RecBole's atomic files.

They lie here or on the Hub (`hub_files`). Text files are read as text, column by column, so that `007` stays an id;
JSON values that are no strings keep their JSON spelling (`json_lines`, which also says what becomes of a file that was
cut off). Bytes that are not UTF-8 (our choice): in CSV, TSV and atomic files they are read as U+FFFD, and the
reader refuses and counts the rows whose ids or title hold one; JSON is UTF-8 by its standard (RFC 8259), so there they
are an error that names the line.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from cprec_hf.behaviors.sources.hub_files import HubFile, find_on_the_hub
from cprec_hf.behaviors.sources.json_lines import (
    DAMAGED,
    SUFFIXES,
    UNREADABLE,
    first_bad_line,
    keys_of,
    scan_json_lines,
)
from cprec_hf.errors import InputError
from cprec_hf.files import ran_out_of_space
from cprec_hf.recipes import expand_environment

SourceFile = Path | HubFile

READERS: dict[str, dict[str, Any] | None] = {
    ".parquet": None,
    ".csv": {"separator": ",", "quote_char": '"'},
    ".tsv": {"separator": "\t", "quote_char": '"'},
    **dict.fromkeys(SUFFIXES),
    ".inter": {"separator": "\t", "quote_char": None},
    ".item": {"separator": "\t", "quote_char": None},
}


@dataclass(frozen=True)
class Table:
    """Files of the same columns that hold one table of a source.

    Attributes:
        paths: the files, in the order their rows are read in.
        columns: the schema's name of a column -> its name in the files.
        constants: the schema's name of a column the files do not have -> the value of all its rows.
    """

    paths: tuple[SourceFile, ...]
    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)

    def scan(self, *, attributes: bool = False, damaged: bool = False) -> pl.LazyFrame:
        """All rows, under the schema's names, values as they stand.

        Args:
            attributes: with the files' other columns.
            damaged: with the column `DAMAGED`: null, or why there is no row here that could be read.
        """
        frames = [self._scan(path, attributes=attributes, damaged=damaged) for path in self.paths]
        return pl.concat(frames, how="diagonal_relaxed")

    def whole(self) -> list[pl.LazyFrame]:
        """Queries that read every field of every CSV row: rows with more fields than the header fail in them.

        Without them Polars parses only the columns that are asked for, and values shifted by a stray comma pass.
        """
        text = [path for path in self.paths if READERS[kind_of(path)]]
        return [_open(path, []).select(pl.all().null_count()) for path in text]

    def first(self, wrong: pl.Expr, column: str) -> str:
        """Where the first row stands for which `wrong` holds: "FILE, row N: COLUMN is VALUE" (N counts data rows)."""
        for path in self.paths:
            rows = self._scan(path, attributes=False, damaged=False).with_row_index("row").filter(wrong)
            found = rows.select("row", column).head(1).collect(engine="streaming")
            if found.height:
                return f"{path}, row {found['row'][0] + 1:,}: {self.columns[column]} is {found[column][0]!r}"
        raise AssertionError(f"no such row in {self.paths}")

    def _scan(self, path: SourceFile, *, attributes: bool, damaged: bool) -> pl.LazyFrame:
        found = columns_of(path)
        frame = _open(path, found if attributes else [c for c in found if c in self.columns.values()])
        renamed = [pl.col(raw).alias(name) for name, raw in self.columns.items()]
        constant = [pl.lit(value).alias(name) for name, value in self.constants.items()]
        ours = {*self.columns, *self.constants, *self.columns.values()}
        rest = [pl.col(c) for c in found if c not in ours] if attributes else []
        is_json = kind_of(path) in SUFFIXES
        reason = [pl.col(DAMAGED) if is_json else pl.lit(None, pl.String).alias(DAMAGED)] if damaged else []
        return frame.select(*renamed, *constant, *rest, *reason)

    def __str__(self) -> str:
        return str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more files"


def find_files(given: str | list[str], where: str) -> tuple[SourceFile, ...]:
    """The files that paths, globs or `hf://datasets/USER/NAME[@REVISION]/PATH` paths stand for, in the order given.

    `${NAME}` in a path is the value of that environment variable.

    Raises:
        InputError: a variable that is not set, a path without a file, or a file of a kind that is not read here.
    """
    paths: list[SourceFile] = []
    for one in [given] if isinstance(given, str) else given:
        found = _matching(one, where)
        if not found:
            expanded = expand_environment(one, where)
            hint = f"; it is a folder: name its files, e.g. {one}/*.parquet" if Path(expanded).is_dir() else ""
            raise InputError(f"{where}: no file {expanded}" + (hint or ("" if expanded == one else f" (from {one})")))
        paths += found
    if not paths:
        raise InputError(f"{where}: the list of files is empty")
    for path in paths:
        if kind_of(path) not in READERS:
            raise InputError(f"{where}: {path} is of no kind that is read here; they end in {', '.join(READERS)}")
    return tuple(paths)


def matching(path: str, where: str) -> list[Path]:
    """The text files, of any kind, that one path stands for (see `find_files`), sorted; maybe none."""
    return [found for found in _matching(path, where) if isinstance(found, Path)]


def columns_of(path: SourceFile) -> list[str]:
    """The names of a file's columns; of JSON Lines, the keys in its first 10,000 rows."""
    with said_plainly(path):
        if isinstance(path, Path) and kind_of(path) in SUFFIXES:
            return keys_of(path)
        return _open(path, []).collect_schema().names()


def require_columns(path: SourceFile, found: list[str], wanted: Mapping[str, str], where: str) -> None:
    """Raise `InputError` for the first column of `wanted` (schema's name -> file's name) not among `found`."""
    for name, raw in wanted.items():
        if raw not in found:
            near = difflib.get_close_matches(raw, found, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise InputError(
                f"{where}: {path} has no column `{raw}` (for {name}); {hint}Its columns: {', '.join(found)}. "
                f"Say which one it is under `columns:`, e.g. `{name}: {near[0] if near else found[0]}`"
            )


@contextmanager
def said_plainly(*paths: SourceFile) -> Iterator[None]:
    """Turn Polars' errors while reading `paths` into an `InputError` that names the file and, in text, the line."""
    try:
        yield
    except (pl.exceptions.PolarsError, *UNREADABLE) as error:
        if ran_out_of_space(error):  # while what was read is written elsewhere in the same pass
            raise
        for path in paths:
            line = _first_not_utf8(path) if "utf8" in str(error) else _first_bad_line(path)
            if line:
                raise InputError(f"{path}, {line}") from error
        names = ", ".join(map(str, paths))
        raise InputError(f"{names}: cannot be read: {str(error).splitlines()[0]}") from error


def kind_of(path: SourceFile) -> str:
    """The suffix that says how a file is read, that of `.gz` left out."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _open(path: SourceFile, columns: list[str]) -> pl.LazyFrame:
    if isinstance(path, HubFile):
        return path.scan_parquet()
    kind = kind_of(path)
    if kind == ".parquet":
        return pl.scan_parquet(path, glob=False)
    if kind in SUFFIXES:
        return scan_json_lines(path, columns)
    return pl.scan_csv(path, infer_schema=False, encoding="utf8-lossy", glob=False, **(READERS[kind] or {}))


def _matching(path: str, where: str) -> list[SourceFile]:
    expanded = expand_environment(path, where)
    return [*(find_on_the_hub(expanded, where) if expanded.startswith("hf://") else _here(expanded))]


def _here(pattern: str) -> list[Path]:
    if Path(pattern).is_file():
        return [Path(pattern)]
    folder, parts = Path(Path(pattern).anchor), Path(pattern).parts
    inside = Path(*parts[1:]) if folder.parts else Path(*parts)
    return sorted(path for path in folder.glob(str(inside)) if path.is_file())


def _first_bad_line(path: SourceFile) -> str | None:
    """What is wrong with the first bad line of a text file; reads line by line, and only once reading has failed."""
    kind = kind_of(path)
    if kind not in READERS or kind == ".parquet" or not isinstance(path, Path) or not path.is_file():
        return None
    if not path.stat().st_size:
        return "line 1: the file is empty"
    if kind in SUFFIXES:
        return first_bad_line(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        dialect = READERS[kind] or {}
        lines = codecs.getreader("utf-8")(file, "replace")
        quoted = dialect["quote_char"] is not None
        text = csv.reader(
            lines, delimiter=dialect["separator"], quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        )
        try:
            header = next(text, [])
            last = begin = text.line_num
            for row in text:
                if len(row) > len(header):
                    return f"line {text.line_num:,}: {len(row)} fields under a header of {len(header)}: {row!r:.80}"
                last, begin = begin + 1, text.line_num
        except EOFError:
            return f"line {text.line_num + 1:,}: the gzip stream ends before its end mark: the file was cut off"
    return f"line {last:,}: a quote that is not closed" if quoted and last < begin else None


def _first_not_utf8(path: SourceFile) -> str | None:
    if not isinstance(path, Path):
        return None
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                near = line[max(error.start - 20, 0) : error.end + 20]
                return f"line {number:,}: bytes that are not UTF-8 near {near!r}; save the file as UTF-8"
    return None
