"""ranking_at_k against ranx and cornac on random runs without ties, which neither takes in expectation.

Both are in the `dev` extra. Numba, which ranx is written in, is told to run plain Python: compiling takes minutes.
"""

import os

import numpy as np
import pytest

from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k

KS = [1, 3, 10]


def random_run(relevant: int, graded: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distinct scores and relevance of 40 rows of 25 candidates."""
    rng = np.random.default_rng(relevant)
    scores = rng.random((40, 25)).argsort(axis=1) / 7
    relevance = rng.random((40, 25)).argsort(axis=1) < relevant
    return scores, relevance * (rng.integers(1, 5, (40, 25)) if graded else 1)


@pytest.mark.parametrize(("relevant", "graded"), [(1, False), (4, False), (12, False), (4, True)])
def test_ranx_gives_the_same(relevant: int, graded: bool) -> None:
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    ranx = pytest.importorskip("ranx", reason="the dev extra has ranx")
    scores, relevance = random_run(relevant, graded)
    order = np.argsort(-scores, axis=1)
    run = np.stack([order, np.take_along_axis(scores, order, 1)], axis=2)
    best = np.argsort(-relevance, axis=1, kind="stable")[:, :relevant]
    qrels = np.stack([best, np.take_along_axis(relevance, best, 1)], axis=2).astype(float)
    named = {"hr": "hit_rate", "recall": "recall", "precision": "precision", "ndcg": "ndcg", "mrr": "mrr", "map": "map"}
    theirs = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in named.values() for k in KS], return_mean=False)
    ours = ranking_at_k(scores, relevance, KS)
    for name, their in named.items():
        for k in KS:
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs[f"{their}@{k}"], atol=1e-12, err_msg=f"{name}@{k}")


@pytest.mark.parametrize("relevant", [1, 4, 12])
def test_cornac_gives_the_same(relevant: int) -> None:
    """Its mrr and map know no cut-off, so they are compared with those of whole rows."""
    theirs = pytest.importorskip("cornac.metrics", reason="the dev extra has cornac")
    scores, relevance = random_run(relevant, graded=False)
    ours = ranking_at_k(scores, relevance, [*KS, 25])
    for row, (s, r) in enumerate(zip(scores, relevance, strict=True)):
        targets, ranked = np.flatnonzero(r), np.argsort(-s)
        for k in KS:
            for name, metric in (
                ("hr", "HitRatio"),
                ("recall", "Recall"),
                ("precision", "Precision"),
                ("ndcg", "NDCG"),
            ):
                expected = getattr(theirs, metric)(k=k).compute(targets, ranked)
                assert ours[f"{name}@{k}"][row] == pytest.approx(expected), (name, k)
        assert ours["mrr@25"][row] == pytest.approx(theirs.MRR().compute(targets, ranked))
        assert ours["map@25"][row] == pytest.approx(theirs.MAP().compute(np.arange(25), s, targets))
