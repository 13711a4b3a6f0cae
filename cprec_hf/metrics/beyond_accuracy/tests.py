"""What `evaluate.load("beyond_accuracy").compute` gives for some inputs, as `evaluate`'s Spaces list it."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": [["a", "b"], ["a", "b"]],
        "catalogue": ["a", "b", "c", "d"],
        "popularity": [3, 1, 1, 3],
        "histories": [["a"], ["a", "b"]],
        "features": [["x"], ["y"], ["x"], ["y"]],
        "result": {
            "coverage": 0.5,
            "gini": 2 / 3,
            "novelty": 2.084962500721156,
            "intra_list_diversity": 1.0,
            "popularity_lift": -0.2,
        },
    },
    {
        "predictions": [[1], [2]],
        "catalogue": [1, 2],
        "candidate_scores": [[1, 0], [0, 1]],
        "result": {
            "coverage": 1.0,
            "gini": 0.0,
            "position_chi2": 0.0,
            "position_p": 1.0,
            "position_cramers_v": 0.0,
            "position_distribution": [0.5, 0.5],
        },
    },
]
