"""Files of dataset repos: `hf://datasets/USER/NAME[@REVISION]/PATH`, globs included, at one commit.

Chosen after trying what there is (our choice, for these versions):

- Parquet is read where it lies, through huggingface_hub's `HfFileSystem`: pyarrow fetches the footer and then, a row
  group at a time, the byte ranges of the columns a query needs. Polars' own `hf://` knows only huggingface.co, not
  `HF_ENDPOINT`.
- Text and compressed text has to be read from its first byte to its last, and more than once (counted, checked, built),
  so it goes through the Hub's cache on disk: fetched once, resumed, shared with other programs.

A revision becomes its commit when the files are found, so a push in between changes nothing. Where the Hub cannot be
reached, or must not be (`HF_HUB_OFFLINE`), all files come from the cache, if they are in it. Endpoint, token and cache
are huggingface_hub's own (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

import polars as pl

from cprec_hf.behaviors.sources.batches import scan_batches
from cprec_hf.errors import InputError
from cprec_hf.hub.files import hub_said_plainly, snapshot

if TYPE_CHECKING:
    import pyarrow.parquet as pq

HUB_PATH = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<pattern>.+)")
GLOB = re.compile(r"([*?[])")


@dataclass(frozen=True, order=True)
class HubFile:
    """A file of a dataset repo at one commit, read over the network. Its names are those of a path."""

    repo: str
    commit: str
    path: str

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """Its last part without the suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """What its name ends in, with the dot."""
        return PurePosixPath(self.path).suffix

    def open(self, mode: str = "rb", *, ahead: bool = True) -> io.BufferedIOBase:
        """The file's bytes. Every read fetches its range, and what is likely to be read next if `ahead`."""
        from huggingface_hub import HfFileSystem

        path, cache = f"datasets/{self.repo}@{self.commit}/{self.path}", "readahead" if ahead else "none"
        with hub_said_plainly(self.repo, self.commit, "dataset", self.path):
            return HfFileSystem().open(path, mode, cache_type=cache)

    def scan_parquet(self) -> pl.LazyFrame:
        """Its rows, lazily: only the columns a query needs are fetched, and only as many row groups."""
        import pyarrow.parquet as pq

        footer = _footer(self)
        schema = pl.DataFrame(pl.from_arrow(footer.schema.to_arrow_schema().empty_table())).schema

        def read(names: list[str]) -> Iterator[pl.DataFrame]:
            with self.open(ahead=False) as file, pq.ParquetFile(file, metadata=footer, pre_buffer=True) as parquet:
                for group in range(parquet.num_row_groups):
                    yield pl.DataFrame(pl.from_arrow(parquet.read_row_group(group, columns=names)))

        return scan_batches(read, schema)

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.commit}/{self.path}"


def find_on_the_hub(path: str, where: str) -> list[Path | HubFile]:
    """The files a `hf://` path stands for, by name; Parquet as `HubFile`, all else as files of the Hub's cache.

    Raises:
        InputError: not a path of this form, no such repo or revision, or a Hub that refuses or is out of reach.
    """
    from httpx2 import TransportError
    from huggingface_hub import HfApi, HfFileSystem
    from huggingface_hub.errors import OfflineModeIsEnabled

    match = HUB_PATH.fullmatch(path)
    if match is None:
        raise InputError(f"{where}: {path} is not of the form hf://datasets/USER/NAME/FILE (or NAME@REVISION)")
    repo, pattern = match["repo"], match["pattern"]
    revision = match["revision"] and unquote(match["revision"])  # a branch may be named `refs/convert/parquet`
    try:
        with hub_said_plainly(repo, revision, "dataset", pattern):
            commit = str(HfApi().repo_info(repo, repo_type="dataset", revision=revision).sha)
            root, files = f"datasets/{repo}@{commit}/", HfFileSystem()
            names = sorted(name.removeprefix(root) for name in files.glob(root + pattern) if files.isfile(name))
    except (TransportError, OfflineModeIsEnabled):
        folder = snapshot(repo, revision, "dataset", [pattern])
        return sorted(file for file in folder.glob(pattern) if file.is_file())
    texts = [name for name in names if not name.endswith(".parquet")]
    folder = Path()
    if texts:
        folder = snapshot(repo, commit, "dataset", [GLOB.sub(r"[\1]", name) for name in texts])
    return [HubFile(repo, commit, name) if name.endswith(".parquet") else folder / name for name in names]


@cache
def _footer(file: HubFile) -> pq.FileMetaData:
    import pyarrow.parquet as pq

    with file.open(ahead=False) as opened:
        return pq.read_metadata(opened)
