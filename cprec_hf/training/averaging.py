"""The finished model as the mean of its run's last checkpoints: the recipe key `average_checkpoints`.

A moderate last learning rate, or the mean of the last checkpoints, can beat a full decay, which may waste data that
comes last (arXiv 2511.18903). The mean is one of parameters: an adapter's two factors are averaged each for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file
from cprec_hf.training.checkpoints import is_complete


def averaged_steps(args: Any, average: int | None, *, begin: int, done: int) -> list[int]:
    """The steps whose checkpoints will be averaged, the last that the run saves; none if `average` is None.

    Args:
        args: of the run: save_strategy, save_steps, save_total_limit, max_steps, output_dir.
        average: how many.
        begin: the step behind which the checkpoints in `output_dir` begin (an anneal's trunk step).
        done: the step that a resumed run goes on from; up to it the checkpoints must be there.

    Raises:
        InputError: fewer than two, or more than will be there when the run ends.
    """
    if average is None:
        return []
    wish = f"`average_checkpoints` is {average}"
    if average < 2:
        raise InputError(f"{wish}; give at least 2, or leave it out for the model of the last step")
    if args.save_strategy.value != "steps":
        raise InputError(f"{wish}, and `save_strategy: {args.save_strategy.value}` saves no such series; use `steps`")
    if args.load_best_model_at_end:
        raise InputError(f"{wish}, and `load_best_model_at_end` keeps another model than the mean; give one of them")
    if args.save_total_limit and args.save_total_limit < average:
        raise InputError(f"{wish}, and `save_total_limit` keeps {args.save_total_limit}; raise it to {average}")
    interval = int(args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * args.max_steps))
    saved = sorted({*range(interval, args.max_steps, interval), args.max_steps})
    saved = [step for step in saved if step > begin]
    if len(saved) < average:
        raise InputError(
            f"{wish}, and with `save_steps: {interval}` the run saves {len(saved)}, at step "
            f"{' and '.join(map(str, saved))} of {args.max_steps}; save more often or average fewer"
        )
    chosen = saved[-average:]
    _require(args.output_dir, [step for step in chosen if step <= done])
    return chosen


def average_weights(run: str | Path, steps: Sequence[int], folder: Path) -> None:
    """Put the mean weights of a run's checkpoints in the place of those saved in a folder, tensor by tensor.

    Sums are float64; results have the saved tensors' types. What is no floating-point number stays as it was saved.
    Weights tied to others are saved once, so they are averaged once and stay tied.

    Args:
        run: the run's output folder, which holds the checkpoints; they are only read.
        steps: of the checkpoints.
        folder: a model or an adapter of the run, sharded in any way.

    Raises:
        InputError: a checkpoint is not there or not complete.
    """
    checkpoints = _require(run, steps)
    with ExitStack() as stack:
        sources = [_tensors(checkpoint, stack) for checkpoint in checkpoints]
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as saved:
                metadata = saved.metadata()
                means = {name: _mean([source[name] for source in sources], name) for name in saved.keys()}  # noqa: SIM118
            with atomic_file(file) as temporary:
                save_file(means, temporary, metadata)


def _mean(files: Sequence[Any], name: str) -> Tensor:
    last: Tensor = files[-1].get_tensor(name)
    if not last.is_floating_point():
        return last
    total = torch.zeros_like(last, dtype=torch.float64)
    for file in files:
        total += file.get_tensor(name)
    return (total / len(files)).to(last.dtype)


def _tensors(checkpoint: Path, stack: ExitStack) -> dict[str, Any]:
    """The open file that each tensor of a checkpoint is in."""
    opened = [stack.enter_context(safe_open(file, "pt")) for file in sorted(checkpoint.glob("*.safetensors"))]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


def _require(run: str | Path, steps: Sequence[int]) -> list[Path]:
    checkpoints = [Path(run) / f"checkpoint-{step}" for step in steps]
    missing = [path.name for path in checkpoints if not (path.is_dir() and is_complete(path))]
    if missing:
        raise InputError(f"`average_checkpoints`: {', '.join(missing)} of {run} is gone or not complete")
    return checkpoints
