"""Candidate sets drawn once: a target among uniform negatives, from a random stream that never sees the target.

Each row owns a counter-based stream keyed by (dataset, split, user id, example index), so its candidates depend on no
other row, on no order and on no engine. Items are drawn from the stream one by one and refused if they stand in the
history, repeat, or are the target or carry its title. The target only refuses, it never seeds: candidates seeded by
the target let a look-up of the list alone find it (HR@1 0.548 on a published test file). 20 candidates, 19 uniform
negatives outside the history, is the usual protocol of this line of work; the generator (splitmix64) is our choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError

_STEP = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's increment: the golden ratio
_POSITION_STREAM = np.uint64(0xD1B54A32D192ED03)  # sets the target's place apart from the draws
_CHUNK = 1 << 21  # draws held at once


def row_keys(dataset: str, split: str, user_ids: Sequence[str] | pa.Array, example_index: np.ndarray) -> np.ndarray:
    """The key of each row's stream.

    Args:
        dataset: the corpus' name and the domain, however the caller writes them.
        split: the split's name.
        user_ids: one id a row, repeats allowed. Give the ids that are published (pseudonyms): anyone can then redraw
            the candidates, and nobody can test a guess of the original id against them.
        example_index: a number that sets the rows of one user apart, int [n_rows].

    Returns:
        uint64 [n_rows].
    """
    column = user_ids if isinstance(user_ids, pa.Array) else pa.array(user_ids, pa.string())
    users = column.dictionary_encode()
    digests = b"".join(
        hashlib.blake2b("\0".join((dataset, split, user)).encode(), digest_size=8).digest()
        for user in users.dictionary.to_pylist()
    )
    of_user = np.frombuffer(digests, dtype="<u8")[np.asarray(users.indices)]
    return _mix(of_user ^ _mix(np.asarray(example_index).astype(np.uint64) * _STEP + _STEP))


def draw_candidates(
    catalogue_size: int,
    history: Ragged,
    targets: np.ndarray,
    keys: np.ndarray,
    count: int,
    *,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """One target and `count - 1` distinct negatives a row, the target at a place that its row's stream chose.

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
    out = np.empty((len(targets), count), dtype=np.int64)
    todo, width = np.arange(len(targets)), 2 * count
    while len(todo):  # rows that a stretch of the stream did not fill are drawn again from a longer one
        left = []
        for rows in np.array_split(todo, min(len(todo), -(-len(todo) * width // _CHUNK))):
            chosen, filled = _draw(catalogue_size, history.take(rows), targets[rows], keys[rows], count, groups, width)
            out[rows[filled]] = chosen[filled]
            left.append(rows[~filled])
        todo, width = np.concatenate(left), 2 * width
    return out


def _draw(
    size: int, history: Ragged, targets: np.ndarray, keys: np.ndarray, count: int, groups: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates from the first `width` draws of each row's stream, and which rows those were enough for."""
    n = len(targets)
    counters = np.arange(1, width + 1, dtype=np.uint64) * _STEP
    drawn = _below(_mix(keys[:, None] + counters), size)
    row = np.arange(n)[:, None]
    seen = _sorted_pairs(history, size)
    wanted = ~_contains(seen, row * size + drawn) & (groups[drawn] != groups[targets][:, None])
    order = np.argsort(drawn, axis=1, kind="stable")
    in_order = np.take_along_axis(drawn, order, axis=1)
    repeats = np.zeros_like(wanted)
    np.put_along_axis(repeats, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
    wanted &= ~repeats
    rank = np.cumsum(wanted, axis=1)
    place = _below(_mix((keys ^ _POSITION_STREAM) + _STEP), count)[:, None]
    chosen = np.empty((n, count), dtype=np.int64)
    at_row, at_draw = np.nonzero(wanted & (rank < count))
    slot = rank[at_row, at_draw] - 1
    chosen[at_row, slot + (slot >= place[at_row, 0])] = drawn[at_row, at_draw]
    np.put_along_axis(chosen, place, targets[:, None], axis=1)
    return chosen, rank[:, -1] >= count - 1


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


def _below(words: np.ndarray, limit: int) -> np.ndarray:
    """Random 64-bit words to integers below `limit`, by their upper 53 bits (bias below limit / 2**53)."""
    return ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53 * limit).astype(np.int64)


def _mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), a bijection on 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
