"""ranking_at_k against brute force over every order of the tied candidates, and through `evaluate`."""

import itertools
import math
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.metrics.ranking_at_k import ranking_at_k as module
from cprec_hf.metrics.ranking_at_k.ranking_at_k import METRICS, group_means, ranking_at_k

FOLDER = Path(module.__file__).parent


def by_enumeration(scores: list[float], relevance: list[float], k: int) -> dict[str, float]:
    """The mean over all permutations that keep scores falling, straight from the definitions."""
    orders = [
        [relevance[i] for i in order]
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    ideal = sum(g / math.log2(i + 2) for i, g in enumerate(sorted(relevance, reverse=True)[:k]))
    total = sum(g > 0 for g in relevance)
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for gains in orders:
        hits = [i for i, g in enumerate(gains[:k]) if g > 0]
        values["hr"].append(float(bool(hits)))
        values["recall"].append(len(hits) / total)
        values["precision"].append(len(hits) / k)
        values["map"].append(sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / total)
        values["mrr"].append(1 / (hits[0] + 1) if hits else 0.0)
        values["ndcg"].append(sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k])) / ideal)
    return {name: sum(v) / len(v) for name, v in values.items()}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]]]:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    score = st.sampled_from([-math.inf, -1.0, 0.0, 0.25, 2.0])  # few values, so most rows have ties
    scores = draw(st.lists(st.lists(score, min_size=width, max_size=width), min_size=rows, max_size=rows))
    row = st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.0]), min_size=width, max_size=width).filter(any)
    return scores, draw(st.lists(row, min_size=rows, max_size=rows))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_equals_the_mean_over_all_orders_of_ties(table: tuple[list[list[float]], list[list[float]]]) -> None:
    scores, relevance = table
    width = len(scores[0])
    places = range(1, width + 1)
    truth = [[by_enumeration(s, r, k) for k in places] for s, r in zip(scores, relevance, strict=True)]
    for most in {1, (width + 1) // 2, width}:  # only what may come in the first max(ks) places is looked at
        got = ranking_at_k(scores, relevance, places[:most])
        for k in places[:most]:
            for name in METRICS:
                expected = [of_row[k - 1][name] for of_row in truth]
                np.testing.assert_allclose(got[f"{name}@{k}"], expected, atol=1e-12, err_msg=f"{name}@{k} {table}")


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 2**32 - 1))
def test_the_order_of_listing_never_matters(table: tuple[list[list[float]], list[list[float]]], seed: int) -> None:
    scores, relevance = np.array(table[0]), np.array(table[1])
    shuffle = np.random.default_rng(seed).permutation(scores.shape[1])
    ks = [1, scores.shape[1]]
    before, after = ranking_at_k(scores, relevance, ks), ranking_at_k(scores[:, shuffle], relevance[:, shuffle], ks)
    for name in before:
        np.testing.assert_allclose(before[name], after[name], atol=1e-12)


def test_constant_scores_earn_what_chance_earns() -> None:
    relevance = np.zeros((4, 20))
    relevance[np.arange(4), [0, 5, 11, 19]] = 1
    got = ranking_at_k(np.zeros((4, 20)), relevance, [1, 5])
    np.testing.assert_allclose(got["hr@1"], 0.05, atol=1e-12)
    np.testing.assert_allclose(got["recall@5"], 0.25, atol=1e-12)
    np.testing.assert_allclose(got["mrr@5"], (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 20, atol=1e-12)


def test_untied_values_are_exact() -> None:
    got = ranking_at_k([[0.3, 0.2, 0.1]], [[0, 1, 0]], [1, 2, 3])
    assert [got[f"hr@{k}"][0] for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert got["mrr@3"][0] == 0.5
    assert got["ndcg@2"][0] == pytest.approx(1 / math.log2(3))


def test_large_tie_groups_stay_accurate() -> None:
    width = 3000
    relevance = np.zeros((1, width))
    relevance[0, :2] = 1
    got = ranking_at_k(np.zeros((1, width)), relevance, [10])
    none = (width - 10) * (width - 11) / (width * (width - 1))  # neither of the two among the ten
    assert got["hr@10"][0] == pytest.approx(1 - none, rel=1e-9)


def test_precision_and_map_by_hand() -> None:
    """Scores 3, 2, 2, 1 with the first, third and fourth relevant: the tie puts them at 1, 2, 4 or 1, 3, 4."""
    got = ranking_at_k([[3, 2, 2, 1]], [[1, 0, 1, 1]], [2, 4])
    assert got["precision@2"][0] == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert got["map@2"][0] == pytest.approx(((1 + 2 / 2) / 3 + 1 / 3) / 2)
    assert got["map@4"][0] == pytest.approx(((1 + 2 / 2 + 3 / 4) / 3 + (1 + 2 / 3 + 3 / 4) / 3) / 2)


@pytest.mark.parametrize("relevant", [1, 4])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, relevant: int) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (50, 12)).astype(np.float32)
    relevance = (rng.random((50, 12)).argsort(axis=1) < relevant) * rng.integers(1, 3, (50, 12))
    whole = ranking_at_k(scores, relevance, [1, 5])
    monkeypatch.setattr(module, "_CELLS", 12 * 7)
    for name, values in ranking_at_k(scores.astype(np.float64), relevance.astype(np.int8), [1, 5]).items():
        np.testing.assert_allclose(values, whole[name], err_msg=name)


@pytest.mark.parametrize("tied", [False, True])
def test_catalogues_of_any_size(tied: bool) -> None:
    """Places, ties and relevant ones among so many have more combinations than 64-bit numbers."""
    rng, n, k = np.random.default_rng(0), 300_000 if tied else 60_000, 200_000 if tied else 30_000
    scores = rng.permuted(np.tile(np.maximum(np.arange(n), n // 2 if tied else 0), (2, 1)), axis=1)
    relevance = (rng.random((2, n)) < 0.4).astype(int)
    found = ranking_at_k(scores, relevance, [k], ["hr", "recall", "mrr", "map"])
    for row in range(2):
        expected = {"recall": [], "mrr": [], "map": []}
        for _ in range(20 if tied else 1):  # the mean over random orders of the ties
            hits = relevance[row][np.lexsort([rng.random(n), -scores[row]])][:k]
            expected["recall"].append(hits.sum() / relevance[row].sum())
            expected["mrr"].append(1 / (hits.argmax() + 1))
            expected["map"].append((hits * hits.cumsum() / np.arange(1, k + 1)).sum() / relevance[row].sum())
        assert found[f"hr@{k}"][row] == 1
        for name, values in expected.items():
            error = 5 * np.std(values) / len(values) ** 0.5 + 1e-9
            assert found[f"{name}@{k}"][row] == pytest.approx(np.mean(values), abs=error)


def test_scores_are_compared_in_their_own_precision() -> None:
    close = np.array([[1.0, 1.0 + 1e-12]])
    assert ranking_at_k(close, [[1, 0]], [1])["hr@1"] == 0.0
    assert ranking_at_k(close.astype(np.float32), [[1, 0]], [1])["hr@1"] == 0.5


def test_with_one_relevant_candidate_metrics_coincide() -> None:
    rng = np.random.default_rng(1)
    scores, relevance = rng.integers(0, 5, (40, 8)), np.eye(8)[rng.integers(0, 8, 40)]
    got = ranking_at_k(scores, relevance, [3])
    np.testing.assert_allclose(got["hr@3"], got["recall@3"])
    np.testing.assert_allclose(got["hr@3"], 3 * got["precision@3"])
    np.testing.assert_allclose(got["mrr@3"], got["map@3"])


def test_items_are_ranked_not_titles() -> None:
    """Two items are called "Lamp" and share the score of that title: the target is one of them, so a half is earned.

    A ranking of titles would have called the first place a hit.
    """
    titles, score_of = ["Lamp", "Lamp", "Desk"], {"Lamp": 0.9, "Desk": 0.2}
    scores = [[score_of[title] for title in titles]]
    got = ranking_at_k(scores, [[0, 1, 0]], [1, 2])
    assert (got["hr@1"][0], got["hr@2"][0], got["mrr@2"][0]) == (0.5, 1.0, 0.75)


def test_only_the_metrics_asked_for() -> None:
    assert list(ranking_at_k([[1, 0]], [[1, 0]], [1, 2], ["mrr", "hr"])) == ["mrr@1", "hr@1", "mrr@2", "hr@2"]
    with pytest.raises(ValueError, match="metrics auc; choose from hr, recall"):
        ranking_at_k([[1, 0]], [[1, 0]], [1], ["auc"])


def test_groups_are_means_over_their_rows() -> None:
    rng = np.random.default_rng(2)
    scores, relevance = rng.random((30, 6)), np.eye(6)[rng.integers(0, 6, 30)]
    domain, cold = rng.choice(["Books", "Music"], 30), rng.random(30) < 0.3
    history = np.digitize(rng.permutation(30), [5, 10])
    metric = evaluate.load(str(FOLDER))
    groups = {"domain": domain, "cold": cold, "history": history}
    got = metric.compute(predictions=scores, references=relevance, k=[1, 3], groups=groups)
    per_row = ranking_at_k(scores, relevance, [1, 3])
    assert set(got) == {*per_row, "groups"} and list(got["groups"]) == ["domain", "cold", "history"]
    assert list(got["groups"]["domain"]) == ["Books", "Music"] and list(got["groups"]["history"]) == ["0", "1", "2"]
    for name, labels in groups.items():
        for label in set(labels.tolist()):
            mine = [i for i in range(30) if labels[i] == label]
            means = {metric: pytest.approx(values[mine].mean()) for metric, values in per_row.items()}
            assert got["groups"][name][str(label)] == {"rows": len(mine), **means}
    with pytest.raises(ValueError, match=r"groups: 'domain' has labels of shape \(2,\) for 30 rows"):
        group_means(per_row, {"domain": ["a", "b"]})


@pytest.mark.parametrize(
    ("scores", "relevance", "ks", "message"),
    [
        ([[0.1, float("nan")]], [[1, 0]], [1], "row 0, candidate 1 is NaN"),
        ([[0.1, 0.2]], [[1, 0, 0]], [1], "1 x 2 and relevance 1 x 3"),
        ([[0.1, 0.2], [0.1]], [[1, 0], [1]], [1], "unequal length"),
        ([[0.1, 0.2]], [[1, 0]], [3], "k = 3 with rows of 2"),
        ([[0.1, 0.2]], [[1, 0]], [0], "choose k from 1 to 2"),
        ([[0.1, 0.2], [0.1, 0.2]], [[1, 0], [0, 0]], [1], "row 1 has no relevant"),
        ([[0.1, 0.2]], [[1, -1]], [1], "row 0, candidate 1 is -1"),
        ([0.1, 0.2], [1, 0], [1], "expected \\[rows, candidates\\]"),
    ],
)
def test_bad_input_is_refused_by_name(scores: list, relevance: list, ks: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranking_at_k(scores, relevance, ks)


def test_loads_by_path_and_gives_the_readme_example() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(predictions=[[0.7, 0.7, 0.1]], references=[[1, 0, 0]], k=[1, 2])
    assert got == pytest.approx(
        {
            "hr@1": 0.5, "recall@1": 0.5, "precision@1": 0.5, "ndcg@1": 0.5, "mrr@1": 0.5, "map@1": 0.5,
            "hr@2": 1.0, "recall@2": 1.0, "precision@2": 0.5, "ndcg@2": 0.5 + 0.5 / math.log2(3), "mrr@2": 0.75,
            "map@2": 0.75,
        }
    )  # fmt: skip


def test_through_evaluate_close_float64_scores_are_not_ties() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(predictions=[[1.0, 1.0 + 1e-12]], references=[[1, 0]], k=[1])
    assert got["hr@1"] == 0.0
