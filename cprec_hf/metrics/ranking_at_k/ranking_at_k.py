"""Hit rate, NDCG, reciprocal rank and recall at k over rows of scored candidates, ties taken in expectation.

As a function of arrays:   ranking_at_k(scores, relevance, ks=[1, 5, 10])["hr@1"]      one value per row
As an `evaluate` module:   evaluate.load("path/to/ranking_at_k").compute(
                               predictions=scores, references=relevance, k=[1, 5, 10])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

_DESCRIPTION = """
Ranking metrics at several cut-offs k: hr (hit rate), ndcg, mrr (reciprocal rank of the first relevant candidate) and
recall, for one or more relevant candidates per row. Where candidates share a score, every order among them is equally
likely and the value is the exact expectation over those orders, so constant scores earn what chance earns.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: scores, rows of equal length (one row per user, one score per candidate; higher is better).
    references: relevance, rows of the same shape, not negative; 0 is irrelevant, at least one above 0 per row.
    k: cut-offs, each between 1 and the length of a row. Default [1, 5, 10].
Returns:
    hr@k, ndcg@k, mrr@k and recall@k for each k: means over the rows.
Examples:
    >>> metric = evaluate.load("ranking_at_k")
    >>> metric.compute(predictions=[[0.9, 0.5, 0.1]], references=[[0, 1, 0]], k=[1, 2])
    {'hr@1': 0.0, 'ndcg@1': 0.0, 'mrr@1': 0.0, 'recall@1': 0.0,
     'hr@2': 1.0, 'ndcg@2': 0.63093, 'mrr@2': 0.5, 'recall@2': 1.0}
"""

_CITATION = """
@article{jarvelin2002cumulated,
  title={Cumulated gain-based evaluation of IR techniques},
  author={J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal={ACM Transactions on Information Systems}, volume={20}, number={4}, pages={422--446}, year={2002}
}
@inproceedings{mcsherry2008computing,
  title={Computing information retrieval performance measures efficiently in the presence of tied scores},
  author={McSherry, Frank and Najork, Marc},
  booktitle={European Conference on Information Retrieval}, pages={414--421}, year={2008}
}
"""


def ranking_at_k(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, npt.NDArray[np.float64]]:
    """Per-row hr, ndcg, mrr and recall at each k; the expectation over all orders of tied candidates.

    With the candidates sorted by falling score, a group of n tied candidates fills positions s .. s+n-1. Then
    (McSherry and Najork 2008, the closed forms restated here):
      recall, ndcg  are linear: a candidate counts the mean of the cut-off or discount over its group's positions;
      hr            misses only if the m = k - s places left for the group that k cuts hold none of its r relevant
                    ones, with probability C(n-r, m) / C(n, m), and no group above has any;
      mrr           has its first relevant candidate at place j of its group with probability C(n-1-j, r-1) / C(n, r).

    Args:
        scores: [rows, candidates], higher is better; infinities are allowed and tie with each other.
        relevance: [rows, candidates], not negative; a candidate is relevant if above 0. ndcg's gain is the relevance
            itself (for 0/1 relevance the same as 2^relevance - 1), its discount 1 / log2(position + 1).
        ks: cut-offs, each between 1 and the number of candidates.

    Returns:
        `{"hr@1": float64 [rows], "ndcg@1": ..., "mrr@1": ..., "recall@1": ..., "hr@5": ...}`.

    Raises:
        ValueError: unequal shapes or row lengths, NaN scores, negative or missing relevance, a k out of range.
    """
    scores, relevance, ks = _checked(scores, relevance, ks)
    rows, width = scores.shape
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked, gains = np.take_along_axis(scores, order, 1), np.take_along_axis(relevance, order, 1)
    start, size = _tie_groups(ranked)
    relevant = gains > 0
    total = relevant.sum(axis=1)
    above = np.concatenate([np.zeros((rows, 1), np.int64), np.cumsum(relevant, axis=1)], axis=1)  # relevant before i
    inside = np.take_along_axis(above, start + size, 1) - np.take_along_axis(above, start, 1)  # relevant in i's group
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, width + 1)))])

    def choose(n: npt.NDArray[np.int64], r: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The log of the binomial coefficient; minus infinity where it is zero."""
        possible = (r >= 0) & (r <= n)
        n, r = np.where(possible, n, 0), np.where(possible, r, 0)
        return np.where(possible, log_factorial[n] - log_factorial[r] - log_factorial[n - r], -np.inf)

    # The group of the first relevant candidate, and where in it that candidate falls.
    first = relevant.argmax(axis=1)[:, None]
    s, n, r = (np.take_along_axis(a, first, 1) for a in (start, size, inside))
    place = np.arange(width)[None, :] - s
    log_chance = np.where(place >= 0, choose(n - 1 - place, r - 1) - choose(n, r), -np.inf)
    reciprocal = np.exp(log_chance) / np.arange(1, width + 1)

    discount = 1.0 / np.log2(np.arange(width) + 2)
    ideal = -np.sort(-relevance, axis=1)
    result: dict[str, npt.NDArray[np.float64]] = {}
    for k in ks:
        cut = slice(k - 1, k)  # the group that position k falls in
        left = k - start[:, cut]
        miss = np.exp(choose(size[:, cut] - inside[:, cut], left) - choose(size[:, cut], left))[:, 0]
        earlier = np.take_along_axis(above, start[:, cut], 1)[:, 0]
        result[f"hr@{k}"] = np.where(earlier > 0, 1.0, 1.0 - miss)
        summed = np.concatenate([[0.0], np.cumsum(np.where(np.arange(width) < k, discount, 0.0))])
        gain = (gains * (summed[start + size] - summed[start]) / size).sum(axis=1)
        result[f"ndcg@{k}"] = gain / (ideal[:, :k] @ discount[:k])
        result[f"mrr@{k}"] = reciprocal[:, :k].sum(axis=1)
        result[f"recall@{k}"] = (relevant * np.clip((k - start) / size, 0.0, 1.0)).sum(axis=1) / total
    return result


def _tie_groups(ranked: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For sorted scores [rows, n]: the first position of each one's tie group, and the size of the group."""
    rows, width = ranked.shape
    opens = np.ones((rows, width), bool)
    opens[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    place = np.broadcast_to(np.arange(width), (rows, width))
    start = np.maximum.accumulate(np.where(opens, place, 0), axis=1)
    closes = np.concatenate([opens[:, 1:], np.ones((rows, 1), bool)], axis=1)
    end = np.minimum.accumulate(np.where(closes, place + 1, width)[:, ::-1], axis=1)[:, ::-1]
    return start, end - start


def _checked(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, ks: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[int]]:
    """The inputs as float64 [rows, candidates] arrays and a list of ints, or a ValueError that says what is wrong."""
    s, r = _matrix(scores, "scores (predictions)"), _matrix(relevance, "relevance (references)")
    if s.shape != r.shape:
        raise ValueError(
            f"scores are {s.shape[0]} x {s.shape[1]} and relevance {r.shape[0]} x {r.shape[1]}; give both one shape"
        )
    if np.isnan(s).any():
        row, column = np.argwhere(np.isnan(s))[0]
        raise ValueError(f"the score at row {row}, candidate {column} is NaN; NaN has no rank")
    wrong = ~np.isfinite(r) | (r < 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"the relevance at row {row}, candidate {column} is {r[row, column]}; it must be a number from 0 up"
        )
    empty = ~(r > 0).any(axis=1)
    if empty.any():
        raise ValueError(f"row {int(empty.argmax())} has no relevant candidate; ndcg and recall are undefined there")
    ks = [ks] if isinstance(ks, int) else list(ks)
    for k in ks:
        if not 1 <= k <= s.shape[1]:
            raise ValueError(f"k = {k} with rows of {s.shape[1]} candidates; choose k from 1 to {s.shape[1]}")
    return s, r, ks


def _matrix(values: npt.ArrayLike, name: str) -> npt.NDArray[np.float64]:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{name}: rows of unequal length or values that are not numbers ({error})") from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}; expected [rows, candidates] with at least one of each")
    return matrix


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RankingAtK(evaluate.Metric):
    """hr, ndcg, mrr and recall at k as an `evaluate` metric; see `ranking_at_k`."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions: Any, references: Any, k: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
        per_row = ranking_at_k(predictions, references, ks=k)
        return {name: float(values.mean()) for name, values in per_row.items()}
