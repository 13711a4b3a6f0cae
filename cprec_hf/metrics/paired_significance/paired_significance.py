"""Is one method better than another on the same users? Paired bootstrap, t-test, Wilcoxon, effect sizes, Holm.

Over users and seeds:      compare_paired(method, reference, users=users, seeds=seeds)
Over many datasets:        holm([p of the first dataset, p of the second, ...])
Many methods at once:      means = bootstrap_means(values, seed=0); compare(a, b, means[:, i] - means[:, j])
As an `evaluate` module:   evaluate.load("path/to/paired_significance").compute(
                               predictions1=method, predictions2=reference, users=users, seeds=seeds)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
from scipy import stats

_DESCRIPTION = """
Compares two methods on the same users, from one value of a metric per user (and seed) and method: the mean difference
with a 95 % bootstrap interval and p-value, the paired t-test, Wilcoxon's signed-rank test, effect sizes with intervals,
and, where runs were repeated, what resampling the seeds adds. Over several datasets, p-values are adjusted by Holm.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions1: the method's values, one number per row (a user, or a user of a seed); higher is better.
    predictions2: the reference's values of the same rows.
    users: a label per row; rows of one user (and seed) are averaged. Default: each row is a user.
    seeds: a label per row, of the run it comes from. Default: one run.
    groups: a label per row, for example the dataset: each is compared alone and its p-values are adjusted by Holm.
    resamples, seed: of the bootstrap, how many and from which random numbers. Default 10000 and 0.
Returns:
    difference, low, high, effect, effect_low, effect_high, rank_biserial, p_bootstrap, t, p_t, p_wilcoxon, users,
    seeds, t_seeds and p_t_seeds, see the card; with `groups` such a dict per label, with p_bootstrap_holm, p_t_holm and
    p_wilcoxon_holm.
Examples:
    >>> test = evaluate.load("paired_significance")
    >>> found = test.compute(predictions1=[0.5, 0.75, 0.75, 1.0], predictions2=[0.25, 0.5, 0.75, 0.5])
    >>> round(found["difference"], 4), round(found["t"], 4), round(found["p_t"], 4)
    (0.25, 2.4495, 0.0917)
"""

_CITATION = """
@article{owen2007pigeonhole, title={The pigeonhole bootstrap}, author={Owen, Art B.},
  journal={Annals of Applied Statistics}, volume={1}, number={2}, pages={386--411}, year={2007}}
@article{holm1979simple, title={A Simple Sequentially Rejective Multiple Test Procedure}, author={Holm, Sture},
  journal={Scandinavian Journal of Statistics}, volume={6}, number={2}, pages={65--70}, year={1979}}
"""

RESAMPLES = 10_000
_WEIGHTS = 1 << 22  # resampling weights held at once: 32 MB
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
    """Where the 95 % percentile interval of the difference begins, by bootstrap, and `high` where it ends."""
    high: float
    effect: float | None
    """Cohen's d of paired differences: their mean / their standard deviation; None if they do not vary but differ."""
    p_bootstrap: float
    """Two-sided: twice the smaller share of resampled differences at or beyond 0, as (count + 1) / (resamples + 1)."""
    t: float | None
    p_t: float
    """Two-sided paired t-test over users."""
    effect_low: float | None = None
    """The effect's 95 % interval, effect -+ 1.96 sqrt(1 / users + effect^2 / (2 users)): large samples."""
    effect_high: float | None = None
    p_wilcoxon: float = 1.0
    """Two-sided signed-rank test over users, users without a difference left out; 1 if that leaves none."""
    rank_biserial: float = 0.0
    """The effect in ranks: (rank sum where the method is better - where it is worse) / both, from -1 to 1."""
    users: int = 0
    seeds: int = 1
    t_seeds: float | None = None
    """Of the t-test over the seeds' mean differences, which asks about new runs; None with one seed or no variation."""
    p_t_seeds: float | None = None


def bootstrap_means(values: Floats, seed: int | np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Means of resampled users, the same users for every column. Shapes: [users, columns] -> [resamples, columns].

    Raises:
        ValueError: fewer than two users.
    """
    users = len(values)
    if users < 2:
        raise ValueError(f"significance over users needs at least two of them, and there are {users}")
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    block = max(1, _WEIGHTS // users)
    for start in range(0, resamples, block):
        n = min(block, resamples - start)
        drawn = rng.integers(0, users, (n, users)) + np.arange(n)[:, None] * users
        weights = np.bincount(drawn.ravel(), minlength=n * users).reshape(n, users)
        means[start : start + n] = weights @ values / users
    return means


def estimate(values: Floats, means: Floats) -> Estimate:
    """Mean of `values` [users] and the 95 % percentile interval of its resampled `means` [resamples]."""
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def compare(method: Floats, reference: Floats, means: Floats) -> Comparison:
    """Paired comparison of two methods on the same users.

    Args:
        method, reference: a metric's values [users], in the same order of users.
        means: resampled means of their difference [resamples].
    """
    gaps = np.asarray(method, np.float64) - np.asarray(reference, np.float64)
    users = len(gaps)
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    p_bootstrap = min(1.0, 2.0 * (tail + 1) / (len(means) + 1))
    t, p_t = _t_test(gaps)
    effect = None if t is None else t / users**0.5
    half = None if effect is None else 1.96 * (1 / users + effect**2 / (2 * users)) ** 0.5
    moved = np.round(gaps[np.abs(gaps) > 1e-12], 12)  # what averaging rounds is no difference
    ranks = stats.rankdata(np.abs(moved))
    return Comparison(
        difference=float(gaps.mean()),
        low=float(low),
        high=float(high),
        effect=effect,
        p_bootstrap=float(p_bootstrap),
        t=t,
        p_t=p_t,
        effect_low=None if effect is None or half is None else effect - half,
        effect_high=None if effect is None or half is None else effect + half,
        p_wilcoxon=float(stats.wilcoxon(moved).pvalue) if len(moved) else 1.0,
        rank_biserial=float(ranks @ np.sign(moved) / ranks.sum()) if len(moved) else 0.0,
        users=users,
    )


def compare_paired(
    method: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    users: npt.ArrayLike,
    seeds: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Two methods on the same users in the same runs, resampled on two levels: seeds, then users.

    The difference is the mean over seeds of each seed's mean over users. A resample draws the seeds with replacement,
    and users with replacement: where all seeds have users of their own (a world made anew), each drawn seed draws among
    its own; where seeds share users, one draw of users serves all seeds, since a user who is easy is so in every run
    (the pigeonhole bootstrap, Owen 2007). Both err to the careful side. The t-test and Wilcoxon's go over users, each
    averaged over the seeds that have them; the t-test over the seeds' means stands apart.

    Args:
        method, reference: a metric's values [n]; rows of the same user and seed are averaged.
        users, seeds: labels [n]; without `seeds` there is one.
        resamples: of the bootstrap.
        seed: of its random numbers.

    Raises:
        ValueError: unequal lengths, values that are not finite, fewer than two users (in a seed with its own ones).
    """
    a, b = np.asarray(method, np.float64), np.asarray(reference, np.float64)
    of = np.zeros(len(a), np.int64) if seeds is None else np.unique(np.asarray(seeds), return_inverse=True)[1]
    who = np.unique(np.asarray(users), return_inverse=True)[1]
    if not a.shape == b.shape == of.shape == who.shape or a.ndim != 1:
        raise ValueError(f"method, reference, users, seeds have shapes {a.shape}, {b.shape}, {who.shape}, {of.shape}")
    wrong = ~np.isfinite(a) | ~np.isfinite(b)
    if wrong.any() or not len(a):
        at = f"row {int(wrong.argmax())} is not a finite number" if len(a) else "there are no rows"
        raise ValueError(f"{at}; give a value of each method for every user")
    n_seeds, cells = int(of.max()) + 1, (int(who.max()) + 1) * (int(of.max()) + 1)
    pairs, cell, rows = np.unique(who * n_seeds + of, return_inverse=True, return_counts=True)
    who, of = pairs // n_seeds, pairs % n_seeds
    a, b = np.bincount(cell, a) / rows, np.bincount(cell, b) / rows
    per_seed = np.bincount(of, a - b) / np.bincount(of)

    rng = np.random.default_rng(seed)
    gaps = a - b
    if len(pairs) == who.max() + 1:  # every user has one seed
        drawn = rng.integers(0, n_seeds, (resamples, n_seeds)) if n_seeds > 1 else np.zeros((resamples, 1), np.int64)
        means = np.empty(drawn.shape)
        for s in range(n_seeds):
            means[drawn == s] = _resampled(gaps[of == s], rng, int((drawn == s).sum()))
    else:
        there, values = np.zeros(cells), np.zeros(cells)
        there[pairs], values[pairs] = 1.0, gaps
        both = np.concatenate([values.reshape(-1, n_seeds), there.reshape(-1, n_seeds)], axis=1)
        means = bootstrap_means(both, rng, resamples)
        # A resample without any user of a seed has nothing to say of it: the seed's mean stands in.
        share = means[:, n_seeds:]
        means = np.where(share > 0, means[:, :n_seeds] / np.where(share > 0, share, 1.0), per_seed)
        means = np.take_along_axis(means, rng.integers(0, n_seeds, means.shape), 1)

    times = np.bincount(who)
    found = compare(np.bincount(who, a) / times, np.bincount(who, b) / times, means.mean(axis=1))
    t, p_t = _t_test(per_seed) if n_seeds > 1 else (None, None)
    return dataclasses.replace(found, difference=float(per_seed.mean()), seeds=n_seeds, t_seeds=t, p_t_seeds=p_t)


def holm(p_values: npt.ArrayLike) -> Floats:
    """P-values [n] adjusted for being n, by Holm's step-down: the share of false alarms stays under the level.

    Raises:
        ValueError: not one dimension, or not all from 0 to 1.
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values {p.tolist()}; give a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def summarise(
    method: npt.ArrayLike,
    reference: npt.ArrayLike,
    users: npt.ArrayLike | None = None,
    seeds: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """`compare_paired` as a dict; with `groups` [n] one for each label, with the p-values adjusted over the labels.

    Raises:
        ValueError: what `compare_paired` refuses; labels of another length.
    """
    a, b = np.asarray(method, np.float64), np.asarray(reference, np.float64)
    who = np.arange(len(a)) if users is None else np.asarray(users)
    run = np.zeros(len(a), np.int64) if seeds is None else np.asarray(seeds)
    if groups is None:
        return dataclasses.asdict(compare_paired(a, b, users=who, seeds=run, resamples=resamples, seed=seed))
    labels, of = np.unique(np.asarray(groups), return_inverse=True)
    if not len(a) == len(b) == len(who) == len(run) == len(of):
        raise ValueError(f"{len(a)} and {len(b)} values, {len(who)} users, {len(run)} seeds, {len(of)} groups")
    found: dict[str, Any] = {}
    for i, label in enumerate(labels):
        mine = of == i
        found[str(label)] = summarise(a[mine], b[mine], who[mine], run[mine], None, resamples, seed)
    for test in ("p_bootstrap", "p_t", "p_wilcoxon"):
        for one, adjusted in zip(found.values(), holm([one[test] for one in found.values()]), strict=True):
            one[f"{test}_holm"] = float(adjusted)
    return found


def _t_test(gaps: Floats) -> tuple[float | None, float]:
    """The one-sample t statistic and its two-sided p; without variation 0 and 1, or None and 0 if the mean is not 0."""
    difference, spread = float(gaps.mean()), float(gaps.std(ddof=1))
    if spread <= 1e-12 * max(1.0, abs(difference)):  # the statistic would be 0 / 0, or infinite
        same = abs(difference) <= 1e-12
        return (0.0, 1.0) if same else (None, 0.0)
    t = difference / spread * np.sqrt(len(gaps))
    return float(t), float(2 * stats.t.sf(abs(t), len(gaps) - 1))


def _resampled(gaps: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    """Means of resampled `gaps` [users] -> [resamples]. Few distinct values, as of hr@1, are drawn as their counts."""
    values, counts = np.unique(gaps, return_counts=True)
    if len(gaps) < 2 or 8 * len(values) > len(gaps):
        return bootstrap_means(gaps[:, None], rng, resamples)[:, 0]
    return rng.multinomial(len(gaps), counts / len(gaps), resamples) @ values / len(gaps)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PairedSignificance(evaluate.Comparison):
    """Two methods on the same users as an `evaluate` comparison; see `compare_paired`."""

    def _info(self) -> evaluate.ComparisonInfo:
        value = datasets.Value("float64")
        return evaluate.ComparisonInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions1": value, "predictions2": value}),
        )

    def _compute(self, predictions1: Any, predictions2: Any, **options: Any) -> dict[str, Any]:
        return summarise(predictions1, predictions2, **options)
