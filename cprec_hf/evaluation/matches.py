"""hr_all, hr_valid and valid_ratio of written answers, with 95 % intervals over users."""

from __future__ import annotations

import numpy as np

from cprec_hf.metrics.paired_significance.paired_significance import Estimate, estimate


def summarise_matches(
    correct: np.ndarray, valid: np.ndarray, mean_correct: np.ndarray, mean_valid: np.ndarray
) -> dict[str, Estimate]:
    """The three numbers of `metrics/candidate_match` as means over users, resampled with the other metrics' users.

    Args:
        correct, valid: `candidate_match`'s values, means over each user's rows [users].
        mean_correct, mean_valid: their resampled means [resamples].

    Returns:
        hr_all = hr_valid * valid_ratio; hr_valid is 0 where nothing is valid, in a resample too.
    """
    share = np.divide(mean_correct, mean_valid, out=np.zeros_like(mean_correct), where=mean_valid > 0)
    low, high = np.percentile(share, [2.5, 97.5])
    hr_valid = float(correct.sum() / valid.sum()) if valid.any() else 0.0
    return {
        "hr_all": estimate(correct, mean_correct),
        "hr_valid": Estimate(hr_valid, float(low), float(high)),
        "valid_ratio": estimate(valid, mean_valid),
    }
