"""Hybrids against plain loops, a generic optimiser, and a world whose weights are known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from cprec_hf.errors import InputError
from cprec_hf.evaluation import fitters
from cprec_hf.evaluation import task as task_module
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.hybrid import PENALTY_GRID, fit_hybrid, fit_weights, standardised
from cprec_hf.evaluation.methods import Task, fit_method, measure_method
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.evaluation.rows import Catalogue, Rows
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k

ITEMS = [f"i{n}" for n in range(12)]
CATALOGUE = Catalogue(pa.array(ITEMS), pa.array(ITEMS))
PARTS = ["popularity", "kNN", "words"]
METHODS = [
    MethodConfig("both", "hybrid", parts=PARTS),
    MethodConfig("popularity", "popularity"),
    MethodConfig("kNN", "item_knn"),
    MethodConfig("words", "title_overlap"),
]


def rows_of(users: list[str], histories: list[list[int]], targets: list[int], offered: list[list[int]] | None) -> Rows:
    lists = pa.list_(pa.string())
    columns = {
        "user_id": pa.array(users), "history": pa.array([[ITEMS[i] for i in h] for h in histories], lists),
        "target": pa.array([ITEMS[t] for t in targets]),
    }  # fmt: skip
    if offered is not None:
        columns["candidates"] = pa.array([[ITEMS[i] for i in c] for c in offered], lists)
    column = None if offered is None else "candidates"
    return Rows.from_table(pa.table(columns), CATALOGUE, "toy", column, "validation")


SCORE = st.one_of(st.floats(-50, 50).map(lambda x: round(x, 3)), st.just(-math.inf), st.just(math.inf))


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.lists(SCORE, min_size=12, max_size=12), st.sets(st.integers(1, 11))), min_size=1, max_size=3)
)
def test_standardised_scores_equal_plain_loops(problem: list[tuple[list[float], set[int]]]) -> None:
    scores = np.array([row for row, _ in problem])
    histories = [sorted(past) for _, past in problem]
    rows = rows_of([f"u{i}" for i in range(len(problem))], histories, [0] * len(problem), None)
    got = standardised({"one": lambda _: scores}, rows)[0]
    for i, (row, past) in enumerate(problem):
        ranked = [j for j in range(12) if j not in past]
        finite = [row[j] for j in ranked if math.isfinite(row[j])]
        values = [min(max(row[j], min(finite)), max(finite)) if finite else 0.0 for j in ranked]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        expected = np.zeros(12)
        if spread > 1e-9:
            expected[ranked] = [(v - mean) / spread for v in values]
        np.testing.assert_allclose(got[i], expected, atol=1e-6)


def problem(seed: int, n: int, weights: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of 6 candidates, the last of some not ranked, whose target is drawn from the softmax."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(weights), n, 6))
    ranked = np.ones((n, 6), dtype=bool)
    ranked[::3, 5] = False
    logits = np.where(ranked, np.tensordot(weights, features, axes=1), -np.inf)
    target = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return features, ranked, target, rng.uniform(0.5, 2.0, n)


@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_weights_are_where_a_plain_loss_is_least(l2: float) -> None:
    features, ranked, target, weight = problem(0, 40, [1.0, -0.5])

    def loss(w: np.ndarray) -> float:
        total = 0.0
        for i in range(len(target)):
            logits = [float(w @ features[:, i, j]) for j in range(6) if ranked[i, j]]
            total += weight[i] * (math.log(sum(math.exp(x) for x in logits)) - float(w @ features[:, i, target[i]]))
        return total / float(weight.sum()) + l2 / 2 * float(w @ w)

    found = fit_weights(features, ranked, target, weight, l2)
    other = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    np.testing.assert_allclose(found, other.x, atol=1e-4)


def test_known_weights_are_found_again() -> None:
    found = fit_weights(*problem(1, 20_000, [1.5, 0.0, -0.7]), 0.0)
    np.testing.assert_allclose(found, [1.5, 0.0, -0.7], atol=0.05)


def test_the_penalty_is_judged_by_users_left_out() -> None:
    rng = np.random.default_rng(3)
    offered = [rng.permutation(12)[:6].tolist() for _ in range(60)]
    users = [f"u{i // 2}" for i in range(60)]
    rows = rows_of(users, [[]] * 60, [c[0] for c in offered], offered)
    noise, signal = rng.normal(size=(60, 6)), rng.normal(size=(60, 6)) + np.eye(6)[0] * 2
    parts = {"noise": lambda part: noise[part.first :][: len(part)], "signal": lambda part: signal}
    score, record = fit_hybrid(parts, rows, 3, seed=0)
    assert [tried["l2"] for tried in record["grid"]] == [setting.l2 for setting in PENALTY_GRID]
    assert record["validation"] == max(tried["validation"] for tried in record["grid"])
    assert record["weights"]["signal"] > 3 * abs(record["weights"]["noise"])
    weights = [record["weights"]["noise"], record["weights"]["signal"]]
    np.testing.assert_allclose(score(rows), np.tensordot(weights, standardised(parts, rows), axes=1))
    # The value of one setting again, users dealt out as the function does: whole users, five folds.
    folds = np.random.default_rng(0).permutation(30) % 5
    features, fold = standardised(parts, rows), folds[rows.users]
    scores = np.empty((60, 6))
    for i in range(5):
        inside = np.flatnonzero(fold != i)
        fitted = fit_weights(
            features[:, inside], np.ones((len(inside), 6), bool), np.zeros(len(inside), int), np.ones(len(inside)), 0.1
        )
        scores[fold == i] = np.tensordot(fitted, features[:, fold == i], axes=1)
    ndcg = rows.per_user(ranking_at_k(scores, rows.relevance, [3])["ndcg@3"]).mean()
    assert record["grid"][2]["validation"] == pytest.approx(ndcg, abs=1e-9)


def config(corpus: Path, output: Path, methods: list[MethodConfig], **more: Any) -> EvaluateConfig:
    return EvaluateConfig(corpus=str(corpus), domain="Music", output=str(output), methods=methods, k=[1, 5], **more)


@pytest.mark.parametrize("candidates", [None, "all"])
def test_parts_are_scored_once_and_keep_their_values(
    corpus: Path, tmp_path: Path, candidates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Task.load(config(corpus, tmp_path, METHODS[1:], candidates=candidates))
    expected = {method.name: measure_method(method, alone) for method in METHODS[1:]}
    calls: list[str] = []
    for kind in ("popularity", "item_knn", "title_overlap"):
        fit = fitters.FITTERS[kind]
        monkeypatch.setitem(fitters.FITTERS, kind, lambda m, t, fit=fit: (calls.append(m.name), fit(m, t))[1])
    task = Task.load(config(corpus, tmp_path, METHODS, candidates=candidates))
    found = {method.name: measure_method(method, task) for method in METHODS}
    assert sorted(calls) == sorted(PARTS)
    for name, one in expected.items():
        assert one.record == found[name].record
        for metric, values in one.metrics.items():
            np.testing.assert_array_equal(found[name].metrics[metric], values)
    weights = found["both"].record["weights"]
    scores = {m.name: fit_method(m, alone)[0] for m in METHODS[1:]}
    by_hand = np.tensordot(list(weights.values()), standardised(scores, alone.rows), axes=1)
    np.testing.assert_allclose(fit_method(METHODS[0], task)[0](task.rows), by_hand)


def test_a_hybrid_is_a_row_of_its_own_and_fits_on_validation_only(corpus: Path, tmp_path: Path) -> None:
    folder = run_evaluation(config(corpus, tmp_path / "out", METHODS))
    rows = {m["name"]: m for m in json.loads((folder / "results.json").read_text())["methods"]}
    assert list(rows) == ["both", "popularity", "kNN", "words"] and set(rows["both"]["weights"]) == set(PARTS)
    names = pq.read_schema(folder / "per_user.parquet").names
    assert names[2].startswith("both/") and names[-1].startswith("words/")
    moved = tmp_path / "moved"
    for path in corpus.rglob("*.*"):
        (moved / path.relative_to(corpus)).parent.mkdir(parents=True, exist_ok=True)
        (moved / path.relative_to(corpus)).write_bytes(path.read_bytes())
    test = pq.read_table(moved / "sft-music" / "test.parquet")
    others = [next(c for c in row["candidates"] if c != row["target"]) for row in test.to_pylist()]
    pq.write_table(test.set_column(4, "target", [others]), moved / "sft-music" / "test.parquet")
    again = json.loads((run_evaluation(config(moved, tmp_path / "again", METHODS)) / "results.json").read_text())
    assert again["methods"][0]["weights"] == rows["both"]["weights"]
    assert again["methods"][0]["metrics"] != rows["both"]["metrics"]


def test_hybrids_of_hybrids_run_and_those_on_validation_too(corpus: Path, tmp_path: Path) -> None:
    methods = [MethodConfig("all", "hybrid", parts=["both", "random"]), *METHODS, MethodConfig("random", "random")]
    task = Task.load(config(corpus, tmp_path, methods, split="validation"))
    both = measure_method(methods[0], task)
    assert set(both.record["weights"]) == {"both", "random"} and set(task.fitted) == {"both", "random", *PARTS}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_best_of_several_is_the_one_validation_prefers(corpus: Path, tmp_path: Path, split: Any) -> None:
    chosen = MethodConfig("best", "best_of", parts=PARTS)
    methods = [chosen, MethodConfig("all", "hybrid", parts=["best", "kNN"]), *METHODS[1:]]
    ndcg = {}
    for method in METHODS[1:]:
        task = Task.load(config(corpus, tmp_path, [method], split="validation"))
        ndcg[method.name] = task.rows.per_user(measure_method(method, task).metrics["ndcg@5"]).mean()
    best = max(ndcg, key=lambda name: ndcg[name])
    task = Task.load(config(corpus, tmp_path, methods, split=split))
    found = measure_method(chosen, task)
    assert found.record["chosen"] == {"method": best} and found.record["by"] == "ndcg@5 on validation"
    assert {one["method"]: one["validation"] for one in found.record["grid"]} == pytest.approx(ndcg)
    alone = measure_method(next(method for method in methods if method.name == best), task)
    for metric, values in alone.metrics.items():
        np.testing.assert_array_equal(found.metrics[metric], values)
    assert set(measure_method(methods[1], task).record["weights"]) == {"best", "kNN"}


def test_what_would_not_fit_into_memory_is_said_before(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "_MOST_KEPT", 1000)
    with pytest.raises(InputError, match="3 `parts` would hold"):
        Task.load(config(corpus, tmp_path, METHODS))
