"""paired_significance against textbook formulas, plain loops, other packages' numbers, and worlds without an effect."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cprec_hf.metrics.paired_significance import paired_significance as module
from cprec_hf.metrics.paired_significance.paired_significance import (
    Comparison,
    bootstrap_means,
    compare,
    compare_paired,
    estimate,
    holm,
    summarise,
)

FOLDER = Path(module.__file__).parent


def test_resampled_means_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).random((7, 3))
    rng = np.random.default_rng(9)
    expected = [values[rng.integers(0, 7, 7)].mean(axis=0) for _ in range(20)]
    np.testing.assert_allclose(bootstrap_means(values, 9, 20), expected, atol=1e-12)
    monkeypatch.setattr(module, "_WEIGHTS", 14)  # two resamples at a time
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
    d = gaps.mean() / gaps.std(ddof=1)
    assert got.difference == pytest.approx(gaps.mean())
    assert got.effect == pytest.approx(d)
    half = 1.96 * math.sqrt(1 / 50 + d * d / 100)
    assert (got.effect_low, got.effect_high) == (pytest.approx(d - half), pytest.approx(d + half))
    assert got.t == pytest.approx(t) == pytest.approx(stats.ttest_rel(a, b).statistic)
    assert got.p_t == pytest.approx(2 * stats.t.sf(abs(t), 49)) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    tail = min(sum(m <= 0 for m in means), sum(m >= 0 for m in means))
    assert got.p_bootstrap == pytest.approx(min(1, 2 * (tail + 1) / 3001))
    assert got.low < got.difference < got.high
    assert got.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert (got.users, got.seeds, got.t_seeds) == (50, 1, None)


def test_ranks_by_hand() -> None:
    """Differences -1, 2, 3, 0, 4: the zero is left out, ranks 1 to 4, 9 of 10 rank points for the method.

    Of the 16 ways to sign four ranks, those with 1 or less (or 9 or more) on one side are 2 (and 2): p = 4/16.
    """
    a, b = np.array([0.0, 2.0, 3.0, 1.0, 5.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    got = compare_paired(a, b, users=range(5), resamples=50)
    assert got.rank_biserial == pytest.approx(0.8)
    assert got.p_wilcoxon == pytest.approx(0.25)


def test_what_averaging_rounds_is_no_difference() -> None:
    a, b = np.array([0.1 + 0.2, 0.5, 0.7]), np.array([0.3, 0.25, 0.45])
    got = compare_paired(a, b, users=range(3), resamples=50)
    assert a[0] != b[0]
    assert got.p_wilcoxon == pytest.approx(0.5)  # two users differ, both the same way: 2 of 4 signings
    assert got.rank_biserial == 1.0


def test_p_values_of_no_effect_are_uniform() -> None:
    rng = np.random.default_rng(4)
    below = {"p_bootstrap": 0, "p_t": 0, "p_wilcoxon": 0}
    for seed in range(200):
        gaps = rng.choice([-1.0, 0.0, 1.0], 60)
        result = compare_paired(gaps, np.zeros(60), users=range(60), resamples=500, seed=seed)
        for test in below:
            below[test] += getattr(result, test) < 0.1
    assert all(8 <= n <= 36 for n in below.values()), below  # 20 expected, four standard deviations


def test_the_same_method_twice_differs_by_nothing() -> None:
    values = np.random.default_rng(5).random(30)
    got = compare(values, values, bootstrap_means(np.zeros((30, 1)), 0, 100)[:, 0])
    assert (got.difference, got.effect, got.t, got.p_t, got.p_bootstrap) == (0.0, 0.0, 0.0, 1.0, 1.0)
    assert (got.p_wilcoxon, got.rank_biserial) == (1.0, 0.0)


def test_a_constant_gap_is_certain() -> None:
    got = compare(np.full(30, 0.75), np.full(30, 0.5), bootstrap_means(np.full((30, 1), 0.25), 0, 999)[:, 0])
    assert got.difference == 0.25 and got.p_t == 0.0 and got.effect is None and got.t is None
    assert got.effect_low is None and got.effect_high is None
    assert got.p_bootstrap == pytest.approx(0.002)
    assert got.p_wilcoxon < 1e-6 and got.rank_biserial == 1.0


def test_one_user_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least two"):
        bootstrap_means(np.ones((1, 2)), 0)


# Seeds and users.


def spread(found: Comparison) -> float:
    return (found.high - found.low) / (2 * 1.96)


def test_one_seed_is_a_bootstrap_over_users() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.random(40), rng.random(40)
    alone = compare(a, b, bootstrap_means((a - b)[:, None], 11, 800)[:, 0])
    got = compare_paired(a, b, users=np.arange(40), resamples=800, seed=11)
    assert dataclasses.asdict(got) == pytest.approx(dataclasses.asdict(alone))


def test_few_distinct_values_are_resampled_as_any_others() -> None:
    """hr@1's gaps, drawn as counts of -1, 0 and 1, spread as the mean's standard error says."""
    gaps = np.random.default_rng(7).choice([-1.0, 0.0, 1.0], 900, p=[0.2, 0.5, 0.3])
    got = compare_paired(gaps, np.zeros(900), users=range(900))
    assert spread(got) == pytest.approx(gaps.std() / 30, rel=0.04)


def test_rows_of_one_user_and_seed_are_averaged() -> None:
    whole = compare_paired([1.0, 0.0, 0.5], [0.0, 0.0, 0.0], users=["u", "u", "v"], resamples=100)
    assert whole == compare_paired([0.5, 0.5], [0.0, 0.0], users=["u", "v"], resamples=100)


def test_seeds_with_users_of_their_own_are_resampled_on_both_levels() -> None:
    """The bootstrap's variance in closed form: of the seeds' means, plus the mean of the users' within a seed, by S."""
    rng = np.random.default_rng(8)
    gaps = rng.normal(size=(20, 30)) + rng.normal(size=(20, 1)) * 0.2 + 0.1  # 20 seeds of 30 users
    got = compare_paired(
        gaps.ravel(), np.zeros(600), users=np.arange(600), seeds=np.repeat(np.arange(20), 30), resamples=8000
    )
    variance = (gaps.mean(axis=1).var() + gaps.var(axis=1).mean() / 30) / 20
    assert spread(got) == pytest.approx(math.sqrt(variance), rel=0.05)
    assert got.difference == pytest.approx(gaps.mean())
    t, p = stats.ttest_1samp(gaps.mean(axis=1), 0)
    assert (got.t_seeds, got.p_t_seeds) == (pytest.approx(t), pytest.approx(p))
    assert got.p_t == pytest.approx(stats.ttest_1samp(gaps.ravel(), 0).pvalue)
    assert (got.users, got.seeds) == (600, 20)


def test_users_whom_seeds_share_are_drawn_once_for_all_seeds() -> None:
    """In closed form too. A draw within each seed alone would take a hundred easy users for two thousand."""
    rng = np.random.default_rng(9)
    gaps = rng.normal(size=(100, 1)) + 0.3 * rng.normal(size=(100, 20)) + 0.1 * rng.normal(size=20)
    users, seeds = np.meshgrid(np.arange(100), np.arange(20), indexing="ij")
    order = rng.permutation(2000)
    got = compare_paired(
        gaps.ravel()[order], np.zeros(2000), users=users.ravel()[order], seeds=seeds.ravel()[order], resamples=8000
    )
    of_users = gaps.mean(axis=1).var() / 100
    within = (gaps.var(axis=0).mean() - gaps.mean(axis=1).var()) / 100
    variance = of_users + (gaps.mean(axis=0).var() + within) / 20
    assert spread(got) == pytest.approx(math.sqrt(variance), rel=0.05)
    nested = math.sqrt((gaps.mean(axis=0).var() + gaps.var(axis=0).mean() / 100) / 20)
    assert spread(got) > 2 * nested
    # Over users, each averaged over the seeds: a hundred of them, not two thousand.
    assert got.users == 100
    assert got.p_t == pytest.approx(stats.ttest_1samp(gaps.mean(axis=1), 0).pvalue)
    assert got.p_wilcoxon == pytest.approx(stats.wilcoxon(gaps.mean(axis=1)).pvalue)


def test_users_whom_only_some_seeds_have() -> None:
    gaps, users, seeds = [1.0, 0.0, 1.0, 0.5], ["a", "b", "a", "c"], [0, 0, 1, 1]
    got = compare_paired(gaps, np.zeros(4), users=users, seeds=seeds, resamples=400)
    assert got.difference == pytest.approx((0.5 + 0.75) / 2)
    assert got.users == 3 and got.seeds == 2 and 0.0 <= got.low <= got.difference <= got.high <= 1.0


def test_two_seeds_with_no_variation_have_no_t() -> None:
    got = compare_paired([1.0, 0.5, 1.0, 0.5], np.zeros(4), users=[0, 1, 2, 3], seeds=[0, 0, 1, 1], resamples=50)
    assert got.t_seeds is None and got.p_t_seeds == 0.0


@pytest.mark.parametrize(
    ("method", "users", "seeds", "message"),
    [
        ([1.0, math.nan], [0, 1], None, "row 1 is not a finite number"),
        ([], [], None, "there are no rows"),
        ([1.0, 0.0], [0], None, r"shapes \(2,\), \(2,\), \(1,\)"),
        ([1.0, 0.0], [0, 0], None, "at least two of them, and there are 1"),
        ([1.0, 0.0, 1.0], [0, 1, 2], [0, 0, 1], "at least two of them, and there are 1"),
    ],
)
def test_bad_input_is_refused_by_name(method: list, users: list, seeds: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare_paired(method, np.zeros(len(method)), users=users, seeds=seeds)


# Holm.


def test_holm_by_hand() -> None:
    """Four tests: the smallest p times 4, the next times 3, ...; never smaller than the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).tolist() == []
    with pytest.raises(ValueError, match="numbers from 0 to 1"):
        holm([0.5, math.nan])


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_steps_reject(p: list[float], level: float) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - step) > level:
            break
        rejected.add(i)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


def test_groups_are_compared_apart_and_adjusted_together() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.random(90) + 0.05, rng.random(90)
    groups = np.repeat(["Books", "Games", "Music"], 30)
    found = summarise(a, b, None, None, groups, 300)
    assert list(found) == ["Books", "Games", "Music"]
    for i, one in enumerate(found.values()):
        mine = slice(30 * i, 30 * i + 30)
        alone = summarise(a[mine], b[mine], np.arange(90)[mine], resamples=300)
        assert {name: one[name] for name in alone} == alone
    for test in ("p_bootstrap", "p_t", "p_wilcoxon"):
        np.testing.assert_allclose([f[f"{test}_holm"] for f in found.values()], holm([f[test] for f in found.values()]))
    with pytest.raises(ValueError, match="89 groups"):
        summarise(a, b, None, None, groups[1:], 300)
