"""A dataset of the Hub by its name: which files a config and a split of it consist of.

    interactions: {dataset: me/my-logs, config: purchases, split: train}

The `datasets` library says which (a repo's README or its file names do); the files themselves are read like all others
(`files`), not loaded through it. So a dataset must consist of files of a kind that is read there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cprec_hf.errors import InputError


@dataclass(frozen=True)
class HubDataset:
    """Where on the Hub a table is."""

    dataset: str
    """USER/NAME of a dataset repo."""
    config: str | None = None
    """Which of its configs (subsets); null where it has one only."""
    split: str = "train"
    """Which of the config's splits."""
    revision: str | None = None
    """Branch, tag or commit; null is `main`."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a name that is no USER/NAME, or that is a folder here."""
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.dataset) or Path(self.dataset).exists():
            raise InputError(f"`dataset` is {self.dataset!r}, not USER/NAME on the Hub; give files here by their paths")

    def files(self, where: str) -> list[str]:
        """The paths of its files, as `hf://datasets/USER/NAME@COMMIT/PATH`; `where` names the recipe in error messages.

        Raises:
            InputError: no such dataset, config, split or revision; or a dataset that only code could read.
        """
        from datasets import load_dataset_builder
        from datasets.exceptions import DatasetNotFoundError

        try:
            builder = load_dataset_builder(self.dataset, self.config, revision=self.revision)
        except (DatasetNotFoundError, ValueError, RuntimeError, OSError) as error:
            said = " ".join(str(error).split())
            raise InputError(f"{where}: dataset {self.dataset}: {said:.300}") from None
        splits = builder.config.data_files or {}
        if self.split not in splits:
            raise InputError(
                f"{where}: dataset {self.dataset} has no split {self.split!r}; it has {', '.join(map(str, splits))}"
            )
        return [str(path) for path in splits[self.split]]
