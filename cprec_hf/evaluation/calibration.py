"""Are a method's scores probabilities? The softmax over each row's candidates against how often it is right.

    seen = probabilities(scores, target, temperature=1.0)
    reliability(seen, weight)  # {"ece": ..., "log_loss": ..., "bins": [...]}

Expected calibration error of the first choice and temperature scaling as in Guo et al., ICML 2017, with ten bins of
equal width. A log-likelihood of titles is no probability among candidates that are not all there is; a temperature, one
number that orders nothing anew, may make it one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

BINS = 10
LEAST = 1e-12
"""A chance below this counts as this, so that one impossible target does not make the mean log loss infinite."""
_RANGE = (1e-3, 1e3)  # of temperatures


@dataclass(frozen=True)
class Probabilities:
    """What a softmax says of each row, all float64 [rows]."""

    confidence: np.ndarray
    """The chance of the likeliest candidate."""
    right: np.ndarray
    """1 if that is the target, 0 if not, 1/m if m are equally likely and the target is among them."""
    log_loss: np.ndarray
    """-log of the target's chance, in nats."""


def probabilities(scores: np.ndarray, target: np.ndarray, temperature: float = 1.0) -> Probabilities:
    """The softmax of scores / temperature over each row's candidates, and how it fits the target.

    Args:
        scores: [rows, candidates]; minus infinity is no candidate, or an impossible one.
        target: each row's place of the target [rows].
        temperature: above 1 makes chances more equal.
    """
    best = scores.max(axis=1, keepdims=True)
    first = scores == best
    place = np.arange(len(target))
    # Of an infinite highest score nothing is left to divide: those who share it share the row.
    shifted = np.where(
        first, 0.0, np.where(np.isfinite(best), scores - np.where(np.isfinite(best), best, 0.0), -np.inf)
    )
    logits = shifted / temperature
    total = logsumexp(logits, axis=1)
    chance = np.maximum(logits[place, target] - total, np.log(LEAST))
    return Probabilities(np.exp(-total), first[place, target] / first.sum(axis=1), -chance)


def reliability(seen: Probabilities, weight: np.ndarray) -> dict[str, Any]:
    """Expected calibration error, mean log loss, and the bins of the reliability diagram.

    Args:
        seen: what the softmax says.
        weight: how much each row counts [rows].

    Returns:
        `ece`, `log_loss` in nats, and `bins`: of each that holds rows its bounds `low` and `high`, the `share` of rows,
        their mean `confidence`, and how often they are `right`. ece is the sum of share * |confidence - right|.
    """
    share = weight / weight.sum()
    which = np.minimum((seen.confidence * BINS).astype(int), BINS - 1)
    held, confidence, right = (
        np.bincount(which, weights=share * values, minlength=BINS)
        for values in (np.ones_like(share), seen.confidence, seen.right)
    )
    bins = [
        {"low": i / BINS, "high": (i + 1) / BINS, "share": float(held[i]),
         "confidence": float(confidence[i] / held[i]), "right": float(right[i] / held[i])}
        for i in np.flatnonzero(held).tolist()
    ]  # fmt: skip
    return {"ece": float(np.abs(confidence - right).sum()), "log_loss": float(share @ seen.log_loss), "bins": bins}


def fit_temperature(scores: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """The temperature from 0.001 to 1,000 with the least mean log loss; shapes as in `probabilities`, `reliability`."""
    share = weight / weight.sum()

    def loss(log_temperature: float) -> float:
        return float(share @ probabilities(scores, target, float(np.exp(log_temperature))).log_loss)

    found = minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
