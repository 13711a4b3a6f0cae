"""beyond_accuracy against its card's definitions written as loops, closed forms, and by hand."""

import itertools
import math
import re
from collections import Counter
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from cprec_hf.metrics.beyond_accuracy import beyond_accuracy as module
from cprec_hf.metrics.beyond_accuracy.beyond_accuracy import (
    coverage,
    gini,
    intra_list_diversity,
    novelty,
    popularity_lift,
    position_bias,
    summarise,
    vectors_of,
)

FOLDER = Path(module.__file__).parent
CATALOGUE = ["a", "b", "c", "d", "e"]
TITLES = ["Red lamp", "red LAMP, large", "blue lamp", "", "Blue-green desk 2"]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, list]:
    rows, k = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    item = st.sampled_from(CATALOGUE)
    return {
        "predictions": draw(st.lists(st.lists(item, min_size=k, max_size=k), min_size=rows, max_size=rows)),
        "histories": draw(st.lists(st.lists(item, min_size=1, max_size=4), min_size=rows, max_size=rows)),
        "popularity": draw(st.lists(st.integers(1, 9), min_size=5, max_size=5)),
        "features": draw(
            st.sampled_from(
                [TITLES, [[], ["x", "y"], ["x"], ["z", "z"], ["y"]], [[1.0, 0], [3, 4], [0, 0], [-1, 2], [0, 9]]]
            )
        ),
    }


def cosine(one: object, other: object) -> float:
    """Of two titles, lists of categories or vectors, from its definition."""
    if isinstance(one, str):
        one, other = (re.findall(r"[a-z0-9]+", str(text).lower()) for text in (one, other))
    if any(isinstance(value, str) for value in [*one, *other]) or not one or not other:
        one, other = set(one), set(other)
        return len(one & other) / math.sqrt(len(one) * len(other)) if one and other else 0.0
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in (one, other)]
    return sum(x * y for x, y in zip(one, other, strict=True)) / math.prod(lengths) if all(lengths) else 0.0


@settings(max_examples=50)
@given(worlds())
def test_equals_the_definitions_one_list_at_a_time(world: dict[str, list]) -> None:
    got = summarise(catalogue=CATALOGUE, **world)
    lists, popularity = world["predictions"], dict(zip(CATALOGUE, world["popularity"], strict=True))
    features = dict(zip(CATALOGUE, world["features"], strict=True))
    shown = Counter(item for one in lists for item in one)
    assert got["coverage"] == len(shown) / 5
    # Gini as the mean absolute difference between all pairs of items, over twice its largest value.
    gaps = sum(abs(shown[i] - shown[j]) for i in CATALOGUE for j in CATALOGUE)
    assert got["gini"] == pytest.approx(gaps / (2 * 4 * shown.total()))
    total = sum(popularity.values()) + 5
    bits = [[math.log2(total / (popularity[i] + 1)) for i in one] for one in lists]
    assert got["novelty"] == pytest.approx(np.mean(bits))
    pairs = [
        1 - cosine(features[one[i]], features[one[j]])
        for one in lists
        for i, j in itertools.permutations(range(len(one)), 2)
    ]
    assert got["intra_list_diversity"] == pytest.approx(np.mean(pairs), abs=1e-12)
    shows = np.mean([np.mean([popularity[i] for i in one]) for one in lists])
    had = np.mean([np.mean([popularity[i] for i in one]) for one in world["histories"]])
    assert got["popularity_lift"] == pytest.approx(shows / had - 1)


def test_the_extremes() -> None:
    alone, equally = np.zeros((3, 2), np.int64), np.arange(6).reshape(3, 2)
    assert (coverage(alone, 6), gini(alone, 6)) == (pytest.approx(1 / 6), 1.0)
    assert (coverage(equally, 6), gini(equally, 6)) == (1.0, 0.0)
    assert gini(alone, 1) == 0.0
    assert novelty(equally, np.full(6, 9)).tolist() == pytest.approx([math.log2(6)] * 3)
    assert intra_list_diversity(alone, np.eye(6)).tolist() == [0.0] * 3
    assert intra_list_diversity(equally, np.eye(6)).tolist() == [1.0] * 3
    assert intra_list_diversity(np.array([[0, 1]]), np.array([[1.0], [-1.0]])).tolist() == [2.0]


def test_blocks_and_sparse_vectors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lists, vectors = rng.integers(0, 30, (50, 4)), rng.normal(size=(30, 8))
    scores = rng.integers(0, 3, (50, 6)).astype(float)
    bits = novelty(lists, np.arange(30))
    whole, bias = intra_list_diversity(lists, vectors), position_bias(scores)
    np.testing.assert_allclose(intra_list_diversity(lists, sparse.csr_array(vectors)), whole)
    monkeypatch.setattr(module, "_CELLS", 40)
    np.testing.assert_allclose(intra_list_diversity(lists, vectors), whole)
    np.testing.assert_allclose(novelty(lists, np.arange(30)), bits)
    np.testing.assert_allclose(intra_list_diversity(lists, sparse.csr_array(vectors)), whole)
    assert position_bias(scores)["position_distribution"] == pytest.approx(bias["position_distribution"])


def test_a_lift_of_one_is_twice_as_popular() -> None:
    lists, histories = np.array([[0, 0], [0, 1]]), np.array([1, 2, 2])
    assert popularity_lift(lists, histories, np.array([0, 0, 1]), [4, 2, 1]) == pytest.approx(3.5 / 1.25 - 1)
    with pytest.raises(ValueError, match="nothing to exceed"):
        popularity_lift(lists, histories, np.array([0, 0, 1]), [4, 0, 0])


def test_position_bias_is_pearson_s_chi_square() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((300, 5))
    scores[:60, 2] = 2.0
    chosen = np.bincount(scores.argmax(axis=1), minlength=5)
    expected = stats.chisquare(chosen)
    got = position_bias(scores)
    assert got["position_distribution"] == pytest.approx(chosen / 300)
    assert got["position_chi2"] == pytest.approx(expected.statistic)
    assert got["position_p"] == pytest.approx(expected.pvalue)
    assert got["position_cramers_v"] == pytest.approx(math.sqrt(expected.statistic / 300 / 4))


def test_what_ties_chooses_no_position_and_always_first_is_the_most_biased() -> None:
    tied = position_bias(np.zeros((40, 4)))
    assert (tied["position_chi2"], tied["position_p"]) == (0.0, 1.0)
    first = position_bias([[1.0, 0.0, 0.0]] * 12)
    assert first["position_cramers_v"] == pytest.approx(1.0) and first["position_p"] < 1e-4
    assert position_bias([[1, 1, 0, 0]])["position_distribution"] == [0.5, 0.5, 0.0, 0.0]


def test_p_values_of_an_unbiased_ranker_are_uniform() -> None:
    rng = np.random.default_rng(2)
    below = sum(position_bias(rng.random((200, 10)))["position_p"] < 0.1 for _ in range(300))
    assert 12 <= below <= 51  # 30 expected, four standard deviations


def test_words_are_letters_and_digits_of_any_script() -> None:
    got = vectors_of(["Café-Lampe, café", "猫 lampe", "!"])
    assert got.toarray().sum(axis=1).tolist() == [2, 2, 0]
    assert (got @ got.T)[0, 1] == 1.0


GOOD = {"predictions": [["a", "b"]], "catalogue": CATALOGUE}
BAD = {
    "an unknown item": ({"predictions": [["a", "x"]]}, "predictions, row 0: 'x' is not in the catalogue"),
    "an unknown item of a history": (
        {"popularity": [1] * 5, "histories": [["a", "y"]]}, "histories, row 0: 'y' is not in the catalogue",
    ),
    "an id twice": ({"catalogue": ["a", "b", "a"]}, "3 ids, 2 of them distinct"),
    "ragged lists": ({"predictions": [["a", "b"], ["a"]]}, "lists of one length"),
    "no lists": ({"predictions": []}, "lists of one length"),
    "other ids": ({"predictions": [[1, 2]]}, "not lists of ids like the catalogue's"),
    "short popularity": ({"popularity": [1, 2]}, "popularity has 2 entries for 5 items"),
    "negative popularity": ({"popularity": [1, 2, 3, 4, -5]}, "one number from 0 up"),
    "short features": ({"features": ["a"]}, "features has 1 entries for 5 items"),
    "uneven features": ({"features": [[1.0], [1.0, 2.0], [1.0], [1.0], [1.0]]}, "neither vectors of equal length"),
    "infinite features": ({"features": [[math.inf]] * 5}, "not finite"),
    "single items": ({"predictions": [["a"]], "features": TITLES}, "lists of two items or more"),
    "histories alone": ({"histories": [["a"]]}, "needs popularity beside histories"),
    "an empty history": ({"popularity": [1] * 5, "histories": [[]]}, "not empty per row"),
    "NaN scores": ({"candidate_scores": [[1.0, math.nan]]}, "row 0 of the candidate scores has NaN"),
    "one candidate": ({"candidate_scores": [[1.0]]}, "two or more of them"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str) -> None:
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        summarise(**{**GOOD, **change})


@pytest.mark.parametrize("kind", [str, int])
def test_ids_are_texts_or_numbers_through_evaluate(kind: type) -> None:
    metric = evaluate.load(str(FOLDER))
    lists = [[kind(item) for item in one] for one in ([1, 2], [1, 3])]
    got = metric.compute(predictions=lists, catalogue=[kind(i) for i in (1, 2, 3, 4)], popularity=[6, 1, 1, 0])
    assert got == pytest.approx({"coverage": 0.75, "gini": 0.5, "novelty": -(math.log2(7 / 12) + math.log2(1 / 6)) / 2})
