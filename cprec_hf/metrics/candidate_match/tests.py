"""What `evaluate.load("candidate_match").compute` gives for some inputs, as `evaluate`'s Spaces list it."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": ["Blue  pen", "a pencil"],
        "references": ["Blue pen", "Ruler"],
        "candidates": [["Ruler", "Blue pen"]] * 2,
        "result": {"hr_all": 0.5, "hr_valid": 1.0, "valid_ratio": 0.5, "not_in_candidates": 0.5},
    },
    {
        "predictions": [["a", "b", "A", "x"]],
        "references": ["b"],
        "candidates": [["a", "b"]],
        "catalogue": ["a", "b", "c"],
        "histories": [["c"]],
        "result": {
            "hr_all": 0.0,
            "hr_valid": 0.0,
            "valid_ratio": 1.0,
            "not_in_candidates": 0.25,
            "non_exist": 0.25,
            "in_history": 0.0,
            "repeat": 0.25,
        },
    },
]
