"""Where negatives come from: the domain uniformly, by popularity, or the target's own category (`negatives`).

**uniform**: every item of the domain alike.

**popularity**: in proportion to the item's training events in the domain plus one. Validation and test events are never
counted. The one (add-one smoothing) lets items without a training event be drawn too: else a target that has none would
be the only such candidate of its row, and whoever counts events would find it.

**category**: uniformly among the items of the target's category, the deepest that the source names. Such a set gives
the target's category away by construction, so a corpus whose prompts list candidates shows another set.

A category with too few items, or a popularity so skewed that `PATIENCE` draws a negative do not find enough different
items, is filled up uniformly, which the corpus counts (`candidates.draw_from_pool`). All three policies, the one and
the patience are our choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprec_hf.corpus.ragged import offsets_of

POLICIES = ("uniform", "popularity", "category")
PATIENCE = 20


def set_columns(negatives: Sequence[str]) -> dict[str, str]:
    """The column of each set of candidates, by its policy: the first is `candidates`, others name theirs."""
    return {policy: f"candidates_{policy}" if i else "candidates" for i, policy in enumerate(negatives)}


def candidate_columns(names: Sequence[str]) -> list[str]:
    """Those of a file's columns that are sets of candidates, in their order."""
    possible = ["candidates", *(f"candidates_{policy}" for policy in POLICIES)]
    return [name for name in names if name in possible]


def filled_column(column: str) -> str:
    """The column that counts the negatives of a set that were drawn uniformly for want of others."""
    return f"{column}_filled"


@dataclass(frozen=True, eq=False)
class Pool:
    """Weighted items in one line; each row draws from a stretch of it.

    Attributes:
        items: item numbers, int64 [n].
        ends: running sum of their weights, int64 [n].
        part_of: the part of the line that a row whose target is item i draws from, int64 [catalogue]; -1 for none.
        bounds: where the parts begin in the running sum, and the end of the last, int64 [parts + 1].
    """

    items: np.ndarray
    ends: np.ndarray
    part_of: np.ndarray
    bounds: np.ndarray

    def stretch(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Begin and length, in weights, of what rows with these targets draw from, each int64 [rows]."""
        part = self.part_of[targets]
        return self.bounds[part], np.where(part < 0, 0, self.bounds[part + 1] - self.bounds[part])

    def members(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same in items: where in `items` they begin, and how many they are."""
        part, first = self.part_of[targets], np.searchsorted(self.ends, self.bounds, side="right")
        return first[part], np.where(part < 0, 0, first[part + 1] - first[part])

    def at(self, weights: np.ndarray) -> np.ndarray:
        """The items that stand at these places of the running sum, in any shape."""
        return self.items[np.searchsorted(self.ends, weights, side="right")]


def popularity_pool(train_events: np.ndarray) -> Pool:
    """All items, each with the weight of its training events plus one.

    Args:
        train_events: int [catalogue].
    """
    size = len(train_events)
    ends = np.cumsum(train_events.astype(np.int64) + 1)
    whole = np.zeros(size, dtype=np.int64)
    return Pool(np.arange(size), ends, whole, np.array([0, ends[-1] if size else 0]))


def category_pool(categories: np.ndarray) -> Pool:
    """Each category a part, its items alike.

    Args:
        categories: the number of each item's category from 0 up, int [catalogue]; -1 for an item without one.
    """
    order = np.argsort(categories, kind="stable")
    order = order[categories[order] >= 0]
    bounds = offsets_of(np.bincount(categories[order]))
    return Pool(order, np.arange(1, len(order) + 1), categories.astype(np.int64), bounds)
