"""Paired significance over users: percentile bootstrap, paired t-test, effect size. All vectorised over resamples.

Every method and metric is resampled with the same users at once, so differences of resampled means are resampled
differences. Efron and Tibshirani 1993, chapters 13 and 16; the number of resamples and 95 % are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cprec_hf.errors import InputError

RESAMPLES = 10_000
_WEIGHTS = 1 << 22  # resampling weights held at once: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A method against a reference on the same users: mean difference (method - reference) and how sure it is."""

    difference: float
    low: float
    high: float
    effect: float | None
    """Cohen's d of paired differences: their mean / their standard deviation; None if they do not vary but differ."""
    p_bootstrap: float
    """Two-sided: twice the smaller share of resampled differences at or beyond 0, as (count + 1) / (resamples + 1)."""
    t: float | None
    p_t: float
    """Two-sided paired t-test."""


def bootstrap_means(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Means of resampled users, the same users for every column. Shapes: [users, columns] -> [resamples, columns].

    Raises:
        InputError: fewer than two users.
    """
    users = len(values)
    if users < 2:
        raise InputError(f"significance over users needs at least two of them, and there are {users}")
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    block = max(1, _WEIGHTS // users)
    for start in range(0, resamples, block):
        n = min(block, resamples - start)
        drawn = rng.integers(0, users, (n, users)) + np.arange(n)[:, None] * users
        weights = np.bincount(drawn.ravel(), minlength=n * users).reshape(n, users)
        means[start : start + n] = weights @ values / users
    return means


def estimate(values: np.ndarray, means: np.ndarray) -> Estimate:
    """Mean of `values` [users] and the 95 % percentile interval of its resampled `means` [resamples]."""
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def compare(method: np.ndarray, reference: np.ndarray, means: np.ndarray) -> Comparison:
    """Paired comparison of two methods on the same users.

    Args:
        method, reference: a metric's values [users], in the same order of users.
        means: resampled means of their difference [resamples].
    """
    gaps = method - reference
    difference, spread = float(gaps.mean()), float(gaps.std(ddof=1))
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_bootstrap = min(1.0, 2.0 * (tail + 1) / (len(means) + 1))
    if spread <= 1e-12 * max(1.0, abs(difference)):  # no variation: the t statistic is 0 or infinite
        same = abs(difference) <= 1e-12
        return Comparison(
            difference, float(low), float(high), 0.0 if same else None, p_bootstrap, 0.0 if same else None, float(same)
        )
    t, p_t = stats.ttest_rel(method, reference)
    return Comparison(difference, float(low), float(high), difference / spread, p_bootstrap, float(t), float(p_t))
