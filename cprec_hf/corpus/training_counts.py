"""Figures of the training events of all users, which rows of single users need: added up bucket by bucket, small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from cprec_hf.corpus.few_shot import user_keys


class TrainingCounts:
    """What popularity, few-shot subsets and marks of cold items are made of.

    Args:
        n_items: of the catalogue.
        datasets: the key of the corpus' draws in each downstream domain, see `few_shot.user_keys`.

    Attributes:
        item_events: the events of each item that training may read, int64 [n_items]: those for pre-training, and of a
            downstream domain those of split train.
    """

    def __init__(self, n_items: int, datasets: Mapping[str, str]) -> None:
        self.item_events = np.zeros(n_items, dtype=np.int64)
        self.datasets = datasets
        self._keys: dict[str, list[np.ndarray]] = {domain: [] for domain in datasets}

    def add(self, users: pa.StringArray, pretraining: pl.DataFrame, downstream: pl.DataFrame) -> None:
        """Count the events of some users, each of whom comes once.

        Args:
            users: their ids, as they are published.
            pretraining: item_id (row of the catalogue) of their events for pre-training.
            downstream: user_id (row of `users`), domain, item_id and split of their downstream events.
        """
        trained = downstream.filter(pl.col("split") == "train")
        for items in (pretraining["item_id"], trained["item_id"]):
            self.item_events += np.bincount(items.to_numpy(), minlength=len(self.item_events))
        counts = trained.group_by("domain", "user_id").len().filter(pl.col("len") >= 2)
        for domain, dataset in self.datasets.items():
            rows = counts.filter(pl.col("domain").cast(pl.String) == domain)["user_id"].to_numpy()
            self.add_keys(domain, user_keys(dataset, users.take(pa.array(rows, pa.int64()))))

    def add_keys(self, domain: str, keys: np.ndarray) -> None:
        """Take over the keys of users of a domain with two training events or more, uint64 [users], each once."""
        self._keys[domain].append(keys)

    def line(self, domain: str) -> np.ndarray:
        """The keys of the users of a domain who have training rows, uint64, sorted.

        They are those with two training events or more: any two fit a window (`build._require_room`).
        """
        return np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *self._keys[domain]]))
