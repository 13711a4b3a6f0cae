"""ranking_at_k against brute force over every order of the tied candidates, and through `evaluate`."""

import importlib.util
import itertools
import json
import math
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.metrics.ranking_at_k import ranking_at_k as module
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k

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
    values: dict[str, list[float]] = {"hr": [], "ndcg": [], "mrr": [], "recall": []}
    for gains in orders:
        hits = [i for i, g in enumerate(gains[:k]) if g > 0]
        values["hr"].append(float(bool(hits)))
        values["recall"].append(len(hits) / total)
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
    ks = list(range(1, len(scores[0]) + 1))
    got = ranking_at_k(scores, relevance, ks)
    for row, (s, r) in enumerate(zip(scores, relevance, strict=True)):
        for k in ks:
            for name, expected in by_enumeration(s, r, k).items():
                assert got[f"{name}@{k}"][row] == pytest.approx(expected, abs=1e-12), (name, k, s, r)


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
            "hr@1": 0.5, "ndcg@1": 0.5, "mrr@1": 0.5, "recall@1": 0.5,
            "hr@2": 1.0, "ndcg@2": 0.5 + 0.5 / math.log2(3), "mrr@2": 0.75, "recall@2": 1.0,
        }
    )  # fmt: skip


def test_through_evaluate_close_float64_scores_are_not_ties() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(predictions=[[1.0, 1.0 + 1e-12]], references=[[1, 0]], k=[1])
    assert got["hr@1"] == 0.0


def test_the_space_folder_is_complete() -> None:
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and front["tags"] == ["evaluate", "metric"] and front["app_file"] == "app.py"
    assert "import cprec_hf" not in (text := (FOLDER / "ranking_at_k.py").read_text()) and "from cprec_hf" not in text
    assert {line.split(">")[0] for line in (FOLDER / "requirements.txt").read_text().split()} >= {"evaluate", "numpy"}


def test_the_app_answers_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))  # as on a Space, where the folder is the working directory
    monkeypatch.delitem(sys.modules, "ranking_at_k", raising=False)
    spec = importlib.util.spec_from_file_location("ranking_app", FOLDER / "app.py")
    assert spec and spec.loader
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    got = app.answer(json.dumps([[0.9, 0.5, 0.1]]), json.dumps([[0, 1, 0]]), "1, 2")
    assert got["hr@1"] == 0.0 and got["hr@2"] == 1.0
    assert "unequal length" in app.answer("[[1, 2], [1]]", "[[1, 0], [1]]", "1")["error"]
