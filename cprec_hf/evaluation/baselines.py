"""Baselines that know no language model: random, popularity, repeat, item-kNN, title-word overlap, BM25. All columnar.

What is fitted (counts, similarities) is fitted on the training rows alone, which hold at least two events each. A
row's own history is the method's input, as it is a model's; in the test split it therefore holds the user's validation
events too. Those with settings choose them from the declared grids below, by ndcg on the validation split.
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

_CELLS = 1 << 24  # numbers held at once while candidates are picked: 128 MB


@dataclass(frozen=True)
class Repeat:
    """Settings of `repeat`."""

    decay: float
    """What each step back in the history multiplies an item's weight by; 1 is plain counting."""


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


@dataclass(frozen=True)
class Bm25:
    """Settings of `bm25`."""

    k1: float
    """How slowly a word's weight saturates as a title repeats it."""
    b: float
    """How much long titles are discounted: 0 not at all, 1 in proportion to their length."""
    last: int
    """How many of the latest items of the history are the query; 1000 is all of them."""


REPEAT_GRID = [Repeat(decay) for decay in (1.0, 0.95, 0.8, 0.5)]
BM25_GRID = [Bm25(k1, b, last) for k1, b, last in itertools.product((0.6, 1.2, 2.0), (0.0, 0.5, 1.0), (1, 3, 5, 1000))]
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


def repeat(rows: Rows, settings: Repeat) -> np.ndarray:
    """How often and how lately each candidate stands in the history: the sum of decay^(steps back) over its places.

    Corpora whose held-out targets are new to their users leave it at chance, which is then its use: a check of that.

    Args:
        rows: the rows to score.
        settings: see `Repeat`.

    Returns:
        [rows, candidates].
    """
    past = rows.histories
    back = np.repeat(past.offsets[1:], past.lengths) - np.arange(len(past.values)) - 1
    row = np.repeat(np.arange(len(rows)), past.lengths)
    n_items = int(max(past.values.max(initial=0), rows.candidates.max())) + 1
    weights = sparse.coo_array((settings.decay**back, (row, past.values)), shape=(len(rows), n_items)).tocsr()
    return _pick(weights, sparse.eye_array(n_items, format="csr"), rows.candidates)


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
    return _pick(rows.history_matrix(train.shape[1], settings.last), similar.T.tocsr(), rows.candidates)


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
    return _pick(history @ vectors, vectors, rows.candidates)


def title_vectors(counts: sparse.csr_array) -> sparse.csr_array:
    """Titles as bags of words: sqrt(idf) where a title has a word. Shapes: `title_words` -> [items, words].

    The inner product of two titles is then the summed idf of their common words; idf = log(items / items that have it).
    """
    bags = counts.sign()
    idf = np.log(counts.shape[0] / np.asarray(bags.sum(axis=0)).ravel())
    return (bags @ sparse.diags_array(np.sqrt(idf))).tocsr()


def bm25(counts: sparse.csr_array, rows: Rows, settings: Bm25) -> np.ndarray:
    """Okapi BM25 of each candidate's title, the query being the titles of the history.

    score = sum over words of the query (a word twice in it counts twice) of
    idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * words of the title / mean words of a title)),
    idf = log(1 + (items - n + 0.5) / (n + 0.5)), n items having the word. Robertson and Zaragoza, The Probabilistic
    Relevance Framework, 2009, with Lucene's idf, which is never negative.

    Args:
        counts: `title_words` of the catalogue [items, words].
        rows: the rows to score.
        settings: see `Bm25`.

    Returns:
        [rows, candidates].
    """
    have = np.asarray(counts.sign().sum(axis=0)).ravel()
    idf = np.log1p((counts.shape[0] - have + 0.5) / (have + 0.5))
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    relative = lengths / max(lengths.mean(), 1e-12)
    entries = counts.tocoo()
    item, word = entries.coords
    saturation = entries.data + settings.k1 * (1 - settings.b + settings.b * relative[item])
    weights = idf[word] * entries.data * (settings.k1 + 1) / saturation
    titles = sparse.coo_array((weights, (item, word)), shape=counts.shape).tocsr()
    return _pick(rows.history_matrix(counts.shape[0], settings.last) @ counts, titles, rows.candidates)


def title_words(titles: pa.Array) -> sparse.csr_array:
    """How often each title has each word (letters and digits, lower case). Shapes: string [items] -> [items, words].

    Han and hiragana are written without spaces: each sign is a word, as Lucene's StandardTokenizer has it.
    """
    apart = pc.replace_substring_regex(pc.utf8_lower(titles), r"([\p{Han}\p{Hiragana}])", r" \1 ")
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(apart, r"[^\p{L}\p{N}]+", " "))
    words = pc.split_pattern(plain, " ")
    flat = words.flatten()
    keep = pc.not_equal(flat, "")
    codes = flat.filter(keep).dictionary_encode()
    item = pc.list_parent_indices(words).filter(keep).to_numpy()
    shape = (len(titles), len(codes.dictionary))
    return sparse.coo_array((np.ones(len(item)), (item, codes.indices.to_numpy())), shape=shape).tocsr()


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
    """Each row's inner products with its candidates' rows of `right`; by blocks of rows.

    Of a few candidates only these are multiplied, of a whole catalogue everything at once.

    Args:
        left: [rows, features].
        right: [items, features].
        candidates: item codes [rows, candidates].

    Returns:
        [rows, candidates].
    """
    picked = np.empty(candidates.shape)
    few = candidates.shape[1] * 4 < right.shape[0]
    # Numbers that a row takes: its candidates' entries and its own once a candidate, or a score for every item.
    per_row = candidates.shape[1] * (left.nnz / len(candidates) + right.nnz / right.shape[0]) if few else right.shape[0]
    block = max(1, int(_CELLS / max(per_row, 1)))
    columns = None if few else right.T.tocsr()
    for start in range(0, len(candidates), block):
        part, own = candidates[start : start + block], left[start : start + block]
        if columns is None:
            pairs = own[np.repeat(np.arange(len(part)), part.shape[1])] * right[part.ravel()]
            picked[start : start + block] = np.asarray(pairs.sum(axis=1)).reshape(part.shape)
        else:
            picked[start : start + block] = np.take_along_axis((own @ columns).toarray(), part, axis=1)
    return picked
