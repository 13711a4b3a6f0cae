"""Groups of rows: cold or warm users and items, lengths of histories, popularity of targets. Figures of each group.

Which lengths and which shares bound the groups is our choice; what is cold, the corpus says (`cold_user`, `cold_item`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from cprec_hf.evaluation.rows import Rows

LENGTHS = (3, 6, 11)
"""Where a group of history lengths ends and the next begins, in items."""


@dataclass(frozen=True)
class Grouping:
    """One way to part the rows."""

    name: str
    labels: list[str]
    of_row: np.ndarray
    """The number of each row's label, int64 [rows]."""


def groupings(rows: Rows, popularity: np.ndarray) -> list[Grouping]:
    """All ways to part these rows; of older corpora, which mark nothing as cold, without those two.

    Args:
        rows: the rows.
        popularity: training users of each item [items].
    """
    found = [
        Grouping(name, labels, rows.table[column].combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64))
        for name, column, labels in (
            ("user", "cold_user", ["warm user", "cold user"]),
            ("target", "cold_item", ["warm item", "cold item"]),
        )
        if column in rows.table.column_names
    ]
    starts = [0, *LENGTHS]
    lengths = [f"{low} to {high - 1}" for low, high in zip(starts, LENGTHS, strict=False)] + [f"{LENGTHS[-1]} or more"]
    found.append(Grouping("items in the history", lengths, np.searchsorted(LENGTHS, rows.histories.lengths, "right")))
    thirds = ["never in training", "tail", "middle", "head"]
    found.append(Grouping("popularity of the target", thirds, popularity_thirds(popularity)[rows.targets]))
    return found


def popularity_thirds(popularity: np.ndarray) -> np.ndarray:
    """0 for items nobody had, else 1 (tail), 2 (middle) or 3 (head), int64 [items]; equally popular items together.

    The head are the most popular items that hold a third of all that users had, the middle those of the next third: an
    item's group follows from the share that more popular items hold.

    Args:
        popularity: how many had each item [items].
    """
    values, which, n = np.unique(popularity, return_inverse=True, return_counts=True)
    held = values * n
    above = 1.0 - np.cumsum(held) / max(held.sum(), 1)
    group = 3 - np.searchsorted([1 / 3, 2 / 3], above, "right")
    return np.where(values > 0, group, 0)[which]


def group_figures(
    parted: Sequence[Grouping], metrics: Mapping[str, np.ndarray], rows: Rows
) -> dict[str, dict[str, dict[str, Any]]]:
    """Means over the users of each group that has any, with 95 % t-intervals (None of a single user).

    A user's value is the mean over those of the user's rows that are in the group.

    Args:
        parted: the groupings.
        metrics: values [rows] by name.
        rows: the rows.

    Returns:
        By grouping and label: `users`, `rows`, and by metric `mean`, `low` and `high`.
    """
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    n_users = len(rows.user_ids)
    for grouping in parted:
        cell = grouping.of_row * n_users + rows.users
        size = len(grouping.labels) * n_users
        n_rows = np.bincount(cell, minlength=size).reshape(-1, n_users)
        there = n_rows > 0
        users = there.sum(axis=1)
        table: dict[str, dict[str, Any]] = {
            label: {"users": int(users[i]), "rows": int(n_rows[i].sum())} for i, label in enumerate(grouping.labels)
        }
        for name, values in metrics.items():
            summed = np.bincount(cell, weights=values, minlength=size).reshape(-1, n_users)
            per_user = np.divide(summed, n_rows, out=np.zeros_like(summed), where=there)
            mean = per_user.sum(axis=1) / np.maximum(users, 1)
            squares = (np.where(there, per_user - mean[:, None], 0.0) ** 2).sum(axis=1)
            error = np.sqrt(squares / np.maximum(users - 1, 1) / np.maximum(users, 1))
            half = stats.t.ppf(0.975, np.maximum(users - 1, 1)) * error
            for i, label in enumerate(grouping.labels):
                low, high = (float(mean[i] - half[i]), float(mean[i] + half[i])) if users[i] > 1 else (None, None)
                table[label][name] = {"mean": float(mean[i]), "low": low, "high": high}
        figures[grouping.name] = {label: found for label, found in table.items() if found["users"]}
    return figures
