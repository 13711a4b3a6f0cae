"""The candidate-list memoriser: a lookup from a candidate set to the target it came with. It knows no history.

If candidates were drawn by an RNG seeded with the target, the set gives the target away: on one published test file
such a lookup reaches HR@1 0.548. On candidates drawn independently of the target it is at chance, 1 / count. It stands
in the audit of every corpus, and evaluation may report it as a method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cprec_hf.errors import InputError


@dataclass(frozen=True)
class MemoriserResult:
    """How the lookup did on rows it had not seen."""

    rows: int
    recognised: int
    """Rows whose candidate set it had seen before; in all others it guesses."""
    hits: float
    """Expected hits among the recognised rows, ties between equally frequent targets broken at random."""
    count: int
    """Candidates a row."""

    @property
    def hit_rate(self) -> float:
        """HR@1 over all rows; a row it does not recognise counts 1 / count."""
        return (self.hits + (self.rows - self.recognised) / self.count) / max(self.rows, 1)

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
    sets = np.concatenate([np.sort(known, axis=1), np.sort(asked, axis=1)])
    _, key = np.unique(sets, axis=0, return_inverse=True)
    key = key.reshape(-1)
    n_items = int(max(sets.max(initial=0), targets.max(initial=0))) + 1
    learnt, times = np.unique(key[: len(known)] * n_items + targets, return_counts=True)
    wanted = key[len(known) :, None] * n_items + asked
    if not len(learnt):
        return np.zeros(wanted.shape, dtype=np.float32)
    at = np.minimum(np.searchsorted(learnt, wanted), len(learnt) - 1)
    return np.where(learnt[at] == wanted, times[at], 0).astype(np.float32)


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
    scores = memoriser_scores(known_candidates, known_targets, candidates)
    asked, wanted = _codes(candidates, [], targets)[::2]
    best = scores == scores.max(axis=1, keepdims=True, initial=0)
    recognised = scores.max(axis=1, initial=0) > 0
    share = ((asked == wanted[:, None]) & best).any(axis=1) / np.maximum(best.sum(axis=1), 1)
    return MemoriserResult(len(scores), int(recognised.sum()), float(share[recognised].sum()), scores.shape[1])


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
