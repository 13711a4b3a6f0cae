"""One config of a corpus on its way to disk: a file or several a split, and beside it the hash of the rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cprec_hf.corpus.content import RowsHash
from cprec_hf.corpus.files import SplitWriter
from cprec_hf.corpus.threads import Behind


class ConfigWriter:
    """Writes the splits of a config; its folder is made when the first rows come.

    Args:
        folder: of the config.
        schema: of its rows.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.splits: dict[str, tuple[SplitWriter, RowsHash]] = {}
        self._hashing = Behind()

    def __enter__(self) -> ConfigWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: Any) -> None:
        self._hashing.__exit__(kind, *failure)
        for writer, _ in self.splits.values():
            writer.close() if kind is None else writer.abandon()

    def write(self, split: str, table: pa.Table) -> None:
        """The next rows of a split."""
        if split not in self.splits:
            self.folder.mkdir(exist_ok=True)
            self.splits[split] = SplitWriter(self.folder, split, self.schema), RowsHash(self.schema.names)
        writer, digest = self.splits[split]
        self._hashing.do(partial(_feed, digest, table))
        writer.write(table)

    def hashes(self) -> list[tuple[str, str]]:
        """The splits that have rows, and the hash of their rows."""
        return [(split, digest.hexdigest()) for split, (writer, digest) in self.splits.items() if writer.rows]


def _feed(digest: RowsHash, table: pa.Table) -> None:
    for batch in table.to_batches():
        digest.feed(batch)
