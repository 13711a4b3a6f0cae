"""The candidate-list memoriser: a lookup from a candidate set to the target it came with. It knows no history.

If candidates were drawn by an RNG seeded with the target, the set gives the target away: on one published test file
such a lookup reaches HR@1 0.548. On uniform candidates it is at chance, 1 / count. Sets by popularity or of a small
category come again with other targets, and popular items are likelier among these, so there the lookup is compared with
one that counts how often each candidate was a target, of any set: it knows as much of what is popular, and nothing of
sets. It stands in the audit of every corpus, and evaluation may report it as a method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cprec_hf.errors import InputError

_CHUNK = 1 << 17  # rows scored at once: bounds the memory that takes


@dataclass(frozen=True)
class MemoriserResult:
    """How the lookup did on rows it had not seen."""

    rows: int
    recognised: int
    """Rows whose candidate set it had seen before; in all others it guesses."""
    hits: float
    """Expected hits among the recognised rows, ties between equally frequent targets broken at random."""
    counting_hits: float
    """Expected hits among the recognised rows of the lookup that counts targets and knows no sets."""
    wins: float
    """By how much the memoriser was ahead of it, summed over the rows where it was."""
    count: int
    """Candidates a row."""

    @property
    def hit_rate(self) -> float:
        """HR@1 over all rows; a row it does not recognise counts 1 / count."""
        return (self.hits + (self.rows - self.recognised) / self.count) / max(self.rows, 1)

    @property
    def counting_hit_rate(self) -> float:
        """HR@1 over all rows of the lookup that counts targets; a row that is not recognised counts 1 / count."""
        return (self.counting_hits + (self.rows - self.recognised) / self.count) / max(self.rows, 1)

    @property
    def p_value_of_counting(self) -> float:
        """One-sided sign test: so many rows on which the memoriser is ahead of counting, if both were as good."""
        from scipy.stats import binom

        losses = self.wins - (self.hits - self.counting_hits)
        wins = np.floor(self.wins)
        return float(binom.sf(wins - 1, wins + np.ceil(losses), 0.5))

    @property
    def p_value(self) -> float:
        """Probability of so many hits, or more, if every recognised row were a guess (one-sided binomial)."""
        from scipy.stats import binom

        return float(binom.sf(np.ceil(self.hits) - 1, self.recognised, 1 / self.count))


def memoriser_scores(
    known_candidates: Sequence[Sequence[str]], known_targets: Sequence[str], candidates: Sequence[Sequence[str]]
) -> np.ndarray:
    """How often each candidate was the target of a known row with the very same candidate set, in any order.

    Args:
        known_candidates: item ids of the rows learnt from [known][count].
        known_targets: their targets [known].
        candidates: item ids of the rows to score [rows][count].

    Returns:
        float32 [rows, count]; a row whose set is unknown is all zero.

    Raises:
        InputError: rows of different numbers of candidates.
    """
    known, asked, targets = _codes(known_candidates, candidates, known_targets)
    return _scores(known, targets, asked, _same_sets(np.concatenate([known, asked])))


def memoriser_hit_rate(
    known_candidates: Sequence[Sequence[str]],
    known_targets: Sequence[str],
    candidates: Sequence[Sequence[str]],
    targets: Sequence[str],
) -> MemoriserResult:
    """Learn the lookup on one set of rows and count its hits on another.

    Args:
        known_candidates, known_targets: the rows learnt from, such as the validation split.
        candidates, targets: the rows to answer, such as the test split.

    Raises:
        InputError: rows of different numbers of candidates.
    """
    known, asked, codes = _codes(known_candidates, candidates, [*known_targets, *targets])
    return hit_rate_of_numbers(known, codes[: len(known)], asked, codes[len(known) :])


def hit_rate_of_numbers(
    known: np.ndarray, known_targets: np.ndarray, asked: np.ndarray, targets: np.ndarray
) -> MemoriserResult:
    """`memoriser_hit_rate` of items given by their numbers, none of them negative.

    Args:
        known, known_targets: int [known, count] and [known].
        asked, targets: int [rows, count] and [rows].
    """
    sets = _same_sets(np.concatenate([known, asked]))
    times = np.bincount(known_targets, minlength=int(asked.max(initial=-1)) + 1)
    seen = np.flatnonzero(np.isin(sets[len(known) :], np.unique(sets[: len(known)])))  # all others are guesses
    found = MemoriserResult(len(asked), 0, 0.0, 0.0, 0.0, asked.shape[1])
    for begin in range(0, len(seen), _CHUNK):
        rows = seen[begin : begin + _CHUNK]
        scores = _scores(known, known_targets, asked[rows], np.append(sets[: len(known)], sets[len(known) + rows]))
        known_set = scores.max(axis=1) > 0  # a set whose targets were none of it tells nothing
        is_target = (asked[rows] == targets[rows][:, None])[known_set]
        hits = _expected_hits(scores[known_set], is_target)
        counting = _expected_hits(times[asked[rows]][known_set], is_target)
        found = replace(
            found,
            recognised=found.recognised + int(known_set.sum()),
            hits=found.hits + float(hits.sum()),
            counting_hits=found.counting_hits + float(counting.sum()),
            wins=found.wins + float(np.maximum(hits - counting, 0).sum()),
        )
    return found


def _expected_hits(scores: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """The chance that a row's target is taken, of those with the highest score. Both [rows, count] -> [rows]."""
    best = scores == scores.max(axis=1, keepdims=True, initial=0)
    return (is_target & best).any(axis=1) / np.maximum(best.sum(axis=1), 1)


def _scores(known: np.ndarray, targets: np.ndarray, asked: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """`memoriser_scores` of numbers; `sets` numbers the set of each row, those of `known` first."""
    n_items = int(max(asked.max(initial=0), targets.max(initial=0))) + 1
    learnt, times = np.unique(sets[: len(known)] * n_items + targets, return_counts=True)
    wanted = sets[len(known) :, None] * n_items + asked
    if not len(learnt):
        return np.zeros(wanted.shape, dtype=np.float32)
    at = np.minimum(np.searchsorted(learnt, wanted), len(learnt) - 1)
    return np.where(learnt[at] == wanted, times[at], 0).astype(np.float32)


def _same_sets(rows: np.ndarray) -> np.ndarray:
    """A number for each row [rows, count] of items, equal for the rows that hold the same ones; int64 [rows].

    Rows are told apart by a hash, the sum of a random word an item, and those it finds equal are compared.
    """
    words = np.random.default_rng(0).integers(0, 1 << 64, int(rows.max(initial=0)) + 1, dtype=np.uint64, endpoint=False)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        hashes += words[column]
    _, first, sets, times = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(times[sets] > 1)
    same = np.sort(rows[shared], axis=1) == np.sort(rows[first[sets[shared]]], axis=1)
    if same.all():
        return sets.reshape(-1).astype(np.int64)
    return np.unique(np.sort(rows, axis=1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _codes(
    first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], targets: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Item ids as int64 codes: two tables of candidates [rows, count] and the targets [rows]."""
    parts = [_flat(first), _flat(second), pa.array(targets, pa.string())]
    codes = pa.concat_arrays(parts).dictionary_encode().indices.to_numpy().astype(np.int64)
    n, m = len(parts[0]), len(parts[0]) + len(parts[1])
    widths = {len(part) // rows for part, rows in ((parts[0], len(first)), (parts[1], len(second))) if rows}
    if len(widths) > 1:
        raise InputError(f"candidate lists have different lengths: {sorted(widths)}")
    width = max(widths, default=1)
    return codes[:n].reshape(-1, width), codes[n:m].reshape(-1, width), codes[m:]


def _flat(lists: Sequence[Sequence[str]]) -> pa.Array:
    column = pa.array(lists, pa.list_(pa.string()))
    lengths = np.diff(np.asarray(column.offsets))
    if len(set(lengths.tolist())) > 1:
        raise InputError(f"candidate lists have different lengths: {sorted(set(lengths.tolist()))}")
    return column.flatten()
