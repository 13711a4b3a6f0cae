"""Hit rate, recall, precision, NDCG, reciprocal rank and average precision at k of scored items, ties in expectation.

As a function of arrays:   ranking_at_k(scores, relevance, ks=[1, 5, 10])["hr@1"]      one value per row
By group:                  group_means(per_row, {"domain": labels})["domain"]["Books"]["hr@1"]
As an `evaluate` module:   evaluate.load("path/to/ranking_at_k").compute(
                               predictions=scores, references=relevance, k=[1, 5, 10], groups={"domain": labels})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt

_DESCRIPTION = """
Ranking metrics at several cut-offs k: hr (hit rate), recall, precision, ndcg, mrr (reciprocal rank of the first
relevant item) and map (average precision), for one or more relevant items per row. Where items share a score, every
order among them is equally likely and the value is the exact expectation over those orders, so constant scores earn
what chance earns. Items are ranked, not titles: two candidates with one title are two candidates.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: scores, rows of equal length (one row per user, one score per candidate item; higher is better).
    references: relevance, rows of the same shape, not negative; 0 is irrelevant, at least one above 0 per row.
    k: cut-offs, each between 1 and the length of a row. Default [1, 5, 10].
    metrics: which of hr, recall, precision, ndcg, mrr and map. Default all.
    groups: a label per row for each of several names, for example {"domain": [...], "history": [...]}. Default none.
Returns:
    hr@k, recall@k, precision@k, ndcg@k, mrr@k and map@k for each k: means over the rows. With `groups` also "groups",
    a dict by name and label of the means over the label's rows and their number, "rows".
Examples:
    >>> metric = evaluate.load("ranking_at_k")
    >>> metric.compute(predictions=[[0.9, 0.5, 0.1]], references=[[0, 1, 0]], k=[2], metrics=["hr", "ndcg", "mrr"])
    {'hr@2': 1.0, 'ndcg@2': 0.6309297535714575, 'mrr@2': 0.5}
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

METRICS = ("hr", "recall", "precision", "ndcg", "mrr", "map")
_CELLS = 1 << 19  # scores looked at in one go, so that they stay in the processor's cache
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ranking_at_k(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, ks: Sequence[int] = (1, 5, 10), metrics: Sequence[str] = METRICS
) -> dict[str, Floats]:
    """Per-row metrics at each k; the expectation over all orders of tied candidates.

    With the candidates sorted by falling score, a group of n tied candidates, r of them relevant, fills the places
    s+1 .. s+n, below a relevant ones. Then (McSherry and Najork 2008, the closed forms restated here):
      recall, precision and ndcg are linear: a candidate counts the mean, over its group's places, of the cut-off or
             discount;
      map    a relevant candidate counts the sum over its group's places p <= k of (1 + a + (p-s-1) (r-1) / (n-1)) / p,
             the relevant ones to be expected down to p, over p; divided by n;
      hr     misses only if the m = k - s places left for the first group with a relevant candidate hold none of its
             r, with probability C(n-r, m) / C(n, m);
      mrr    has its first relevant candidate at place s+1+j with probability C(n-1-j, r-1) / C(n, r).
    So only relevant candidates that may come in the first max(ks) places count, and the sizes of their groups.

    Args:
        scores: [rows, candidates], higher is better; infinities are allowed and tie with each other. Compared in their
            own precision.
        relevance: [rows, candidates], not negative; a candidate is relevant if above 0. ndcg's gain is the relevance
            itself (for 0/1 relevance the same as 2^relevance - 1), its discount 1 / log2(place + 1).
        ks: cut-offs, each between 1 and the number of candidates.
        metrics: names out of `METRICS`.

    Returns:
        `{"hr@1": float64 [rows], "recall@1": ..., ..., "hr@5": ...}`.

    Raises:
        ValueError: unequal shapes or row lengths, NaN scores, negative or missing relevance, a k out of range, an
            unknown metric.
    """
    table, judged = _matrix(scores, "scores (predictions)"), _matrix(relevance, "relevance (references)")
    rows, width = table.shape
    if judged.shape != table.shape:
        raise ValueError(
            f"scores are {rows} x {width} and relevance {judged.shape[0]} x {judged.shape[1]}; give both one shape"
        )
    ks = [ks] if isinstance(ks, int) else list(ks)
    for k in ks:
        if not 1 <= k <= width:
            raise ValueError(f"k = {k} with rows of {width} candidates; choose k from 1 to {width}")
    if set(metrics) - set(METRICS):
        raise ValueError(f"metrics {', '.join(metrics)}; choose from {', '.join(METRICS)}")
    found = {f"{metric}@{k}": np.empty(rows) for k in ks for metric in metrics}
    step = max(1, _CELLS // width)
    for at in range(0, rows, step):
        part, flat = table[at : at + step], judged[at : at + step].ravel()
        if np.isnan(part).any():
            row, column = np.argwhere(np.isnan(part))[0]
            raise ValueError(f"the score at row {at + row}, candidate {column} is NaN; NaN has no rank")
        where = np.flatnonzero(flat != 0)
        gain, row, column = flat[where].astype(np.float64), where // width, where % width
        wrong = ~(np.isfinite(gain) & (gain > 0))
        if wrong.any():
            first = int(wrong.argmax())
            value = f"row {at + row[first]}, candidate {column[first]} is {gain[first]}"
            raise ValueError(f"the relevance at {value}; it must be a number from 0 up")
        if (empty := np.bincount(row, minlength=len(part)) == 0).any():
            raise ValueError(f"row {at + int(empty.argmax())} has no relevant candidate; its metrics are undefined")
        values = _Relevant(part, row, column, gain, max(ks))
        for k in ks:
            for metric in metrics:
                found[f"{metric}@{k}"][at : at + step] = getattr(values, metric)(k)
    return found


def group_means(per_row: Mapping[str, Floats], groups: Mapping[str, npt.ArrayLike]) -> dict[str, dict[str, Any]]:
    """Means over the rows of each label, by the name of the grouping and the label, in the labels' order.

    Args:
        per_row: values [rows] by metric.
        groups: labels [rows] by name.

    Returns:
        `{"domain": {"Books": {"rows": 3, "hr@1": 0.5, ...}, ...}, ...}`; labels as text.

    Raises:
        ValueError: not one label per row.
    """
    found: dict[str, dict[str, Any]] = {}
    rows = len(next(iter(per_row.values())))
    for name, labels in groups.items():
        distinct, of = np.unique(np.asarray(labels), return_inverse=True)
        if of.shape != (rows,):
            raise ValueError(f"groups: {name!r} has labels of shape {of.shape} for {rows} rows; give one per row")
        sizes = np.bincount(of)
        means = {metric: np.bincount(of, values) / sizes for metric, values in per_row.items()}
        found[name] = {
            str(label): {"rows": int(sizes[i]), **{metric: float(mean[i]) for metric, mean in means.items()}}
            for i, label in enumerate(distinct)
        }
    return found


def _near(scores: npt.NDArray[Any], row: Ints, column: Ints, most: int) -> tuple[Ints, Ints, Ints]:
    """Of the candidates of a block of scores [rows, width] those with fewer than `most` above their group of ties.

    Returns:
        Which they are, how many candidates stand above their group, and the group's size.
    """
    mine, (rows, width) = scores[row, column], scores.shape
    if len(row) == rows:  # one a row
        above = (scores > mine[:, None]).sum(axis=1)
        near = np.flatnonzero(above < most)
        return near, above[near], ((scores >= mine[:, None]).sum(axis=1) - above)[near]
    best = np.sort(np.partition(scores, width - most, axis=1)[:, width - most :], axis=1)
    at_last = (scores == best[:, :1]).sum(axis=1)  # ties at the last place go on behind it
    near = np.flatnonzero(mine >= best[row, 0])
    row, mine = row[near], mine[near]
    ends = []
    for below in (np.less_equal, np.less):  # bisection, of all candidates at once
        low, high = np.zeros(len(row), np.int64), np.full(len(row), most)
        for _ in range(most.bit_length()):
            middle = (low + high) // 2
            right = (low < high) & below(best[row, np.minimum(middle, most - 1)], mine)
            low, high = np.where(right, middle + 1, low), np.where(right, high, middle)
        ends.append(low)
    return near, most - ends[0], np.where(ends[1] == 0, at_last[row], ends[0] - ends[1])


class _Relevant:
    """What the metrics need of a block of rows: the relevant candidates that may come in the first `most` places.

    Each metric's method takes a k up to `most` and gives float64 [rows].
    """

    def __init__(self, scores: npt.NDArray[Any], row: Ints, column: Ints, gain: Floats, most: int) -> None:
        self.rows, width = scores.shape
        self.total = np.bincount(row)
        place = np.arange(width + 1)
        self.discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(place[:-1] + 2))])  # summed before a place
        self.harmonic = np.concatenate([[0.0], np.cumsum(1 / place[1:])])
        self.log_factorial = np.concatenate([[0.0], np.cumsum(np.log(place[1:]))])
        self.gain_of_all = float(gain[0]) if (gain == gain[0]).all() else None
        if self.gain_of_all is None:
            best = np.zeros((self.rows, most))
            falling = np.lexsort((-gain, row))
            rank = np.arange(len(row)) - (np.cumsum(self.total) - self.total)[row]
            best[row[rank < most], rank[rank < most]] = gain[falling[rank < most]]
            self.ideal = np.cumsum(best * np.diff(self.discount[: most + 1]), axis=1)

        near, start, size = _near(scores, row, column, most)
        order = np.argsort(row[near] * width + start, kind="stable")
        self.row, self.gain, self.start, self.size = row[near][order], gain[near][order], start[order], size[order]
        of_row = np.diff(self.row, prepend=-1) != 0
        first = np.flatnonzero(of_row)
        begin = np.flatnonzero(of_row | (np.diff(self.start, prepend=-1) != 0))
        inside = np.diff(begin, append=len(near))
        self.inside = np.repeat(inside, inside)  # relevant ones in each one's group
        self.above = np.repeat(begin, inside) - np.repeat(first, np.diff(first, append=len(near)))  # and above it
        self.lead = self.row[first], self.start[first], self.size[first], self.inside[first]

    def hr(self, k: int) -> Floats:
        row, s, n, r = self.lead
        left = np.clip(k - s, 0, n)
        return self._per_row(1 - np.exp(self._choose(n - r, left) - self._choose(n, left)), row)

    def mrr(self, k: int) -> Floats:
        row, s, n, r = self.lead
        value = np.where(s < k, 1 / (s + 1), 0.0)
        tied = np.flatnonzero(n > 1)
        s, n, r = s[tied, None], n[tied, None], r[tied, None]
        place = np.arange(k)  # within the group
        chance = np.exp(self._choose(n - 1 - place, r - 1) - self._choose(n, r))
        value[tied] = (np.where(s + place < k, chance, 0.0) / (s + place + 1)).sum(axis=1)
        return self._per_row(value, row)

    def recall(self, k: int) -> Floats:
        return self._per_row(np.clip((k - self.start) / self.size, 0.0, 1.0)) / self.total

    def precision(self, k: int) -> Floats:
        return self._per_row(np.clip((k - self.start) / self.size, 0.0, 1.0)) / k

    def ndcg(self, k: int) -> Floats:
        end, start = np.minimum(self.start + self.size, k), np.minimum(self.start, k)
        gain = self.gain * (self.discount[end] - self.discount[start]) / self.size
        if self.gain_of_all is None:
            return self._per_row(gain) / self.ideal[:, k - 1]
        return self._per_row(gain) / (self.gain_of_all * self.discount[np.minimum(self.total, k)])

    def map(self, k: int) -> Floats:
        end, start = np.minimum(self.start + self.size, k), np.minimum(self.start, k)
        rise = (self.inside - 1) / np.maximum(self.size - 1, 1)  # more relevant ones to be expected with every place
        level = 1 + self.above - (self.start + 1) * rise
        summed = rise * (end - start) + level * (self.harmonic[end] - self.harmonic[start])
        return self._per_row(summed / self.size) / self.total

    def _per_row(self, values: Floats, row: Ints | None = None) -> Floats:
        return np.asarray(np.bincount(self.row if row is None else row, values, self.rows), np.float64)

    def _choose(self, n: Ints, r: Ints) -> Floats:
        """The log of the binomial coefficient; minus infinity where it is zero."""
        possible = (r >= 0) & (r <= n)
        n, r = np.where(possible, n, 0), np.where(possible, r, 0)
        logs = self.log_factorial
        return np.where(possible, logs[n] - logs[r] - logs[n - r], -np.inf)


def _matrix(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    try:
        matrix = np.asarray(values)
        if matrix.dtype.kind not in "fb":
            matrix = matrix.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: rows of unequal length or values that are not numbers ({error})") from None
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} has shape {matrix.shape}; expected [rows, candidates] with at least one of each")
    return matrix


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RankingAtK(evaluate.Metric):
    """hr, recall, precision, ndcg, mrr and map at k as an `evaluate` metric; see `ranking_at_k`."""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        k: Sequence[int] = (1, 5, 10),
        metrics: Sequence[str] = METRICS,
        groups: Mapping[str, Sequence[Any]] | None = None,
    ) -> dict[str, Any]:
        per_row = ranking_at_k(predictions, references, k, metrics)
        means: dict[str, Any] = {name: float(values.mean()) for name, values in per_row.items()}
        return {**means, "groups": group_means(per_row, groups)} if groups else means
