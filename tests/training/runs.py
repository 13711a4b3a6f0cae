"""What the tests of the stages share: reading a run's folder, and stopping a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.training.progress import ProgressLog

# Flags of a small `base` and of an anneal, which a trunk's keys have no place in.
BASE = {
    "model_name_or_path": None,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_steps": 3,
}
BRANCH = {"model_name_or_path": None, "max_steps": None, "learning_rate": None}


def weights(folder: Path) -> bytes:
    """The bytes of a model."""
    return (folder / "model.safetensors").read_bytes()


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The training lines of a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def untimed(folder: Path) -> list[dict[str, Any]]:
    """The training lines without what the clock says."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in log_lines(folder)]


def half_written(folder: Path) -> list[Path]:
    """Whatever in a run's folder is not whole: staging folders, temporary files, pickled arguments."""
    return [
        p for p in folder.rglob("*") if p.name.endswith(".tmp") or p.name[0] == "." or p.name == "training_args.bin"
    ]


def interrupt_at(step: int, patch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when that step is done, from inside a callback."""

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt

    patch.setattr(ProgressLog, "on_step_end", on_step_end, raising=False)
