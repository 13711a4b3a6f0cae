"""Significance against textbook formulas and plain loops."""

import math

import numpy as np
import pytest
from scipy import stats

from cprec_hf.errors import InputError
from cprec_hf.evaluation import significance
from cprec_hf.evaluation.significance import bootstrap_means, compare, estimate


def test_resampled_means_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((7, 3))
    rng = np.random.default_rng(9)
    expected = [values[rng.integers(0, 7, 7)].mean(axis=0) for _ in range(20)]
    np.testing.assert_allclose(bootstrap_means(values, 9, 20), expected, atol=1e-12)
    monkeypatch.setattr(significance, "_WEIGHTS", 14)  # two resamples at a time
    np.testing.assert_allclose(bootstrap_means(values, 9, 20), expected, atol=1e-12)


def test_interval_agrees_with_the_normal_one_on_many_users() -> None:
    values = np.random.default_rng(2).random(2000)
    got = estimate(values, bootstrap_means(values[:, None], 0, 4000)[:, 0])
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_comparison_follows_the_formulas() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(50) + 0.1, rng.random(50)
    means = bootstrap_means((a - b)[:, None], 1, 3000)[:, 0]
    got = compare(a, b, means)
    gaps = a - b
    t = gaps.mean() / (gaps.std(ddof=1) / math.sqrt(50))
    assert got.difference == pytest.approx(gaps.mean())
    assert got.effect == pytest.approx(gaps.mean() / gaps.std(ddof=1))
    assert got.t == pytest.approx(t)
    assert got.p_t == pytest.approx(2 * stats.t.sf(abs(t), 49))
    tail = min(sum(m <= 0 for m in means), sum(m >= 0 for m in means))
    assert got.p_bootstrap == pytest.approx(min(1, 2 * (tail + 1) / 3001))
    assert got.low < got.difference < got.high


def test_p_values_of_no_effect_are_uniform() -> None:
    rng = np.random.default_rng(4)
    below = 0
    for seed in range(200):
        gaps = rng.choice([-1.0, 0.0, 1.0], 60)
        result = compare(gaps, np.zeros(60), bootstrap_means(gaps[:, None], seed, 500)[:, 0])
        below += result.p_bootstrap < 0.1
    assert 8 <= below <= 36  # 20 expected, four standard deviations


def test_the_same_method_twice_differs_by_nothing() -> None:
    values = np.random.default_rng(5).random(30)
    got = compare(values, values, bootstrap_means(np.zeros((30, 1)), 0, 100)[:, 0])
    assert (got.difference, got.effect, got.t, got.p_t, got.p_bootstrap) == (0.0, 0.0, 0.0, 1.0, 1.0)


def test_a_constant_gap_is_certain() -> None:
    got = compare(np.full(30, 0.75), np.full(30, 0.5), bootstrap_means(np.full((30, 1), 0.25), 0, 999)[:, 0])
    assert got.difference == 0.25 and got.p_t == 0.0 and got.effect is None and got.t is None
    assert got.p_bootstrap == pytest.approx(0.002)


def test_one_user_is_not_enough() -> None:
    with pytest.raises(InputError, match="at least two"):
        bootstrap_means(np.ones((1, 2)), 0)
