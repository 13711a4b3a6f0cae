"""The held-out events of a downstream domain, as the audit looks them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from cprec_hf.corpus.audit_batches import Index, Items, names_of
from cprec_hf.corpus.files import SPLITS


@dataclass(frozen=True)
class HeldOut:
    """All validation and test targets of one domain.

    Attributes:
        users: their users.
        user: of each event, its place in `users` [events].
        item: its row in the catalogue, -1 for none [events].
        timestamp: int64 [events].
        split: 1 validation, 2 test [events].
        keys: the events of either and of each split as `user * items + item`, sorted.
    """

    users: Index
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    split: np.ndarray
    keys: Mapping[int | None, np.ndarray]
    n_items: int

    @classmethod
    def read(cls, files: Mapping[str, list[Path]], number: int, items: Items) -> HeldOut:
        """The held-out rows of a domain's config; `number`: of the domain."""
        frames = [
            pl.scan_parquet(files[split]).select(
                "user_id", "target", pl.col("timestamp").cast(pl.Int64), split=pl.lit(SPLITS.index(split))
            )
            for split in SPLITS[1:]
        ]
        rows = pl.concat(frames).collect(engine="streaming")
        names = rows["user_id"].unique(maintain_order=True).to_arrow()
        users = Index(names)
        codes, targets = names_of(rows["target"].to_arrow())
        item = np.append(items.find(number, targets), -1)[codes]
        user, split = users.find(rows["user_id"].to_arrow()), rows["split"].to_numpy()
        key = np.where(item >= 0, user * len(items) + item, -1)
        keys: dict[int | None, np.ndarray] = {n: np.sort(key[(split == n) & (item >= 0)]) for n in (1, 2)}
        keys[None] = np.sort(key[item >= 0])
        timestamp = rows["timestamp"].fill_null(np.iinfo(np.int64).min).to_numpy()
        return cls(users, user, item, timestamp, split, keys, len(items))

    def holds(self, users: np.ndarray, items: np.ndarray, split: int | None = None) -> np.ndarray:
        """Which events are held-out ones, of that split if given, bool [events].

        Args:
            users: places in `users`; -1 for a user without a held-out event.
            items: rows of the catalogue; -1 for none.
            split: 1 validation, 2 test.
        """
        inside = (users >= 0) & (items >= 0)
        return inside & member(users * self.n_items + items, self.keys[split])

    def user_name(self, place: int) -> Any:
        """A user's id."""
        return self.users.names[place].as_py()


def member(wanted: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Which numbers are among the sorted `keys`, bool [wanted]."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=bool)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return keys[place] == wanted


def first_validation(held: Mapping[str, HeldOut]) -> tuple[Index, np.ndarray]:
    """Users with validation events in any domain, and the time of the first, int64 [users]."""
    frames = [pl.DataFrame(schema={"user_id": pl.String, "cut": pl.Int64})]
    for events in held.values():
        at = np.flatnonzero(events.split == 1)
        ids = pl.Series(pl.from_arrow(events.users.names.take(pa.array(events.user[at]))))
        frames.append(pl.DataFrame({"user_id": ids, "cut": events.timestamp[at]}))
    cuts = pl.concat(frames).group_by("user_id", maintain_order=True).agg(pl.col("cut").min())
    return Index(cuts["user_id"].to_arrow()), cuts["cut"].to_numpy()
