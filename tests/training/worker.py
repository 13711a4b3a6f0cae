"""One of several processes that train: `python -m torch.distributed.run --nproc_per_node 2 worker.py RUNS`.

RUNS is JSON, a list of [kind, stage, argv], run one after another in the same processes: kind "ddp", or "fsdp2" as
recipes/accelerate/fsdp2.yaml has it. Each run appends the rows that this process read to `rows-RANK.jsonl` there.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, DistributedType, PartialState
from transformers import TrainerCallback

from cprec_hf.recipes import find_recipe
from cprec_hf.training import trainer

_FSDP = load_config_from_file(str(find_recipe("accelerate/fsdp2.yaml"))).fsdp_config


def report_gpus(started: Any) -> Any:
    """Accelerate excludes CPUs from FSDP and would train DDP without a word; gloo can do it, so say that it may."""

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        started(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU and os.environ["ACCELERATE_USE_FSDP"] == "true":
            self.distributed_type = DistributedType.MULTI_GPU

    return start


class Witness(TrainerCallback):
    """Says at the first step what the processes really are, and fails if that is not what was asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        accelerate, model = AcceleratorState(), kwargs["model"]
        sharded = {type(p).__name__ == "DTensor" for p in model.parameters()}
        assert (accelerate.num_processes, args.world_size) == (2, 2)
        assert accelerate.is_fsdp2 == (self.kind == "fsdp2")
        assert sharded == {self.kind == "fsdp2"}, sharded


def run(kind: str, stage: str, argv: list[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    for key, value in _FSDP.items():
        os.environ[key.upper()] = str(value)
    os.environ["ACCELERATE_USE_FSDP"] = "true" if kind == "fsdp2" else "false"
    import_module(f"cprec_hf.training.{stage}").main(argv)


if __name__ == "__main__":
    torch.set_num_threads(1)
    PartialState.__init__ = report_gpus(PartialState.__init__)
    made = trainer.StageTrainer.__init__
    for kind, stage, argv in json.loads(sys.argv[1]):

        def init(self: Any, *args: Any, callbacks: Any = (), kind: str = kind, **kwargs: Any) -> None:
            made(self, *args, callbacks=[*callbacks, Witness(kind)], **kwargs)

        trainer.StageTrainer.__init__ = init
        run(kind, stage, argv)
