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
@article{jarvelin2002cumulated, title={Cumulated gain-based evaluation of IR techniques},
  author={J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal={ACM Transactions on Information Systems}, volume={20}, number={4}, pages={422--446}, year={2002}}
@inproceedings{mcsherry2008computing, author={McSherry, Frank and Najork, Marc},
  title={Computing information retrieval performance measures efficiently in the presence of tied scores},
  booktitle={European Conference on Information Retrieval}, pages={414--421}, year={2008}}
"""

METRICS = ("hr", "recall", "precision", "ndcg", "mrr", "map")
_CELLS = 1 << 20  # scores looked at in one go, so that they stay in the processor's cache
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ranking_at_k(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, ks: Sequence[int] = (1, 5, 10), metrics: Sequence[str] = METRICS
) -> dict[str, Floats]:
    """Per-row metrics at each k; the expectation over all orders of tied candidates.

    With the candidates sorted by falling score, a group of n tied candidates, r of them relevant, fills the places
    s+1 .. s+n, below a relevant ones. Then (McSherry and Najork 2008, the closed forms restated here):
      recall, precision, ndcg  take the mean, over the places of a candidate's group, of its cut-off or discount;
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
        ValueError: unequal shapes or lengths, NaN scores, negative or missing relevance, a k or metric there is not.
    """
    table, judged = _matrix(scores, "scores (predictions)", "f"), _matrix(relevance, "relevance (references)", "fiub")
    rows, width = table.shape
    if judged.shape != table.shape:
        n, m = judged.shape
        raise ValueError(f"scores are {rows} x {width} and relevance {n} x {m}; give both one shape")
    ks = [ks] if isinstance(ks, int) else list(ks)
    for k in ks:
        if not 1 <= k <= width:
            raise ValueError(f"k = {k} with rows of {width} candidates; choose k from 1 to {width}")
    if set(metrics) - set(METRICS):
        raise ValueError(f"metrics {', '.join(metrics)}; choose from {', '.join(METRICS)}")
    found = {f"{metric}@{k}": np.empty(rows) for k in ks for metric in metrics}
    step = max(1, _CELLS // width)
    for at in range(0, rows, step):
        block = _Block(table[at : at + step], judged[at : at + step], max(ks), at)
        for k in ks:
            for metric in metrics:
                found[f"{metric}@{k}"][at : at + step] = getattr(block, metric)(k)
    return found


def group_means(per_row: Mapping[str, Floats], groups: Mapping[str, npt.ArrayLike]) -> dict[str, dict[str, Any]]:
    """Means of `per_row`, values [rows] by metric, over the rows of each label of `groups`, labels [rows] by name.

    Returns:
        `{"domain": {"Books": {"rows": 3, "hr@1": 0.5, ...}, ...}, ...}`; labels as text, in their order.

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


class _Block:
    """The relevant candidates of a block that may come in the first `most` places; each metric: k -> float64 [rows]."""

    def __init__(self, scores: npt.NDArray[Any], relevance: npt.NDArray[Any], most: int, at: int) -> None:
        self.rows, width = scores.shape
        relevant = relevance != 0
        self.total = _count(relevant)
        _refuse(scores, relevance, self.total, at)
        place = np.arange(width + 1)
        self.discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(place[:-1] + 2))])  # summed before a place
        self.harmonic = np.concatenate([[0.0], np.cumsum(1 / place[1:])])
        self.log_factorial = np.concatenate([[0.0], np.cumsum(np.log(place[1:]))])
        where, start, size = _near(scores, relevant, most)
        single = self.rows == self.total.sum()
        order = np.arange(len(where)) if single else np.argsort(where // width * width + start, kind="stable")
        where, row, start, size = where[order], where[order] // width, start[order], size[order]
        self.binary = bool(single or np.count_nonzero(relevance == relevance.max()) == self.total.sum())  # or all alike
        if not self.binary:
            best = _largest(relevance, most)[:, ::-1]
            self.ideal = np.cumsum(best * np.diff(self.discount[: most + 1]), axis=1)
            self.gain = relevance.ravel()[where].astype(np.float64)
        self.row, self.start, self.size = row, start, size
        of_row = np.diff(row, prepend=-1) != 0
        first = np.flatnonzero(of_row)
        begin = np.flatnonzero(of_row | (np.diff(start, prepend=-1) != 0))
        inside = np.diff(begin, append=len(row))
        self.inside = np.repeat(inside, inside)  # relevant ones in each one's group
        self.above = np.repeat(begin, inside) - np.repeat(first, np.diff(first, append=len(row)))  # and above it
        self.lead = row[first], start[first], size[first], self.inside[first]

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
        discount = (self.discount[end] - self.discount[start]) / self.size
        if self.binary:
            return self._per_row(discount) / self.discount[np.minimum(self.total, k)]
        return self._per_row(self.gain * discount) / self.ideal[:, k - 1]

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


def _near(scores: npt.NDArray[Any], relevant: npt.NDArray[np.bool_], most: int) -> tuple[Ints, Ints, Ints]:
    """The relevant candidates of a block [rows, width] with fewer than `most` above their group of ties.

    Returns:
        Where they are in the flattened block, how many candidates stand above their group, and the group's size.
    """
    rows, width = scores.shape
    if np.count_nonzero(relevant) == rows:  # one a row
        where = np.flatnonzero(relevant)
        mine = scores.ravel()[where, None]
        above = _count(scores > mine)
        near = np.flatnonzero(above < most)
        many = 3 * len(near) > rows  # then all are compared faster than these are picked
        size = _count(scores == mine)[near] if many else _count(scores[near] == mine[near])
        return where[near], above[near], size
    best = _largest(scores, most)
    where = np.flatnonzero(relevant & (scores >= best[:, :1]))
    row, mine = where // width, scores.ravel()[where]
    # Bisection, of all candidates at once, in rows that infinities make as long as a power of two.
    steps = 2 ** np.arange(most.bit_length())[::-1]
    padded = np.full((rows, 2 * steps[0]), np.inf, best.dtype)
    padded[:, :most] = best
    ends = []
    for below in (np.less_equal, np.less):
        end = row * 2 * steps[0]
        for step in steps:
            end += step * below(padded.ravel()[end + (step - 1)], mine)
        ends.append(np.minimum(end - row * 2 * steps[0], most))
    size = ends[0] - ends[1]
    last = np.flatnonzero(ends[1] == 0)  # ties at the last of these places go on behind it
    their, of = np.unique(row[last], return_inverse=True)
    size[last] = _count(scores[their] == best[their, :1])[of]
    return where, most - ends[0], size


def _largest(values: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
    """The largest `most` of each row, rising. NumPy sorts short rows faster than it parts them."""
    least = values.shape[1] - most
    if values.shape[1] <= 256:
        return np.sort(values, axis=1)[:, least:]
    return np.sort(np.partition(values, least, axis=1)[:, least:], axis=1)


def _count(flags: npt.NDArray[np.bool_]) -> Ints:
    """How many of each row are set; bytes are summed fastest, by einsum."""
    dtype = np.uint8 if flags.shape[1] < 256 else np.int64
    return np.einsum("ij->i", flags.view(np.uint8), dtype=dtype).astype(np.int64)


def _refuse(scores: npt.NDArray[Any], relevance: npt.NDArray[Any], total: Ints, at: int) -> None:
    """Raises the ValueError that names the first thing wrong with a block that begins at row `at`."""
    if np.isnan(scores.max()):
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"the score at row {at + row}, candidate {column} is NaN; NaN has no rank")
    if not (relevance.min() >= 0 and relevance.max() < np.inf):
        row, column = np.argwhere(~(np.isfinite(relevance) & (relevance >= 0)))[0]
        value = f"row {at + row}, candidate {column} is {relevance[row, column]}"
        raise ValueError(f"the relevance at {value}; it must be a number from 0 up")
    if not total.all():
        raise ValueError(f"row {at + int(total.argmin())} has no relevant candidate; its metrics are undefined")


def _matrix(values: npt.ArrayLike, name: str, kinds: str) -> npt.NDArray[Any]:
    try:
        matrix = np.asarray(values)
        if matrix.dtype.kind not in kinds:
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
        self, predictions: Any, references: Any, k: Any = (1, 5, 10), metrics: Any = METRICS, groups: Any = None
    ) -> dict[str, Any]:
        per_row = ranking_at_k(predictions, references, k, metrics)
        means: dict[str, Any] = {name: float(values.mean()) for name, values in per_row.items()}
        return {**means, "groups": group_means(per_row, groups)} if groups else means
