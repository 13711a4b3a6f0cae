"""What recommended lists are like: coverage, Gini, novelty, diversity, popularity lift, position bias.

As functions of arrays:    coverage(lists, n_items), gini(lists, n_items), novelty(lists, popularity),
                           intra_list_diversity(lists, vectors), popularity_lift(lists, histories, owners, popularity),
                           position_bias(scores); lists are item numbers [rows, k]
As an `evaluate` module:   evaluate.load("path/to/beyond_accuracy").compute(predictions=lists_of_ids, catalogue=ids,
                               popularity=counts, features=titles, histories=lists_of_ids, candidate_scores=scores)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse, stats

_DESCRIPTION = """
Properties of recommended lists beyond their accuracy: catalogue coverage, the Gini index of how often items are shown,
novelty (self-information), intra-list diversity, popularity lift over the users' own histories, and whether the place
at which a candidate is listed decides that it is chosen.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: recommended item ids, lists of equal length, one per row.
    catalogue: the ids of all items that could be recommended, each once.
    popularity: how often each item of the catalogue occurs in the training data; for novelty and popularity_lift.
    features: one entry per item of the catalogue, for intra_list_diversity: a vector (an embedding), a title, whose
        words count, or a list of categories.
    histories: lists of item ids, one per row, of any length but 0; for popularity_lift.
    candidate_scores: scores [rows, candidates] in the order in which the candidates were listed; for the position bias.
Returns:
    coverage and gini; novelty, intra_list_diversity, popularity_lift, position_chi2, position_p, position_cramers_v and
    position_distribution where their inputs are given. See the card for what each one is.
Examples:
    >>> metric = evaluate.load("beyond_accuracy")
    >>> metric.compute(predictions=[["a", "b"], ["a", "c"]], catalogue=["a", "b", "c", "d"], popularity=[6, 1, 1, 0])
    {'coverage': 0.75, 'gini': 0.5, 'novelty': 1.681...}
"""

_CITATION = """
@incollection{castells2022novelty,
  title={Novelty and Diversity in Recommender Systems}, author={Castells, Pablo and Hurley, Neil and Vargas, Sa{\\'u}l},
  booktitle={Recommender Systems Handbook}, publisher={Springer}, year={2022}
}
@inproceedings{abdollahpouri2019unfairness,
  title={The Unfairness of Popularity Bias in Recommendation},
  author={Abdollahpouri, Himan and Mansoury, Masoud and Burke, Robin and Mobasher, Bamshad},
  booktitle={RecSys Workshop on Recommendation in Multistakeholder Environments}, year={2019}
}
"""

_CELLS = 1 << 22  # of scores or sums looked at in one go
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Vectors: TypeAlias = npt.NDArray[np.floating] | sparse.csr_array


def coverage(lists: Ints, n_items: int) -> float:
    """The share of `n_items` that stand in any of the lists [rows, k] of item numbers."""
    return float(np.count_nonzero(np.bincount(lists.ravel(), minlength=n_items)) / n_items)


def gini(lists: Ints, n_items: int) -> float:
    """How unequally often the items stand in the lists [rows, k]: 0 if all do equally often, 1 if one alone does.

    Shani and Gunawardana 2011: with shares p in rising order, sum over j = 1..n of (2j - n - 1) p_j / (n - 1).
    """
    shown = np.sort(np.bincount(lists.ravel(), minlength=n_items))
    if n_items == 1:
        return 0.0
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ shown / shown.sum() / (n_items - 1))


def novelty(lists: Ints, popularity: npt.ArrayLike) -> Floats:
    """The mean self-information of each list's items, in bits [rows]: -log2 of an item's share of the training events.

    Every item is counted once more than it occurs, so that one without events has a finite value (our choice).

    Args:
        lists: item numbers [rows, k].
        popularity: events of each item [items].
    """
    counted = np.asarray(popularity, np.float64) + 1.0
    bits = -np.log2(counted / counted.sum())
    found = np.empty(len(lists))
    block = max(1, _CELLS // lists.shape[1])
    for start in range(0, len(lists), block):
        found[start : start + block] = np.take(bits, lists[start : start + block]).mean(axis=1)
    return found


def intra_list_diversity(lists: Ints, vectors: Vectors) -> Floats:
    """The mean over pairs of a list's places of 1 - the cosine of their items' vectors [rows]; an all-zero one has 0.

    The cosines of all pairs of a list sum to the squared length of the sum of its unit vectors, so no pair is visited.

    Args:
        lists: item numbers [rows, k], k at least 2.
        vectors: [items, dimensions], dense or sparse.
    """
    dense = vectors if isinstance(vectors, np.ndarray) else None
    lengths = np.sqrt(np.asarray((vectors * vectors).sum(axis=1), np.float64)).ravel()
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    units = sparse.diags_array(scale) @ sparse.csr_array(vectors) if dense is None else dense * scale[:, None]
    rows, k = lists.shape
    found = np.empty(rows)
    block = max(1, _CELLS // (vectors.shape[1] if dense is not None else 64 * k))
    for start in range(0, rows, block):
        part = lists[start : start + block]
        ones = (np.ones(part.size), part.ravel(), np.arange(0, part.size + 1, k))
        summed = sparse.csr_array(ones, shape=(len(part), vectors.shape[0])) @ units
        own = np.take(scale > 0, part).sum(axis=1)  # each place's cosine with itself
        found[start : start + block] = 1.0 - ((summed * summed).sum(axis=1) - own) / (k * (k - 1))
    return found


def popularity_lift(lists: Ints, histories: Ints, owners: Ints, popularity: npt.ArrayLike) -> float:
    """By how much the lists' mean popularity exceeds the histories', as a share of it: 0 keeps it, 1 doubles it.

    Popularity is averaged within each list and each history, then over rows (Abdollahpouri et al. 2019).

    Args:
        lists: item numbers [rows, k].
        histories: item numbers [events] of all rows.
        owners: the row of each event [events]; every row has one.
        popularity: events of each item [items].
    """
    counted = np.asarray(popularity, np.float64)
    recommended = np.take(counted, lists).mean()
    had = (np.bincount(owners, weights=counted[histories]) / np.bincount(owners)).mean()
    if had == 0:
        raise ValueError("no item of any history occurs in the training data, so popularity has nothing to exceed")
    return float(recommended / had - 1.0)


def position_bias(scores: npt.ArrayLike) -> dict[str, Any]:
    """Does where a candidate is listed decide that it is chosen? Pearson's chi-square against choosing each equally.

    Chosen is the candidate with the highest score; m that share it count 1/m each, which makes the test more careful.

    Args:
        scores: [rows, candidates] in the order in which they were listed.

    Returns:
        position_chi2, position_p (candidates - 1 degrees of freedom), position_cramers_v (sqrt(chi2 / (rows
        (candidates - 1))), 0 for no bias and 1 if one position is always chosen), position_distribution (shares
        [candidates]).

    Raises:
        ValueError: not [rows, candidates] with two or more candidates; NaN.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"candidate scores have shape {table.shape}; expected [rows, candidates], two or more of them")
    rows, n = table.shape
    chosen = np.zeros(n)
    block = max(1, _CELLS // n)
    for start in range(0, rows, block):
        part = table[start : start + block]
        best = part == part.max(axis=1, keepdims=True)
        shared = best.sum(axis=1)
        if not shared.all():
            raise ValueError(f"row {start + int(shared.argmin())} of the candidate scores has NaN; NaN has no rank")
        chosen += (1.0 / shared) @ best
    expected = rows / n
    chi2 = float(((chosen - expected) ** 2).sum() / expected)
    return {
        "position_chi2": chi2,
        "position_p": float(stats.chi2.sf(chi2, n - 1)),
        "position_cramers_v": float((chi2 / (rows * (n - 1))) ** 0.5),
        "position_distribution": (chosen / rows).tolist(),
    }


def vectors_of(features: Sequence[Any] | npt.NDArray[Any]) -> Vectors:
    """Vectors [items, dimensions] of numbers as they are; of titles or lists of categories, 0/1 for each word or name.

    A title's words are what stands between anything but letters and digits, in lower case; a word counts once.

    Raises:
        ValueError: neither, or rows of unequal length, or numbers that are not finite.
    """
    try:
        texts = None if isinstance(features, np.ndarray) and features.ndim == 2 else pa.array(features)
        kind = None if texts is None else getattr(texts.type, "value_type", texts.type)
        if texts is None or not (pa.types.is_string(kind) or pa.types.is_null(kind)):
            dense = np.asarray(features, np.float64)
            if dense.ndim != 2 or not np.isfinite(dense).all():
                raise ValueError(f"shape {dense.shape}, or not finite")
            return dense
    except (ValueError, TypeError) as error:
        raise ValueError(f"features: neither vectors of equal length, titles nor categories ({error})") from None
    if pa.types.is_string(texts.type):
        texts = pc.split_pattern_regex(pc.utf8_lower(texts), r"[^\p{L}\p{M}\p{N}]+")
    names = texts.flatten()
    owner = pc.list_parent_indices(texts).to_numpy()
    kept = pc.fill_null(pc.not_equal(names, ""), False).to_numpy(zero_copy_only=False)
    codes = names.filter(pa.array(kept)).dictionary_encode()
    found = sparse.csr_array(
        (np.ones(kept.sum()), (owner[kept], codes.indices.to_numpy())),
        shape=(len(texts), max(1, len(codes.dictionary))),
    )
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BeyondAccuracy(evaluate.Metric):
    """Coverage, Gini, novelty, diversity, popularity lift and position bias as an `evaluate` metric."""

    def _info(self) -> evaluate.MetricInfo:
        kinds = (datasets.Value("string"), datasets.Value("int64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[datasets.Features({"predictions": datasets.Sequence(kind)}) for kind in kinds],
        )

    def _compute(self, predictions: Any, **given: Any) -> dict[str, Any]:
        return summarise(predictions, **given)


def summarise(
    predictions: Sequence[Sequence[Any]],
    catalogue: Sequence[Any],
    popularity: npt.ArrayLike | None = None,
    features: Sequence[Any] | npt.NDArray[Any] | None = None,
    histories: Sequence[Sequence[Any]] | None = None,
    candidate_scores: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """All that the inputs allow, from item ids; arguments and results as in the card.

    Raises:
        ValueError: an id that is not in the catalogue or stands there twice, lists of unequal length or none, inputs
            that are not one per item or row, a negative popularity, an empty history, histories without popularity.
    """
    ids = pa.array(catalogue)
    if not len(ids) or ids.null_count or len(pc.unique(ids)) < len(ids):
        raise ValueError(f"the catalogue has {len(ids)} ids, {len(pc.unique(ids))} of them distinct; give each once")
    owner, flat = _numbers(predictions, ids, "predictions")
    lengths = np.bincount(owner, minlength=len(predictions))
    if not len(flat) or (lengths != lengths[0]).any():
        raise ValueError("predictions: give lists of one length, at least 1, one per row")
    lists = flat.reshape(len(lengths), -1)
    for name, values in (("popularity", popularity), ("features", features)):
        if values is not None and len(values) != len(ids):  # type: ignore[arg-type]
            raise ValueError(f"{name} has {len(values)} entries for {len(ids)} items")  # type: ignore[arg-type]
    found: dict[str, Any] = {"coverage": coverage(lists, len(ids)), "gini": gini(lists, len(ids))}
    if popularity is not None:
        counts = np.asarray(popularity, np.float64)
        if counts.ndim != 1 or not (np.isfinite(counts) & (counts >= 0)).all():
            raise ValueError("popularity: give one number from 0 up per item")
        found["novelty"] = float(novelty(lists, counts).mean())
    if features is not None:
        if lists.shape[1] < 2:
            raise ValueError("intra_list_diversity needs lists of two items or more")
        found["intra_list_diversity"] = float(intra_list_diversity(lists, vectors_of(features)).mean())
    if histories is not None:
        if popularity is None:
            raise ValueError("popularity_lift needs popularity beside histories")
        owner, past = _numbers(histories, ids, "histories")
        if len(histories) != len(lists) or not np.bincount(owner, minlength=len(lists)).all():
            raise ValueError(f"{len(histories)} histories for {len(lists)} rows; give one that is not empty per row")
        found["popularity_lift"] = popularity_lift(lists, past, owner, counts)
    return found | (position_bias(candidate_scores) if candidate_scores is not None else {})


def _numbers(lists: Sequence[Sequence[Any]], ids: pa.Array, what: str) -> tuple[Ints, Ints]:
    """The row and the number in the catalogue of each id of lists."""
    try:
        column = pa.array([*lists], pa.list_(ids.type))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{what}: not lists of ids like the catalogue's ({error})") from None
    owner, names = pc.list_parent_indices(column).to_numpy(), column.flatten()
    codes = pc.index_in(names, ids)
    if codes.null_count:
        at = int(np.argmax(codes.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"{what}, row {owner[at]}: {names[at].as_py()!r} is not in the catalogue")
    return owner.astype(np.int64), codes.to_numpy().astype(np.int64)
