"""Candidate sets drawn once: a target among negatives, from a random stream that never sees the target.

Each row owns a counter-based stream keyed by (dataset, split, policy, user id, example index), so its candidates depend
on no other row, on no order and on no engine. Items are drawn from the stream one by one and refused if they stand in
the history, repeat, or are the target or carry its title. The target only refuses, it never seeds: candidates seeded by
the target let a look-up of the list alone find it (HR@1 0.548 on a published test file). 20 candidates, 19 uniform
negatives outside the history, is the usual protocol of this line of work; the generator (splitmix64) is our choice.
Which items a number of the stream stands for is the policy's (`corpus/pools.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cprec_hf.corpus.pools import PATIENCE, Pool
from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.errors import InputError

_STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment: the golden ratio
_POSITION_STREAM = np.uint64(0xD1B54A32D192ED03)  # sets the target's place apart from the draws
_CHUNK = 1 << 21  # draws held at once


def row_keys(
    dataset: str,
    split: str,
    user_ids: Sequence[str] | pa.Array,
    example_index: np.ndarray,
    policy: str = "uniform",
) -> np.ndarray:
    """The key of each row's stream.

    Args:
        dataset: the corpus' name and the domain, however the caller writes them.
        split: the split's name.
        user_ids: one id a row, repeats allowed. Give the ids that are published (pseudonyms): anyone can then redraw
            the candidates, and nobody can test a guess of the original id against them.
        example_index: a number that sets the rows of one user apart, int [n_rows].
        policy: one of `pools.POLICIES`: a row's sets are drawn apart from one another.

    Returns:
        uint64 [n_rows].
    """
    names = (dataset, split) if policy == "uniform" else (dataset, split, policy)
    column = user_ids if isinstance(user_ids, pa.Array) else pa.array(user_ids, pa.string())
    users = column.dictionary_encode()
    digests = b"".join(
        hashlib.blake2b("\0".join((*names, user)).encode(), digest_size=8).digest()
        for user in users.dictionary.to_pylist()
    )
    of_user = np.frombuffer(digests, dtype="<u8")[np.asarray(users.indices)]
    return _mix(of_user ^ _mix(np.asarray(example_index).astype(np.uint64) * _STEP + _STEP))


def vary_keys(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Keys of further streams of rows that have one: equal where both are, uint64 [n].

    Args:
        keys: of `row_keys`.
        numbers: what sets the streams of a row apart, int [n].
    """
    return _mix(keys ^ _mix(numbers.astype(np.uint64) * _STEP + _POSITION_STREAM))


def draw_candidates(
    catalogue_size: int,
    history: Ragged,
    targets: np.ndarray,
    keys: np.ndarray,
    count: int,
    *,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """One target and `count - 1` distinct uniform negatives a row, the target at a place that its row's stream chose.

    Args:
        catalogue_size: items are numbered 0 ... catalogue_size - 1.
        history: what each row's user has seen, never drawn; int32 item numbers, repeats allowed.
        targets: int [n_rows].
        keys: uint64 [n_rows], from `row_keys`.
        count: candidates a row, the target among them.
        groups: the number of each item's title, int [catalogue_size]; items that share the target's title are never
            drawn, since no text can tell them from it. By default every title is distinct.

    Returns:
        int64 [n_rows, count] item numbers.

    Raises:
        InputError: a row has fewer items left to draw from than it needs.
    """
    groups = np.arange(catalogue_size) if groups is None else np.asarray(groups)
    targets = np.asarray(targets, dtype=np.int64)
    _require_enough(catalogue_size, history, targets, count, groups)
    need = np.full(len(targets), count - 1)
    negatives, _ = _negatives(catalogue_size, history, targets, keys, need, count - 1, groups, None)
    place = _below(_mix((keys ^ _POSITION_STREAM) + _STEP), count)[:, None]
    column = np.arange(count - 1)
    out = np.empty((len(targets), count), dtype=np.int64)
    np.put_along_axis(out, column + (column >= place), negatives, axis=1)
    np.put_along_axis(out, place, targets[:, None], axis=1)
    return out


def draw_from_pool(
    pool: Pool, history: Ragged, targets: np.ndarray, keys: np.ndarray, count: int, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`draw_candidates` by a policy: negatives from the part of the pool that the target's item belongs to.

    Of a part that has fewer items to draw than a row needs, all are taken; elsewhere the first `PATIENCE` numbers a
    negative of the row's stream draw from the part. What is missing then is drawn uniformly from the whole catalogue.
    A set stands in the order of a hash of the row's key and each item: the order of drawing would say which negatives
    are more popular, or of the category.

    Args:
        pool: of `popularity_pool` or `category_pool`, over the catalogue.
        history, targets, keys, count, groups: as `draw_candidates` takes them.

    Returns:
        int64 [n_rows, count] item numbers, and how many negatives of each row were drawn uniformly, int32 [n_rows].

    Raises:
        InputError: a row has fewer items left to draw from than it needs.
    """
    size, targets = len(groups), np.asarray(targets, dtype=np.int64)
    _require_enough(size, history, targets, count, groups)
    out, filled = np.empty((len(targets), count), dtype=np.int64), np.zeros(len(targets), dtype=np.int32)
    out[:, -1] = targets
    scarce, taken = _scarce(pool, history, targets, count, groups)
    rows = np.flatnonzero(~scarce)
    need = np.full(len(rows), count - 1)
    out[rows, :-1], filled[rows] = _negatives(
        size, history.take(rows), targets[rows], keys[rows], need, count - 1, groups, pool
    )
    rows = np.flatnonzero(scarce)
    need, seen = count - 1 - taken.lengths, history.take(rows).join(taken)
    others, _ = _negatives(size, seen, targets[rows], keys[rows], need, count - 1, groups, None)
    is_other = np.arange(count - 1) < need[:, None]
    negatives = np.empty((len(rows), count - 1), dtype=np.int64)
    negatives[is_other], negatives[~is_other] = others[is_other], taken.values
    out[rows, :-1], filled[rows] = negatives, need
    order = np.argsort(_mix(keys[:, None] ^ _mix(out.astype(np.uint64) * _STEP + _STEP)), axis=1)
    return np.take_along_axis(out, order, axis=1), filled


def _scarce(
    pool: Pool, history: Ragged, targets: np.ndarray, count: int, groups: np.ndarray
) -> tuple[np.ndarray, Ragged]:
    """Which rows have fewer than `count - 1` items to draw in their part, bool [rows], and all those of these rows."""
    size, begin, length = len(groups), *pool.members(targets)
    alike = np.unique_counts(groups)
    at_most = history.lengths + alike.counts[np.searchsorted(alike.values, groups[targets])]
    small = np.flatnonzero(length - at_most < count - 1)
    item = pool.items[ranges(begin[small], begin[small] + length[small])]
    row = np.repeat(small, length[small])
    free = ~_contains(_sorted_pairs(history, size), row * size + item) & (groups[item] != groups[targets[row]])
    n_free = np.bincount(row[free], minlength=len(targets))
    scarce = np.zeros(len(targets), dtype=bool)
    scarce[small] = n_free[small] < count - 1
    return scarce, Ragged(item[free & scarce[row]].astype(np.int32), offsets_of(n_free[scarce]))


def _negatives(
    size: int, history: Ragged, targets: np.ndarray, keys: np.ndarray, need: np.ndarray, most: int,
    groups: np.ndarray, pool: Pool | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """As many negatives of each row as it needs, in the order of its stream, int64 [rows, most], and how many of them
    were drawn behind the pool's patience, int64 [rows]."""
    out, late = np.empty((len(targets), most), dtype=np.int64), np.zeros(len(targets), dtype=np.int64)
    todo, width = np.arange(len(targets)), 2 * most + 2
    while len(todo):  # rows that a stretch of the stream did not fill are drawn again from a longer one
        left = []
        for rows in np.array_split(todo, min(len(todo), -(-len(todo) * width // _CHUNK))):
            drawn = _numbers(size, targets[rows], keys[rows], width, PATIENCE * most, pool)
            rank = _ranks(size, history.take(rows), targets[rows], groups, drawn)
            at_row, at_draw = np.nonzero((rank > 0) & (rank <= need[rows, None]))
            out[rows[at_row], rank[at_row, at_draw] - 1] = drawn[at_row, at_draw]
            late[rows] = np.bincount(at_row[at_draw >= PATIENCE * most], minlength=len(rows))
            left.append(rows[rank.max(axis=1) < need[rows]])
        todo, width = np.concatenate(left), 2 * width
    return out, late if pool is not None else np.zeros_like(late)


def _numbers(
    size: int, targets: np.ndarray, keys: np.ndarray, width: int, patience: int, pool: Pool | None
) -> np.ndarray:
    """The items that the first `width` words of each row's stream stand for, int64 [rows, width]."""
    counters = np.arange(1, width + 1, dtype=np.uint64) * _STEP
    words = _mix(keys[:, None] + counters)
    if pool is None:
        return _below(words, size)
    begin, length = pool.stretch(targets)
    early = pool.at(begin[:, None] + _below(words[:, :patience], length[:, None]))
    return np.concatenate([early, _below(words[:, patience:], size)], axis=1)


def _ranks(size: int, history: Ragged, targets: np.ndarray, groups: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Which negative of its row each draw becomes, from 1 up; 0 for one that is refused. Shapes: [rows, draws]."""
    row = np.arange(len(drawn))[:, None]
    seen = _sorted_pairs(history, size)
    wanted = ~_contains(seen, row * size + drawn) & (groups[drawn] != groups[targets][:, None])
    order = np.argsort(drawn, axis=1, kind="stable")
    in_order = np.take_along_axis(drawn, order, axis=1)
    repeats = np.zeros_like(wanted)
    np.put_along_axis(repeats, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    wanted &= ~repeats
    return np.where(wanted, np.cumsum(wanted, axis=1), 0)


def _require_enough(size: int, history: Ragged, targets: np.ndarray, count: int, groups: np.ndarray) -> None:
    pairs = _sorted_pairs(history, size)
    row, item = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], size)
    other = groups[item] != groups[targets[row]]
    group_sizes = np.unique_counts(groups)
    same_title = group_sizes.counts[np.searchsorted(group_sizes.values, groups[targets])]
    free = size - same_title - np.bincount(row[other], minlength=len(targets))
    if len(free) and free.min() < count - 1:
        worst = int(free.argmin())
        raise InputError(
            f"row {worst}: {count} candidates need {count - 1} items outside the user's history, and {free[worst]} of "
            f"{size} are left after a history of {history.lengths[worst]} items and the items that share the target's "
            "title; ask for fewer candidates or bring more items"
        )


def _sorted_pairs(history: Ragged, size: int) -> np.ndarray:
    """Each (row, item) of the history as one number, row * size + item, sorted; faster here than `np.unique`."""
    return np.sort(np.repeat(np.arange(len(history)), history.lengths) * size + history.values)


def _contains(sorted_values: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(sorted_values):
        return np.zeros(values.shape, dtype=bool)
    at = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    return sorted_values[at] == values


def _below(words: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Random 64-bit words to integers below `limit`, by their upper 53 bits (bias below limit / 2**53)."""
    return ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 * limit).astype(np.int64)


def _mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), a bijection on 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
