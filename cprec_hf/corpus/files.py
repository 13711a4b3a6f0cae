"""Where the files of a corpus lie: one file a split while that is enough, else shards named as on the Hub.

cpt/train.parquet
cpt/train-00000-of-00007.parquet
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "validation", "test")
SHARD_ROWS = 500_000
"""Most rows of one file. Our choice: some 200 MB of pre-training documents, which the Hub's viewer can still open."""
ROW_GROUP = 10_000
"""Rows of a row group, which a streaming reader holds. Only a split's last is shorter: equal rows, equal bytes."""
WRITE_BATCH = 1 << 16
"""Values handed to a column's encoder at once. Arrow's 1,024 take a tenth longer."""
TEXTS = ("text", "prompt", "completion")
_SHARD = re.compile(r"(?P<split>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})")


def split_of(path: Path) -> str:
    """The split a file belongs to."""
    match = _SHARD.fullmatch(path.stem)
    return match["split"] if match else path.stem


def split_files(folder: str | Path, config: str) -> dict[str, list[Path]]:
    """The files of each split of a config of a corpus folder, in the order of their rows."""
    found: dict[str, list[Path]] = {}
    for path in sorted((Path(folder) / config).glob("*.parquet")):
        found.setdefault(split_of(path), []).append(path)
    return {split: found[split] for split in sorted(found, key=_place)}


def config_files(folder: str | Path) -> dict[str, dict[str, list[Path]]]:
    """`split_files` of every config."""
    configs = sorted({path.parent.name for path in Path(folder).glob("*/*.parquet")})
    return {config: split_files(folder, config) for config in configs}


def count_rows(paths: Sequence[Path]) -> int:
    """Rows of some Parquet files together, read from their footers."""
    return sum(pq.read_metadata(path).num_rows for path in paths)


def iter_rows(paths: Sequence[Path], rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a split, in order, at most `rows` at a time."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(rows, columns=columns)


class SplitWriter:
    """Writes one split's rows, handed over in any portions, as files whose bytes depend on the rows alone.

    Args:
        folder: of the config; must exist.
        split: the split's name.
        schema: of the rows.

    Attributes:
        rows: written so far, or waiting for their row group to fill.
    """

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0

    def write(self, table: pa.Table) -> None:
        """Take over some rows."""
        if not table.num_rows:
            return
        self.rows += table.num_rows
        self._waiting.append(table)
        self._n_waiting += table.num_rows
        while self._n_waiting >= ROW_GROUP:
            self._write_group(ROW_GROUP)

    def close(self) -> None:
        """Write what waits, and give the files their names. Nothing is left of a split without rows."""
        if self._n_waiting:
            self._write_group(self._n_waiting)
        self.abandon()
        for number, path in enumerate(self._paths):
            shard = "" if len(self._paths) == 1 else f"-{number:05d}-of-{len(self._paths):05d}"
            path.rename(self.folder / f"{self.split}{shard}.parquet")

    def abandon(self) -> None:
        """Close the open file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_group(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        group, rest = table.slice(0, rows), table.slice(rows)
        self._waiting, self._n_waiting = ([rest] if rest.num_rows else []), rest.num_rows
        if self._in_file + rows > SHARD_ROWS:
            self.abandon()
        if self._writer is None:
            self._paths.append(self.folder / f".{self.split}-{len(self._paths):05d}.tmp")
            # Texts hardly repeat: looking for repetitions in them is time lost. So is looking for the least of them, or
            # of the items in lists: no row group could be left out for it.
            told = [name for name in self.schema.names if name not in TEXTS]
            lists = {name: pa.types.is_list(self.schema.field(name).type) for name in told}
            self._writer = pq.ParquetWriter(
                self._paths[-1], self.schema, compression="zstd", write_batch_size=WRITE_BATCH,
                use_dictionary=[f"{name}.list.element" if lists[name] else name for name in told],
                write_statistics=[name for name in told if not lists[name]],
            )  # fmt: skip
            self._in_file = 0
        self._writer.write_table(group, row_group_size=rows)
        self._in_file += rows


def _place(split: str) -> tuple[int, str]:
    return (SPLITS.index(split), "") if split in SPLITS else (len(SPLITS), split)
