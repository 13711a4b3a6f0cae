"""What `evaluate.load("ranking_at_k").compute` gives for some inputs, as `evaluate`'s Spaces list it."""

from typing import Any

test_cases: list[dict[str, Any]] = [
    {
        "predictions": [[0.9, 0.5, 0.1]],
        "references": [[0, 1, 0]],
        "k": [1, 2],
        "metrics": ["hr", "mrr", "map"],
        "result": {"hr@1": 0.0, "mrr@1": 0.0, "map@1": 0.0, "hr@2": 1.0, "mrr@2": 0.5, "map@2": 0.5},
    },
    {  # all tied: what chance earns
        "predictions": [[0.0] * 20],
        "references": [[1] + [0] * 19],
        "k": 5,
        "metrics": ["hr", "recall", "precision"],
        "result": {"hr@5": 0.25, "recall@5": 0.25, "precision@5": 0.05},
    },
]
