"""Baselines against the same rules in plain Python loops."""

import math
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cprec_hf.evaluation import baselines
from cprec_hf.evaluation.baselines import Bm25, ItemKnn, Repeat, TitleOverlap
from cprec_hf.evaluation.rows import Catalogue, Rows

TITLES = ["Blue steel pen", "Blue pen", "Red ruler (30 cm)", "steel RULER", "Crème brûlée set", "!!!", "pen pen pen"]
TITLES += [
    f"{colour} {thing}" for colour in ("blue", "red", "plain") for thing in ("pen", "pencil case", "cup 2", "30")
]
ITEMS = [f"i{n}" for n in range(len(TITLES))]


def make_rows(histories: list[list[int]], candidates: list[list[int]]) -> Rows:
    lists = pa.list_(pa.string())
    columns = {
        "user_id": pa.array([f"u{i}" for i in range(len(histories))]),
        "history": pa.array([[ITEMS[i] for i in h] for h in histories], lists),
        "target": pa.array([ITEMS[c[0]] for c in candidates]),
        "candidates": pa.array([[ITEMS[i] for i in c] for c in candidates], lists),
    }
    return Rows.from_table(pa.table(columns), Catalogue(pa.array(ITEMS), pa.array(TITLES)), "toy")


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    item = st.integers(0, len(ITEMS) - 1)
    train = draw(st.lists(st.lists(item, min_size=1, max_size=5, unique=True), min_size=1, max_size=8))
    n = draw(st.integers(1, 4))
    histories = draw(st.lists(st.lists(item, max_size=5), min_size=n, max_size=n))
    width = draw(st.sampled_from([4, len(ITEMS)]))  # a few candidates are picked in another way than the catalogue
    candidates = draw(st.lists(st.permutations(range(len(ITEMS))).map(lambda p: p[:width]), min_size=n, max_size=n))
    return train, histories, candidates


def as_matrix(train: list[list[int]]) -> sparse.csr_array:
    matrix = np.zeros((len(train), len(ITEMS)))
    for row, items in enumerate(train):
        matrix[row, items] = 1
    return sparse.csr_array(matrix)


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([1, 2, 50]), st.sampled_from([0.0, 3.0]), st.sampled_from([2, 1000]))
def test_item_knn_equals_plain_loops(
    problem: tuple[list[list[int]], list[list[int]], list[list[int]]], neighbours: int, shrinkage: float, last: int
) -> None:
    train, histories, candidates = problem
    users = [set(items) for items in train]

    def similarity(i: int, j: int) -> float:
        both = sum(i in u and j in u for u in users)
        n, m = sum(i in u for u in users), sum(j in u for u in users)
        return both / (math.sqrt(n * m) + shrinkage) if both else 0.0

    def neighbourhood(i: int) -> list[int]:
        others = [j for j in range(len(ITEMS)) if j != i and similarity(i, j) > 0]
        return sorted(others, key=lambda j: (-similarity(i, j), j))[:neighbours]

    expected = [
        [sum(similarity(h, c) for h in set(history[-last:]) if c in neighbourhood(h)) for c in offered]
        for history, offered in zip(histories, candidates, strict=True)
    ]
    got = baselines.item_knn(as_matrix(train), make_rows(histories, candidates), ItemKnn(neighbours, shrinkage, last))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(problems(), st.booleans(), st.sampled_from([1, 3, 1000]))
def test_title_overlap_equals_plain_loops(
    problem: tuple[list[list[int]], list[list[int]], list[list[int]]], normalised: bool, last: int
) -> None:
    _, histories, candidates = problem
    words = [set(re.findall(r"[^\W_]+", title.lower())) for title in TITLES]
    idf = {w: math.log(len(TITLES) / sum(w in other for other in words)) for title in words for w in title}

    def likeness(a: int, b: int) -> float:
        common = sum(idf[w] for w in words[a] & words[b])
        size = math.sqrt(sum(idf[w] for w in words[a]) * sum(idf[w] for w in words[b])) if normalised else 1.0
        return common / size if common else 0.0

    expected = [
        [sum(likeness(h, c) for h in set(history[-last:])) for c in offered]
        for history, offered in zip(histories, candidates, strict=True)
    ]
    vectors = baselines.title_vectors(baselines.title_words(pa.array(TITLES)))
    got = baselines.title_overlap(vectors, make_rows(histories, candidates), TitleOverlap(normalised, last))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_titles_without_any_word_score_zero() -> None:
    counts, rows = baselines.title_words(pa.array(["!!!"] * len(ITEMS))), make_rows([[0, 1]], [[2, 3]])
    for normalised in (True, False):
        got = baselines.title_overlap(baselines.title_vectors(counts), rows, TitleOverlap(normalised, 5))
        assert got.tolist() == [[0.0, 0.0]]
    assert baselines.bm25(counts, rows, Bm25(1.2, 0.5, 5)).tolist() == [[0.0, 0.0]]


def test_signs_written_without_spaces_are_words() -> None:
    counts = baselines.title_words(pa.array(["红色钢笔", "红 pen红", "すしカット"]))
    assert counts.sum(axis=1).tolist() == [4.0, 3.0, 3.0]
    assert (counts @ counts.T).toarray()[0].tolist() == [4.0, 2.0, 0.0]  # the second title has 红 twice


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([0.6, 2.0]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1, 3, 1000]))
def test_bm25_equals_plain_loops(
    problem: tuple[list[list[int]], list[list[int]], list[list[int]]], k1: float, b: float, last: int
) -> None:
    _, histories, candidates = problem
    words = [re.findall(r"[^\W_]+", title.lower()) for title in TITLES]
    mean = sum(map(len, words)) / len(words)

    def value(word: str, title: list[str]) -> float:
        n, tf = sum(word in other for other in words), title.count(word)
        if not tf:
            return 0.0
        idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
        return idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(title) / mean))

    queries = [[word for item in set(history[-last:]) for word in words[item]] for history in histories]
    expected = [
        [sum(value(word, words[c]) for word in query) for c in offered]
        for query, offered in zip(queries, candidates, strict=True)
    ]
    counts = baselines.title_words(pa.array(TITLES))
    got = baselines.bm25(counts, make_rows(histories, candidates), Bm25(k1, b, last))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from([1.0, 0.5]))
def test_repeat_equals_plain_loops(
    problem: tuple[list[list[int]], list[list[int]], list[list[int]]], decay: float
) -> None:
    _, histories, candidates = problem
    expected = [
        [sum(decay**back for back, item in enumerate(reversed(history)) if item == c) for c in offered]
        for history, offered in zip(histories, candidates, strict=True)
    ]
    got = baselines.repeat(make_rows(histories, candidates), Repeat(decay))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_popularity_counts_training_users() -> None:
    train = as_matrix([[0, 1], [1], [1, 2]])
    assert baselines.popularity(train, make_rows([[0]], [[1, 2, 5]])).tolist() == [[3.0, 1.0, 0.0]]


def test_random_scores_depend_on_the_seed_only() -> None:
    rows = make_rows([[0], [1]], [[1, 2, 5], [2, 3, 4]])
    one, same, other = (baselines.random_scores(rows, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_blocks_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows([[0, 1], [2], [3, 4]], [[1, 2, 5], [2, 3, 4], [0, 1, 2]])
    train, setting = as_matrix([[0, 1, 5], [1, 2], [3, 0, 4]]), ItemKnn(50, 0.0, 1000)
    whole = baselines.item_knn(train, rows, setting)
    monkeypatch.setattr(baselines, "_CELLS", 1)
    np.testing.assert_array_equal(baselines.item_knn(train, rows, setting), whole)


def test_choose_takes_the_best_on_validation_and_records_it() -> None:
    rows = make_rows([[0], [1]], [[1, 2, 5], [2, 3, 4]])  # the target is the first candidate
    scores = {1: np.array([[0.0, 1, 2]] * 2), 3: np.array([[2.0, 1, 0]] * 2), 5: np.array([[3.0, 1, 0]] * 2)}
    grid = [TitleOverlap(True, last) for last in scores]
    setting, record = baselines.choose(grid, lambda s, rows: scores[s.last], rows, 2)
    assert setting.last == 3  # the first of two equals
    tried = [{"normalised": True, "last": last, "validation": value} for last, value in ((1, 0.0), (3, 1.0), (5, 1.0))]
    chosen = {"normalised": True, "last": 3}
    assert record == {"chosen": chosen, "by": "ndcg@2 on validation", "validation": 1.0, "grid": tried}
