"""A hybrid: other methods' scores added up, with weights that fit what users chose in the validation rows.

    methods:
      - {name: CPRec, kind: model, model: outputs/tiny/sft, score: validation}
      - {name: item-kNN, kind: item_knn}
      - {name: CPRec + item-kNN, kind: hybrid, parts: [CPRec, item-kNN]}

Scores of different methods have no common unit, so each is brought to mean 0 and standard deviation 1 within a row. The
weights are those of a conditional logit (McFadden 1974): the target is drawn from the softmax of the weighted sum over
its row's candidates. Each user counts once. The penalty is chosen by cross-validation over the validation users, so a
hybrid is never judged by rows it was fitted on. Which scores, which grid and how many folds is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from cprec_hf.evaluation.baselines import choose
from cprec_hf.evaluation.kept import Kept
from cprec_hf.evaluation.rows import Rows, Score

FOLDS = 5


@dataclass(frozen=True)
class Penalty:
    """Setting of a hybrid."""

    l2: float
    """What half the squared length of the weights is multiplied by, beside the mean loss in nats."""


PENALTY_GRID = [Penalty(l2) for l2 in (0.0, 0.01, 0.1, 1.0, 10.0)]


def fit_hybrid(parts: Mapping[str, Score], rows: Rows, k: int, seed: int) -> tuple[Score, dict[str, Any]]:
    """Fit the weights of some methods' scores.

    Args:
        parts: the methods' scores by name.
        rows: the validation rows, of two users or more.
        k: cut-off of the ndcg by which the penalty is chosen.
        seed: deals the users out to the folds.

    Returns:
        What scores rows by the weighted sum, and the record: weights by part, grid and choice.
    """
    n_users = len(rows.user_ids)
    features, ranked = standardised(parts, rows), rows.ranked
    target, weight = rows.target_places, rows.user_weights
    fold = (np.random.default_rng(seed).permutation(n_users) % min(FOLDS, n_users))[rows.users]

    def held_out(setting: Penalty) -> Kept:
        scores = np.empty(ranked.shape)
        for i in range(fold.max() + 1):
            inside, outside = fold != i, fold == i
            fitted = fit_weights(features[:, inside], ranked[inside], target[inside], weight[inside], setting.l2)
            scores[outside] = np.tensordot(fitted, features[:, outside], axes=1)
        return Kept.of({rows.split: (rows, scores)})

    tried = {setting: held_out(setting) for setting in PENALTY_GRID}
    setting, record = choose(PENALTY_GRID, lambda s, part: tried[s](part), rows, k)
    weights = fit_weights(features, ranked, target, weight, setting.l2)
    by = f"{record['by']} users that the weights were not fitted on, {fold.max() + 1} folds"
    record = {**record, "by": by, "weights": dict(zip(parts, weights.tolist(), strict=True))}
    return lambda part: np.tensordot(weights, standardised(parts, part), axes=1), record


def standardised(parts: Mapping[str, Score], rows: Rows) -> np.ndarray:
    """The parts' scores with mean 0 and standard deviation 1 within each row. Shape: [parts, rows, candidates].

    A row's infinities count as its highest or lowest finite score, a row of one value as zeros; what is not ranked (a
    whole catalogue's items of the history) is left out of both figures.
    """
    ranked = rows.ranked
    n = ranked.sum(axis=1, keepdims=True)
    made = np.zeros((len(parts), *ranked.shape))
    for i, score in enumerate(parts.values()):
        scores = np.asarray(score(rows), dtype=np.float64)
        finite = np.isfinite(scores) & ranked
        low = np.min(scores, axis=1, keepdims=True, where=finite, initial=np.inf)
        high = np.max(scores, axis=1, keepdims=True, where=finite, initial=-np.inf)
        scores = np.where(ranked & (low <= high), np.clip(scores, low, np.maximum(low, high)), 0.0)
        scores = np.where(ranked, scores - scores.sum(axis=1, keepdims=True) / n, 0.0)
        spread = np.sqrt((scores**2).sum(axis=1, keepdims=True) / n)
        flat = spread <= 1e-12 * np.maximum(1.0, np.abs(high))
        np.divide(scores, spread, out=made[i], where=~flat)
    return made


def fit_weights(
    features: np.ndarray, ranked: np.ndarray, target: np.ndarray, weight: np.ndarray, l2: float
) -> np.ndarray:
    """The weights [parts] with the least mean loss: -log of the target's share of the softmax, and the penalty.

    Args:
        features: [parts, rows, candidates].
        ranked: whether a candidate takes part, bool [rows, candidates].
        target: each row's place of the target [rows].
        weight: how much each row counts [rows].
        l2: see `Penalty`.
    """
    share = weight / weight.sum()
    chosen = features[:, np.arange(len(target)), target] @ share
    flat = features.reshape(len(features), -1)
    out = np.where(ranked, 0.0, -np.inf)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = (weights @ flat).reshape(out.shape)
        logits += out
        top = logits.max(axis=1, keepdims=True)
        logits -= top
        chances = np.exp(logits, out=logits)  # times a number a row, which comes next; one pass over all of them
        total = chances.sum(axis=1)
        value = share @ (np.log(total) + top[:, 0]) - chosen @ weights + l2 / 2 * weights @ weights
        chances *= (share / total)[:, None]
        return float(value), flat @ chances.ravel() - chosen + l2 * weights

    found = minimize(loss, np.zeros(len(features)), jac=True, method="L-BFGS-B", options={"ftol": 1e-10})
    return found.x
