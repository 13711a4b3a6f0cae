"""What `evaluate.load("paired_significance").compute` gives for some inputs, as `evaluate`'s Spaces list it."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {  # the same twice
        "predictions1": [0.5, 1.0, 0.25],
        "predictions2": [0.5, 1.0, 0.25],
        "resamples": 100,
        "result": {
            "difference": 0.0,
            "low": 0.0,
            "high": 0.0,
            "effect": 0.0,
            "p_bootstrap": 1.0,
            "t": 0.0,
            "p_t": 1.0,
            "effect_low": -1.96 / 3**0.5,
            "effect_high": 1.96 / 3**0.5,
            "p_wilcoxon": 1.0,
            "rank_biserial": 0.0,
            "users": 3,
            "seeds": 1,
            "t_seeds": None,
            "p_t_seeds": None,
        },
    },
]
