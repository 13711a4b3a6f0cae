"""The lists that a method's scores make, and what they are like beside being right (`metrics/beyond_accuracy`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from cprec_hf.evaluation.rows import Rows
from cprec_hf.metrics.beyond_accuracy.beyond_accuracy import (
    coverage,
    gini,
    intra_list_diversity,
    novelty,
    popularity_lift,
)


def top_items(scores: np.ndarray, candidates: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Item codes of each row's `k` best, best first; the order of equals is drawn, or their places would decide.

    Shapes: scores and candidates [rows, candidates] -> int64 [rows, k].
    """
    order = np.lexsort((rng.random(scores.shape), -scores), axis=1)[:, :k]
    return np.take_along_axis(candidates, order, axis=1)


def list_figures(
    lists: np.ndarray, rows: Rows, popularity: np.ndarray, words: sparse.csr_array, ks: Sequence[int]
) -> dict[str, dict[str, float | None]]:
    """What lists cut at each k are like.

    Args:
        lists: item codes, best first [rows, max(ks)].
        rows: the rows they were made for.
        popularity: training users of each item [items].
        words: of the items' titles [items, words], in which diversity is measured.
        ks: cut-offs.

    Returns:
        By k as text: coverage, gini, novelty (bits, users counting once each), intra_list_diversity (None at k = 1) and
        popularity_lift (None where no history has an item of the training data).
    """
    n_items, past = len(popularity), rows.histories
    owners = np.repeat(np.arange(len(rows)), past.lengths)
    had, owners = np.flatnonzero(past.lengths), np.cumsum(past.lengths > 0)[owners] - 1
    lifted = bool(popularity[past.values].any())
    bags = words.sign().tocsr()
    found: dict[str, dict[str, float | None]] = {}
    for k in ks:
        cut = lists[:, :k]
        diverse = float(rows.per_user(intra_list_diversity(cut, bags)).mean()) if k > 1 else None
        found[str(k)] = {
            "coverage": coverage(cut, n_items),
            "gini": gini(cut, n_items),
            "novelty": float(rows.per_user(novelty(cut, popularity)).mean()),
            "intra_list_diversity": diverse,
            "popularity_lift": popularity_lift(cut[had], past.values, owners, popularity) if lifted else None,
        }
    return found
