"""Lists made of scores, and what they are like, by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from cprec_hf.evaluation.baselines import title_words
from cprec_hf.evaluation.lists import list_figures, top_items
from cprec_hf.evaluation.rows import Catalogue, Rows

TITLES = ["red pen", "red cup", "blue cup", "ink"]
IDS = ["a", "b", "c", "d"]


def rows_of(histories: list[list[str]]) -> Rows:
    lists = pa.list_(pa.string())
    n = len(histories)
    columns = {
        "user_id": pa.array([f"u{i}" for i in range(n)]), "history": pa.array(histories, lists),
        "target": pa.array(["d"] * n), "candidates": pa.array([IDS] * n, lists),
    }  # fmt: skip
    return Rows.from_table(pa.table(columns), Catalogue(pa.array(IDS), pa.array(TITLES)), "toy")


def test_the_best_stand_first_and_equals_in_drawn_order() -> None:
    scores = np.tile([1.0, 3.0, 1.0, -np.inf, 2.0, 1.0], (6000, 1))
    candidates = np.tile([10, 11, 12, 13, 14, 15], (6000, 1))
    found = top_items(scores, candidates, 3, np.random.default_rng(0))
    assert (found[:, :2] == [11, 14]).all()
    items, counts = np.unique(found[:, 2], return_counts=True)
    assert items.tolist() == [10, 12, 15] and np.abs(counts - 2000).max() < 150


def test_figures_by_hand() -> None:
    lists = np.array([[0, 1], [0, 3], [2, 3]])
    popularity = np.array([6, 2, 0, 0])
    found = list_figures(lists, rows_of([["b"], [], ["a", "d"]]), popularity, title_words(pa.array(TITLES)), [1, 2])
    assert set(found) == {"1", "2"} and found["1"]["coverage"] == 0.5 and found["2"]["coverage"] == 1.0
    # Shown once or twice: 1, 1, 2, 2 of 6. Sum of (2j - 5) times the sorted shares, over 3.
    assert found["2"]["gini"] == pytest.approx((-3 * 1 - 1 * 1 + 1 * 2 + 3 * 2) / 6 / 3)
    bits = [-math.log2(n / 12) for n in (7, 3, 1, 1)]
    assert found["1"]["novelty"] == pytest.approx((bits[0] + bits[0] + bits[2]) / 3)
    # One word of two in common, none, none.
    assert found["1"]["intra_list_diversity"] is None
    assert found["2"]["intra_list_diversity"] == pytest.approx((0.5 + 1 + 1) / 3)
    # Histories hold 2, and 6 and 0; the row without one is left out on both sides.
    assert found["1"]["popularity_lift"] == pytest.approx((6 + 0) / 2 / ((2 + 3) / 2) - 1)


def test_histories_of_unknown_items_have_no_lift() -> None:
    found = list_figures(np.array([[0]]), rows_of([["c"]]), np.array([6, 2, 0, 0]), title_words(pa.array(TITLES)), [1])
    assert found["1"]["popularity_lift"] is None
