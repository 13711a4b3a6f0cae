"""Baselines that know no language model: random, popularity, item-kNN, title-word overlap. All columnar, none trained.

What is fitted (counts, similarities) is fitted on the training rows alone, which hold at least two events each. A
row's own history is the method's input, as it is a model's; in the test split it therefore holds the user's validation
events too. Item-kNN and word overlap choose their settings from the declared grids below, by ndcg on the validation
split.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from cprec_hf.evaluation.rows import Rows

_CELLS = 1 << 24  # dense scores held at once while candidates are picked: 128 MB


@dataclass(frozen=True)
class ItemKnn:
    """Settings of `item_knn`."""

    neighbours: int
    """Most similar items kept for each item."""
    shrinkage: float
    """Added to the cosine's denominator, so that pairs seen together once or twice count less."""
    last: int
    """How many of the latest items of the history vote; 1000 is all of them."""


@dataclass(frozen=True)
class TitleOverlap:
    """Settings of `title_overlap`."""

    normalised: bool
    """Whether titles are compared by cosine (long titles gain nothing) or by the plain idf-weighted overlap."""
    last: int
    """How many of the latest items of the history count; 1000 is all of them."""


ITEM_KNN_GRID = [
    ItemKnn(neighbours, shrinkage, last)
    for neighbours, shrinkage, last in itertools.product((100, 1000, 10_000), (0.0, 10.0, 50.0, 200.0), (5, 1000))
]
TITLE_OVERLAP_GRID = [
    TitleOverlap(normalised, last) for normalised, last in itertools.product((True, False), (1, 3, 5, 10, 1000))
]


def random_scores(rows: Rows, rng: np.random.Generator) -> np.ndarray:
    """Uniform scores, the generator's next ones. Shape: [rows, candidates]."""
    return rng.random(rows.candidates.shape)


def popularity(train: sparse.csr_array, rows: Rows) -> np.ndarray:
    """How many training users had each candidate. Shapes: train [users, items] of 0/1 -> [rows, candidates]."""
    return np.asarray(train.sum(axis=0)).ravel()[rows.candidates]


def item_knn(train: sparse.csr_array, rows: Rows, settings: ItemKnn) -> np.ndarray:
    """The history's neighbours summed: shrunk cosine of items over users, each item's most similar ones kept.

    sim(i, j) = users with both / (sqrt(users with i * users with j) + shrinkage). Sarwar et al., WWW 2001, with the
    shrinkage usual since the Netflix prize.

    Args:
        train: who did what before the cut, 0/1 [users, items].
        rows: the rows to score.
        settings: see `ItemKnn`.

    Returns:
        [rows, candidates].
    """
    similar = _strongest(_similarity(train, settings.shrinkage), settings.neighbours)
    return _pick(rows.history_matrix(train.shape[1], settings.last), similar, rows.candidates)


def title_overlap(vectors: sparse.csr_array, rows: Rows, settings: TitleOverlap) -> np.ndarray:
    """Words that a candidate's title shares with the titles of the history, weighted by idf and summed over the items.

    Args:
        vectors: `title_vectors` of the catalogue [items, words].
        rows: the rows to score.
        settings: see `TitleOverlap`.

    Returns:
        [rows, candidates].
    """
    if settings.normalised:
        norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
        vectors = (sparse.diags_array(1.0 / np.where(norms > 0, norms, 1.0)) @ vectors).tocsr()
    history = rows.history_matrix(vectors.shape[0], settings.last)
    return _pick(history @ vectors, vectors.T.tocsr(), rows.candidates)


def title_vectors(titles: pa.Array) -> sparse.csr_array:
    """Titles as bags of words (letters and digits, lower case): sqrt(idf) where a title has a word. [items, words].

    The inner product of two titles is then the summed idf of their common words; idf = log(items / items that have it).
    """
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(titles), r"[^\p{L}\p{N}]+", " "))
    words = pc.split_pattern(plain, " ")
    flat = words.flatten()
    keep = pc.not_equal(flat, "")
    codes = flat.filter(keep).dictionary_encode()
    item = pc.list_parent_indices(words).filter(keep).to_numpy()
    shape = (len(titles), len(codes.dictionary))
    bags = sparse.coo_array((np.ones(len(item)), (item, codes.indices.to_numpy())), shape=shape).tocsr()
    bags.data[:] = 1.0
    idf = np.log(len(titles) / np.asarray(bags.sum(axis=0)).ravel())
    return (bags @ sparse.diags_array(np.sqrt(idf))).tocsr()


def choose(
    grid: Sequence[Any], score: Callable[[Any, Rows], np.ndarray], rows: Rows, k: int
) -> tuple[Any, dict[str, Any]]:
    """The setting with the best ndcg@k on validation rows (the first of equals), and the record of the choice.

    Args:
        grid: settings, dataclasses of scalars.
        score: a setting and some rows -> their scores [rows, candidates].
        rows: the validation rows.
        k: cut-off of the ndcg.

    Returns:
        The setting, and `{"chosen": ..., "by": ..., "validation": value, "grid": [...]}`, the grid with each setting's
        own validation value.
    """
    name = f"ndcg@{k}"
    values = [float(rows.per_user(rows.metrics(partial(score, setting), [k])[name]).mean()) for setting in grid]
    best = int(np.argmax(values))
    tried = [{**asdict(setting), "validation": value} for setting, value in zip(grid, values, strict=True)]
    chosen = {"chosen": asdict(grid[best]), "by": f"{name} on validation", "validation": values[best]}
    return grid[best], {**chosen, "grid": tried}


def _similarity(train: sparse.csr_array, shrinkage: float) -> sparse.csr_array:
    """Shrunk cosine of items over users, without the diagonal. [items, items]."""
    together = (train.T @ train).tocoo()
    count = np.asarray(train.sum(axis=0)).ravel()
    row, column = together.coords
    other = row != column
    row, column = row[other], column[other]
    value = together.data[other] / (np.sqrt(count[row] * count[column]) + shrinkage)
    return sparse.coo_array((value, (row, column)), shape=together.shape).tocsr()


def _strongest(similar: sparse.csr_array, keep: int) -> sparse.csr_array:
    """The `keep` largest entries of each row; of equals, those of the lower item numbers."""
    entries = similar.tocoo()
    row, column = entries.coords
    order = np.lexsort((column, -entries.data, row))
    row, column, value = row[order], column[order], entries.data[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < keep
    return sparse.coo_array((value[kept], (row[kept], column[kept])), shape=similar.shape).tocsr()


def _pick(left: sparse.csr_array, right: sparse.csr_array, candidates: np.ndarray) -> np.ndarray:
    """Entries of `left @ right` [rows, items] at each row's candidates [rows, candidates]; by blocks of rows."""
    block = max(1, _CELLS // right.shape[1])
    picked = np.empty(candidates.shape)
    for start in range(0, len(candidates), block):
        part = candidates[start : start + block]
        picked[start : start + block] = np.take_along_axis(
            (left[start : start + block] @ right).toarray(), part, axis=1
        )
    return picked
