"""JSON Lines (`.jsonl`, `.ndjson`, `.json`, each also `.gz`) as a LazyFrame, read a block of whole lines at a time.

Polars' own reader takes a compressed file whole into memory and stops at the first line it cannot read. This one holds
a block of text and the wanted columns of it; a dump that was cut off while it was written or fetched loses its last
line only, which comes out as a row that says so (`DAMAGED`). Lines of Python dicts become JSON on the way
(`literal_lines`). A byte order mark is skipped. Any other line that is no JSON object is an error: such dumps are
written by programs, so a bad line inside one means that more of the file is wrong.

Gzip is read by ISA-L (`isal`, some three times as fast as zlib), in a thread of its own where Polars has more than one.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, cast

import polars as pl
from isal import igzip, igzip_threaded, isal_zlib

from cprec_hf.behaviors.sources.batches import scan_batches
from cprec_hf.behaviors.sources.literal_lines import as_json

SUFFIXES = (".jsonl", ".ndjson", ".json")
DAMAGED = "__damaged"
TRUNCATED = "truncated last line"
BLOCK_BYTES = 16 << 20
ROWS_TO_FIND_KEYS = 10_000
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WHITE = b" \t\r\n"
BROKEN_GZIP = cast("type[Exception]", isal_zlib.error)
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError, BROKEN_GZIP)
"""What reading a file may raise where Polars has no part in it."""


def scan_json_lines(path: Path, columns: list[str]) -> pl.LazyFrame:
    """The keys `columns` of the rows, as String (values that are no strings keep their JSON spelling), and `DAMAGED`.

    `DAMAGED` is null but in the row of a last line that was cut off, where all else is null.
    """
    schema = pl.Schema(dict.fromkeys([*columns, DAMAGED], pl.String()))

    def read(names: list[str]) -> Iterator[pl.DataFrame]:
        for block, reason in _blocks(path):
            if reason is None:
                yield _rows(block, [name for name in names if name != DAMAGED])
            else:
                yield pl.DataFrame({name: [reason if name == DAMAGED else None] for name in schema}, schema)

    return scan_batches(read, schema)


def keys_of(path: Path) -> list[str]:
    """The keys of the first 10,000 rows, in the order they first stand in."""
    found: dict[str, None] = {}
    rows = 0
    for block, reason in _blocks(path):
        lines = _as_json(block).split(b"\n", ROWS_TO_FIND_KEYS)[:ROWS_TO_FIND_KEYS] if reason is None else []
        for row in (json.loads(line) for line in lines if line.strip(WHITE)):
            found |= dict.fromkeys(row if isinstance(row, dict) else ())
            rows += 1
        if rows >= ROWS_TO_FIND_KEYS:
            break
    return list(found)


def first_bad_line(path: Path) -> str | None:
    """What is wrong with the first line that cannot be read; reads line by line, and only once reading has failed."""
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                said = _said(text)
                if said and (line.endswith(b"\n") or number == 1):
                    return f"line {number:,}: {said}"
    except EOFError:
        return (
            f"after line {number:,}: the gzip stream ends before its end mark: the file was cut off; fetch it again, "
            "or unpack what there is of it (`gzip -dc FILE > FILE.jsonl`) to read it without its last line"
        )
    except (OSError, BROKEN_GZIP) as error:  # no gzip at all, or damaged
        return f"after line {number:,}: {error}"
    return None


def _rows(block: bytes, keys: list[str]) -> pl.DataFrame:
    """The keys of all rows of a block, and `DAMAGED`; only they are made, the rest is skipped as it is parsed."""
    return pl.read_ndjson(_as_json(block), schema=dict.fromkeys([*keys, DAMAGED], pl.String))


def _as_json(block: bytes) -> bytes:
    if not block.lstrip(WHITE).startswith((b"{'", b"{u'", b'{u"')):
        return block
    lines = as_json(pl.Series(block.decode("utf-8").split("\n"), dtype=pl.String))
    return "\n".join(lines).encode()


def _blocks(path: Path) -> Iterator[tuple[bytes, str | None]]:
    """Blocks of whole lines with None, and where the last line was cut off, that line with the reason."""
    with open_bytes(path) as file:
        rest, more = b"", file.read(len(BYTE_ORDER_MARK)).removeprefix(BYTE_ORDER_MARK) or file.read(BLOCK_BYTES)
        while more:
            whole = more.rfind(b"\n") + 1
            if whole:
                yield rest + more[:whole], None
                rest = more[whole:]
            else:
                rest += more
            more = file.read(BLOCK_BYTES)
    if rest.strip(WHITE):
        yield rest, (TRUNCATED if _said(rest) else None)


def open_bytes(path: Path) -> AbstractContextManager[IO[bytes]]:
    """The file's bytes, unpacked."""
    if path.suffix != ".gz":
        return path.open("rb")
    if pl.thread_pool_size() > 1:
        return igzip_threaded.open(path, "rb", threads=1)
    return igzip.open(path, "rb")


def _said(line: bytes) -> str | None:
    """What is wrong with one line, null if nothing is."""
    if not line.strip(WHITE):
        return None
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        near = line[max(error.start - 20, 0) : error.end + 20]
        return f"bytes that are not UTF-8 near {near!r}; save the file as UTF-8"
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            return None if isinstance(read(text), dict) else f"not a JSON object: {line[:60]!r}"
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return f"not JSON: {line[:60]!r}"
