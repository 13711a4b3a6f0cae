"""A corpus' content as one number: SHA-256 of the values in its Parquet files, however compressed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_hf.corpus.files import config_files, iter_rows
from cprec_hf.corpus.pools import candidate_columns

BATCH_ROWS = 1 << 15


def content_sha256(folder: str | Path) -> str:
    """The hash of all splits of all configs of a corpus, in order of their names, however sharded. 64 hex digits."""
    files = config_files(folder)
    return total_sha256({(c, split): rows_sha256(paths) for c in files for split, paths in files[c].items()})


def total_sha256(hashes: Mapping[tuple[str, str], str]) -> str:
    """`content_sha256` from the hash of the rows of each (config, split)."""
    total = hashlib.sha256()
    for (config, split), digest in sorted(hashes.items()):
        total.update(f"{config}/{split}.parquet\0".encode())
        total.update(bytes.fromhex(digest))
    return total.hexdigest()


def candidates_sha256(folder: str | Path) -> str:
    """The hash of who is asked what among which candidates, in all held-out rows of a corpus. 64 hex digits."""
    total = hashlib.sha256()
    for config, splits in config_files(folder).items():
        for split, paths in sorted(splits.items()):
            if config.startswith("sft-") and split in ("validation", "test"):
                columns = ["user_id", "target", *candidate_columns(pq.read_schema(paths[0]).names)]
                total.update(f"{config}/{split}.parquet\0{rows_sha256(paths, columns)}\0".encode())
    return total.hexdigest()


def rows_sha256(paths: Sequence[Path], columns: list[str] | None = None) -> str:
    """The hash of the values in a split's Parquet files, of `columns` only if given."""
    names = columns or pq.read_schema(paths[0]).names
    return batches_sha256(names, iter_rows(paths, BATCH_ROWS, names))


def batches_sha256(names: list[str], batches: Iterable[pa.RecordBatch]) -> str:
    """The hash of the values in columns of some batches, together."""
    rows = RowsHash(names)
    for batch in batches:
        rows.feed(batch)
    return rows.hexdigest()


class RowsHash:
    """The hash of rows that come in portions, which leave no trace: each part of a column (lengths, validity, bytes)
    has a digest of its own.

    Args:
        names: of the columns.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.parts: dict[str, hashlib._Hash] = {}

    def feed(self, batch: pa.RecordBatch) -> None:
        """The next rows."""
        for name in self.names:
            _feed(self.parts, name, batch.column(name))

    def hexdigest(self) -> str:
        """64 hex digits."""
        total = hashlib.sha256()
        for name in sorted(self.parts):
            total.update(f"{name}\0{self.parts[name].hexdigest()}\0".encode())
        return total.hexdigest()


def _feed(parts: dict[str, hashlib._Hash], name: str, values: pa.Array) -> None:
    def feed(part: str, data: np.ndarray) -> None:
        parts.setdefault(f"{name}.{part}", hashlib.sha256()).update(np.ascontiguousarray(data).view(np.uint8).data)

    if values.null_count:
        feed("valid", values.is_valid().to_numpy(zero_copy_only=False))
        values = values.drop_null()
    else:
        feed("valid", np.ones(len(values), dtype=bool))
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        feed("lengths", pc.list_value_length(values).to_numpy().astype("<i8"))
        _feed(parts, f"{name}[]", values.flatten())
    elif pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):
        feed("values", values.cast(pa.int64()).to_numpy().astype("<i8"))
    elif pa.types.is_floating(values.type):
        feed("values", values.cast(pa.float64()).to_numpy().astype("<f8"))
    else:
        values = values.cast(pa.large_binary())
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, "<i8")[values.offset : values.offset + len(values) + 1]
        feed("lengths", np.diff(ends))
        feed("bytes", np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]])
