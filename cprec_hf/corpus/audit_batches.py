"""How the audit reads: row group by row group in a few threads, ids as numbers, texts as slices of one buffer.

What it holds at a time are the batches of its threads, so its memory depends on the catalogue, the held-out events and
the number of users, not on the events. Ids come from Parquet's own dictionaries: a name is looked up once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import DELIMITER

T = TypeVar("T")
BATCH_ROWS = 1 << 15
THREADS = 2  # each holds a batch; more would wait for the disk
SAMPLE_ROWS = 256
"""Texts of a batch that are encoded whole, beside the sums over their lines that are taken of all."""


@dataclass(frozen=True)
class Piece:
    """A row group of a file."""

    path: Path
    group: int
    first: int
    """Row of the file that it begins with."""
    rows: int


@dataclass(frozen=True)
class Batch:
    """Rows of a file, in their order.

    Attributes:
        file: config and file as a message names them: `cpt/train`.
        first: row of the file that the batch begins with.
        rows: its columns; names and ids are dictionary-encoded.
    """

    file: str
    first: int
    rows: pa.RecordBatch

    def __len__(self) -> int:
        return self.rows.num_rows

    def shown(self, row: int, *columns: str, **more: Any) -> dict[str, Any]:
        """What a message says of a row: where it stands, these columns, and `more`."""
        values = {name: self.rows[name][row].as_py() for name in columns}
        return {"file": self.file, "row": self.first + row, **values, **more}


def each_piece(
    paths: Sequence[Path], work: Callable[[Iterator[Batch]], T], columns: Sequence[str], names: Sequence[str], what: str
) -> Iterator[T]:
    """`work` done on the batches of each row group, in a few threads; its results in the order of files and rows.

    Args:
        paths: Parquet files.
        work: must not change what others see.
        columns: to read.
        names: those of them that hold names or ids (or lists of them), read as dictionary-encoded.
        what: for the progress bar.

    Raises:
        KeyError: a file lacks a column.
    """
    pieces = [piece for path in paths for piece in _pieces(path)]
    with ThreadPoolExecutor(THREADS) as threads, _bar(pieces, what) as bar:
        done = threads.map(lambda piece: work(_read(piece, columns, names)), pieces)
        for piece, result in zip(pieces, done, strict=True):
            bar.update(piece.rows)
            yield result


def _bar(pieces: Sequence[Piece], what: str) -> tqdm:
    return tqdm(total=sum(piece.rows for piece in pieces), desc=f"audit: {what}", unit="row", disable=None, leave=False)


def _pieces(path: Path) -> Iterator[Piece]:
    about, first = pq.read_metadata(path), 0
    for group in range(about.num_row_groups):
        rows = about.row_group(group).num_rows
        yield Piece(path, group, first, rows)
        first += rows


def _read(piece: Piece, columns: Sequence[str], names: Sequence[str]) -> Iterator[Batch]:
    with pq.ParquetFile(piece.path) as plain:
        leaves = [plain.schema.column(i).path for i in range(len(plain.schema))]
    encoded = [leaf for leaf in leaves if leaf.split(".")[0] in names]
    first = piece.first
    with pq.ParquetFile(piece.path, read_dictionary=encoded) as file:
        if missing := set(columns) - set(file.schema_arrow.names):
            raise KeyError(f"{piece.path} has no column {min(missing)}")
        for rows in file.iter_batches(BATCH_ROWS, row_groups=[piece.group], columns=list(columns)):
            yield Batch(f"{piece.path.parent.name}/{piece.path.stem}", first, rows)
            first += len(rows)


def names_of(column: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """A column of names as codes, int64 [rows], -1 where it is null, and the names that they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary


def lists_of(column: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """A column of lists of names as offsets, int64 [rows + 1], codes of all its values, and the names.

    Raises:
        ValueError: a row has no list.
    """
    if column.null_count:
        raise ValueError(f"{column.null_count} rows without a list")
    offsets = np.asarray(column.offsets, dtype=np.int64)
    return offsets - offsets[0], *names_of(column.flatten())


class Index:
    """Finds names in a list of distinct names: by a 64-bit hash, then compared in full, so it never errs.

    Args:
        names: distinct strings.
    """

    def __init__(self, names: pa.Array) -> None:
        self.names = names.cast(pa.large_string())
        self.seed = 0
        while True:
            hashes = hashes_of(self.names, self.seed)
            self.order = np.argsort(hashes, kind="stable")
            self.hashes = hashes[self.order]
            if not (self.hashes[1:] == self.hashes[:-1]).any():
                return
            self.seed += 1  # two names with one hash: no more than once in a long life

    def find(self, names: pa.Array) -> np.ndarray:
        """Where each name stands, int64 [names]; -1 for one that does not."""
        if not len(self.names) or not len(names):
            return np.full(len(names), -1)
        wanted = hashes_of(names, self.seed)
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        at = np.where(self.hashes[place] == wanted, self.order[place], -1)
        close = np.flatnonzero(at >= 0)
        same = pc.equal(self.names.take(pa.array(at[close])), names.take(pa.array(close)).cast(pa.large_string()))
        at[close[~same.fill_null(False).to_numpy(zero_copy_only=False)]] = -1
        return at


def hashes_of(names: pa.Array, seed: int = 0) -> np.ndarray:
    """A 64-bit hash of each string, uint64 [names]."""
    return pl.Series(pl.from_arrow(names.cast(pa.large_string()))).hash(seed).to_numpy()


class Items:
    """The catalogue: every item by its row, and the lines that texts are made of.

    Attributes:
        frame: item_id, domain, title, sorted as in the corpus; each (domain, item_id) once.
        domains: their names; a domain's number is its place here.
        tokens: of each item's line, and 0 for row -1, which is no item, int64 [items + 1].
    """

    def __init__(self, frame: pl.DataFrame, domains: Sequence[str], headers: Sequence[str], encoder: Encoder) -> None:
        self.frame = frame.unique(["domain", "item_id"], keep="first", maintain_order=True)
        self.domains = list(domains)
        item_lines = (self.frame["title"] + DELIMITER).fill_null("").to_arrow().cast(pa.large_string())
        self.tokens = np.append(encoder.segments(item_lines).lengths, 0)
        self.lines = pa.concat_arrays([item_lines, pa.array([*headers, ""], pa.large_string())])
        self._of: list[tuple[np.ndarray, Index]] = []
        for domain in self.domains:
            rows = self.frame.select((pl.col("domain") == domain).fill_null(False).arg_true()).to_series().to_numpy()
            self._of.append((rows.astype(np.int64), Index(self.frame["item_id"].gather(rows).to_arrow())))

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def unknown(self) -> int:
        """The line of an item that is not in the catalogue: an empty one."""
        return len(self.lines) - 1

    def header(self, number: int) -> int:
        """The line of the `number`-th header."""
        return len(self) + number

    def find(self, domain: int, ids: pa.Array) -> np.ndarray:
        """Rows of items of one domain, int64 [ids]; -1 for what is no item of it."""
        rows, index = self._of[domain]
        at = index.find(ids)
        return np.where(at >= 0, rows[at] if len(rows) else -1, -1)

    def find_pairs(self, domains: np.ndarray, known: Mapping[int, int], codes: np.ndarray, ids: pa.Array) -> np.ndarray:
        """Rows of items given by codes of their domains (`known`: code -> number of the domain) and of their ids."""
        pair = domains * len(ids) + codes
        table = np.full((int(domains.max(initial=-1)) + 1) * max(len(ids), 1), -1)
        table[pair] = 0
        for code, number in known.items():
            part = table[code * len(ids) : (code + 1) * len(ids)]
            used = np.flatnonzero(part == 0)
            part[used] = self.find(number, ids.take(pa.array(used)))
        for code in range(len(table) // max(len(ids), 1)):
            if code not in known:
                table[code * len(ids) : (code + 1) * len(ids)] = -1
        return table[pair]

    def texts(self, rows: Ragged) -> pa.LargeStringArray:
        """The text whose lines each row lists: the lines gathered once, and cut where the rows end."""
        taken = self.lines.take(pa.array(rows.values))
        taken = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
        _, ends, data = taken.buffers()
        ends = np.frombuffer(ends, np.int64)[taken.offset : taken.offset + len(taken) + 1]
        return pa.LargeStringArray.from_buffers(len(rows), pa.py_buffer(ends[rows.offsets].copy()), data)


def different(column: pa.Array, made: pa.LargeStringArray) -> np.ndarray:
    """Where a column does not read as the texts made, bool [rows]; a null never does."""
    return ~pc.equal(column.cast(pa.large_string()), made).fill_null(False).to_numpy(zero_copy_only=False)


def one_each(values: np.ndarray) -> Ragged:
    """One value a row."""
    return Ragged(values.astype(np.int32), np.arange(len(values) + 1))


def sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sum of each row's values, int64 [rows]."""
    running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return running[offsets[1:]] - running[offsets[:-1]]


def sampled_tokens(batch: Batch, encoder: Encoder, *columns: str) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of the batch, and the tokens of these columns' texts there as the encoder gives them."""
    at = np.arange(0, len(batch), max(len(batch) // SAMPLE_ROWS, 1))
    texts = [batch.rows[name].take(pa.array(at)) for name in columns]
    counted = [encoder.documents(text, start=i == 0).lengths for i, text in enumerate(texts)]
    return at, np.sum(counted, axis=0)
