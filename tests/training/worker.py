"""One of two processes that train: `python -m torch.distributed.run --nproc_per_node 2 worker.py RUNS`.

RUNS is JSON, a list of [kind, stage, command line], run one after another by the same processes: kind "ddp", or "fsdp2"
with the keys of recipes/accelerate/fsdp2.yaml, as `accelerate launch` would hand them on, or "refused": the same where
Accelerate knows of the CPUs.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from cprec_hf.errors import InputError
from cprec_hf.recipes import find_recipe
from cprec_hf.training.listwise_trainer import ListwiseTrainer
from cprec_hf.training.trainer import StageTrainer


class Witness(TrainerCallback):
    """Fails at the first step if the processes are not what was asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert (AcceleratorState().num_processes, args.world_size) == (2, 2)
        assert AcceleratorState().is_fsdp2 == (self.kind == "fsdp2")
        assert {isinstance(p, DTensor) for p in kwargs["model"].parameters()} == {self.kind == "fsdp2"}


def passing_for_gpus(start: Any) -> Any:
    """Accelerate excludes CPUs from FSDP and would train DDP; gloo can shard, so have it believe that they are GPUs."""

    def started(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    return started


def main(runs: list[tuple[str, str, list[str]]]) -> None:
    config = load_config_from_file(str(find_recipe("accelerate/fsdp2.yaml")))
    os.environ |= {key.upper(): str(value) for key, value in config.fsdp_config.items()}
    made, start = {cls: cls.__init__ for cls in (StageTrainer, ListwiseTrainer)}, PartialState.__init__
    for kind, stage, argv in runs:

        def init(self: Any, *args: Any, callbacks: Any = (), kind: str = kind, **kwargs: Any) -> None:
            made[type(self)](self, *args, callbacks=[*callbacks, Witness(kind)], **kwargs)

        StageTrainer.__init__ = ListwiseTrainer.__init__ = init  # type: ignore[method-assign]
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_USE_FSDP"] = "false" if kind == "ddp" else "true"
        PartialState.__init__ = passing_for_gpus(start) if kind == "fsdp2" else start  # type: ignore[method-assign]
        run = import_module(f"cprec_hf.training.{stage}").main
        if kind == "refused":
            with pytest.raises(InputError, match="FSDP needs GPUs: on CPUs, Accelerate would train DDP instead"):
                run(argv)
        else:
            run(argv)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
