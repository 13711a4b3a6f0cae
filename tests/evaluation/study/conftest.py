"""A study of seconds: two worlds of two domains on two platforms, models of width 16, a handful of steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

CORPUS = {
    "name": "toy", "pseudonymise": False, "downstream": ["Music", "Cartoons"], "split": {"policy": "leave_one_out"},
    "output": "unused", "tokenizer": {"vocab_size": 300}, "window_tokens": 200, "candidates": 10,
    "source": {"kind": "marketplace", "domains": ["Books"], "unseen": ["Music", "Cartoons"], "users": 20,
               "second_platform": ["Cartoons"], "events_per_user": 8, "unseen_users": 20, "unseen_events_per_user": 5,
               "items_per_domain": 40},
}  # fmt: skip
STEPS = {"per_device_train_batch_size": 2, "learning_rate": 0.01}
BASE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "max_steps": 2, "save_strategy": "no"}


def study_recipe(folder: Path) -> dict[str, Any]:
    return {
        "name": "toy", "output": str(folder / "out"), "seeds": [1, 2],
        "corpora": {"world": {"recipe": str(folder / "corpus.yaml"), "with": {"source.seed": "{seed}"}, "seconds": 3}},
        "nodes": {
            "base": {"stage": "base", "recipe": str(folder / "base.yaml"), "with": BASE},
            "cpt": {"stage": "cpt", "from": "base", "with": {**STEPS, "max_steps": 4, "save_steps": 2}},
            "sft": {"stage": "sft", "from": "cpt", "with": {**STEPS, "max_steps": 2, "save_strategy": "no"}},
        },
        "tables": {
            "main": {
                "title": "100 % & more_of it",
                "rows": {
                    "Bayes oracle": {"kind": "bayes_oracle", "seeds": [1]},
                    "CPT | SFT": {"kind": "model", "model": "sft"},
                    "SFT only": {"kind": "model", "model": "sft", "seeds": [1], "change": {"sft": {"from": "base"}}},
                    "popularity": {"kind": "popularity", "seeds": [1]},
                },
                "reference": ["SFT only", "popularity"],
                "ceiling": "Bayes oracle", "details": True,
            },
            "trunk": {
                "axis": "steps", "seeds": [1], "domains": ["Music"], "ceiling": "zero-shot",
                "rows": {
                    "two": {"kind": "model", "model": "sft", "line": "CPT", "at": 2,
                            "change": {"sft": {"from": "cpt/checkpoint-2"}}},
                    "four": {"kind": "model", "model": "sft", "line": "CPT", "at": 4},
                    "two zero-shot": {"kind": "model", "model": "cpt/checkpoint-2", "line": "zero-shot", "at": 2},
                    "one user": {"kind": "popularity", "line": "zero-shot", "at": 4, "train_share": 0.05},
                    "both": {"kind": "hybrid", "parts": ["two zero-shot", "four", "one user"], "at": 4},
                },
            },
        },
        "quick": {"tables": ["main"], "seeds": [1], "without": ["popularity"]},
    }  # fmt: skip


@pytest.fixture(scope="session")
def write_study() -> Callable[..., Path]:
    """`write_study(folder, change)`: the recipe and what it names, after `change(recipe)`; returns its path."""

    def write(folder: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        recipe = study_recipe(folder)
        if change is not None:
            change(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in {"study": recipe, "corpus": CORPUS, "base": {"corpus": "unused", **STEPS}}.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return folder / "study.yaml"

    return write
