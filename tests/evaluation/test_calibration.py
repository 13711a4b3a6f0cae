"""Calibration against closed forms, plain loops, and choices drawn with known chances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.evaluation.calibration import LEAST, Probabilities, fit_temperature, probabilities, reliability


@settings(max_examples=80)
@given(
    st.lists(st.lists(st.integers(-6, 6), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(0, 3), st.sampled_from([0.5, 1.0, 3.0]),
)  # fmt: skip
def test_probabilities_equal_plain_loops(scores: list[list[int]], target: int, temperature: float) -> None:
    seen = probabilities(np.array(scores, dtype=float), np.full(len(scores), target), temperature)
    for i, row in enumerate(scores):
        chances = [math.exp(s / temperature) for s in row]
        assert seen.confidence[i] == pytest.approx(max(chances) / sum(chances))
        tied = [j for j, s in enumerate(row) if s == max(row)]
        assert seen.right[i] == pytest.approx(1 / len(tied) if target in tied else 0.0)
        expected = min(-math.log(chances[target] / sum(chances)), -math.log(LEAST))
        assert seen.log_loss[i] == pytest.approx(expected)


def test_infinite_scores_leave_finite_figures() -> None:
    scores = np.array([[np.inf, np.inf, 1.0], [-np.inf, 0.0, 0.0], [-np.inf, -np.inf, -np.inf]])
    seen = probabilities(scores, np.array([0, 0, 2]))
    np.testing.assert_allclose(seen.confidence, [0.5, 0.5, 1 / 3])
    np.testing.assert_allclose(seen.right, [0.5, 0.0, 1 / 3])
    np.testing.assert_allclose(seen.log_loss, [math.log(2), -math.log(LEAST), math.log(3)])


def test_reliability_by_hand() -> None:
    # Two rows between .6 and .7, one of them right and of half weight; one row sure and right.
    seen = Probabilities(np.array([0.62, 0.68, 1.0]), np.array([1.0, 0.0, 1.0]), np.array([0.5, 1.5, 0.0]))
    found = reliability(seen, np.array([1.0, 2.0, 1.0]))
    low, sure = found["bins"]
    assert (low["low"], low["high"], low["share"]) == (0.6, 0.7, 0.75)
    assert low["confidence"] == pytest.approx(0.66) and low["right"] == pytest.approx(1 / 3)
    assert (sure["low"], sure["high"], sure["confidence"], sure["right"]) == (0.9, 1.0, 1.0, 1.0)
    assert found["ece"] == pytest.approx(0.75 * (0.66 - 1 / 3))
    assert found["log_loss"] == pytest.approx((0.5 + 2 * 1.5) / 4)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_the_temperature_that_drew_the_choices_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 8)) * 3
    target = (scores / temperature + rng.gumbel(size=scores.shape)).argmax(axis=1)
    weight = np.ones(len(scores))
    found = fit_temperature(scores, target, weight)
    assert found == pytest.approx(temperature, rel=0.05)
    assert reliability(probabilities(scores, target, found), weight)["ece"] < 0.01
    if temperature != 1.0:
        assert reliability(probabilities(scores, target), weight)["ece"] > 0.1


def test_rows_of_a_user_weigh_as_one() -> None:
    scores, target = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), np.array([0, 1, 0])
    # Twice the first and third row as one user's, against the second: chances of 2/3 make 2 / T = log 2.
    found = fit_temperature(scores, target, np.array([1.0, 1.0, 1.0]))
    assert found == pytest.approx(2 / math.log(2), rel=1e-3)
    assert fit_temperature(scores, target, np.array([1.0, 0.5, 1.0])) == pytest.approx(2 / math.log(4), rel=1e-3)
