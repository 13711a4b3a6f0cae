"""How histories are sorted, cut into windows and gathered, shared by pre-training documents and fine-tuning rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.ragged import offsets_of, ranges
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError


def greedy_windows(
    tokens: np.ndarray, bounds: np.ndarray, budgets: np.ndarray, max_items: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each group of consecutive items into the fewest windows that keep order and fit a budget of tokens.

    A window's end decides where the next begins, so the loop runs over window numbers: all groups take their next
    window at once, by one search in the cumulative sums.

    Args:
        tokens: of each item [items].
        bounds: group g holds the items bounds[g] to bounds[g + 1] - 1 [groups + 1].
        budgets: most tokens in a window of each group [groups].
        max_items: most items in a window.

    Returns:
        starts and ends (exclusive) of the windows in item order, each [windows]; together they cover every item once.

    Raises:
        InputError: an item of more tokens than its group's budget.
    """
    running = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
    filled = np.diff(bounds) > 0
    at, stop, budget = bounds[:-1][filled], bounds[1:][filled], np.asarray(budgets)[filled]
    starts, ends = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    while len(at):
        end = np.minimum(np.searchsorted(running, running[at] + budget, side="right") - 1, stop)
        end = end if max_items is None else np.minimum(end, at + max_items)
        if (end <= at).any():
            worst = int(np.argmin(end - at))
            raise InputError(
                f"an item line of {int(tokens[at[worst]])} tokens does not fit a window with room for "
                f"{int(budget[worst])} beside its header; raise `window_tokens` or lower `max_title_tokens`"
            )
        starts.append(at)
        ends.append(end)
        more = end < stop
        at, stop, budget = end[more], stop[more], budget[more]
    order = np.argsort(np.concatenate(starts))
    return np.concatenate(starts)[order], np.concatenate(ends)[order]


def row_order(*keys: np.ndarray) -> np.ndarray:
    """The order that sorts rows by these integer keys, the first one first; ties in their order. Shape: [rows] int64.

    As `np.lexsort` with its keys turned round, but neighbouring keys that fit are packed into one 64-bit number, and
    the row's number with them if it fits too: numbers are sorted ten times as fast as places, and places in no order
    among equals three times as fast as in theirs (100,000 rows).
    """
    packed: list[np.ndarray] = []
    n, size = len(keys[0]), 2**63
    for key in (given.astype(np.int64) for given in reversed(keys)):
        least, most = (int(key.min()), int(key.max())) if len(key) else (0, 0)
        width = most - least + 1
        if size * width < 2**62:
            packed[-1] = packed[-1] + (key - least) * size
            size *= width
        else:
            packed.append(key - (least if width < 2**62 else 0))
            size = width
    if len(packed) > 1:
        return np.lexsort(packed)
    if (packed[0][1:] >= packed[0][:-1]).all():
        return np.arange(n)
    if size * n < 2**62:
        return np.sort(packed[0] * n + np.arange(n)) % n
    order = np.argsort(packed[0])
    in_order = packed[0][order]
    return np.argsort(packed[0], kind="stable") if (in_order[1:] == in_order[:-1]).any() else order


def run_bounds(*keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys begin in sorted rows, and their number. Shape: [runs + 1] int64."""
    n = len(keys[0])
    new = np.zeros(n, dtype=bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.append(np.flatnonzero(new), n)


def sort_table(table: pa.Table, *keys: str) -> pa.Table:
    """The table sorted ascending by these columns, ties in their order, one chunk per column."""
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])  # a stable sort
    return table.take(order).combine_chunks()


def group_bounds(table: pa.Table, *keys: str) -> np.ndarray:
    """Where runs of equal `keys` begin in a sorted table, and its length. Shape: [groups + 1] int64."""
    n = table.num_rows
    new = np.zeros(max(n - 1, 0), dtype=bool)
    for key in keys:
        column = table[key].combine_chunks()
        if n > 1:
            new |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    first = np.flatnonzero(np.concatenate([[n > 0], new]))
    return np.concatenate([first, [n]]).astype(np.int64)


def slices(values: pa.ChunkedArray, starts: np.ndarray, ends: np.ndarray) -> pa.ListArray:
    """List r holds values[starts[r] : ends[r]]. Slices may overlap."""
    taken = values.take(pa.array(ranges(starts, ends)))
    taken = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
    return pa.ListArray.from_arrays(pa.array(offsets_of(ends - starts).astype(np.int32)), taken)


def lines(titles: pa.ChunkedArray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """The item lines of titles[starts[r] : ends[r]] as one text per row; no row may be empty."""
    return pc.binary_join_element_wise(pc.binary_join(slices(titles, starts, ends), DELIMITER), "", DELIMITER)
