"""DeepSpeed's ZeRO: what a stage can do under it, and what it refuses. Written without a GPU, and not run on one yet.

ZeRO-3 leaves each process a part of every weight, and gathers a layer's weights around that layer's own forward. So
nothing here may read a weight from outside: the loss is TRL's own, which gathers the head, and a model is not tried on
two documents before it trains. Checkpoints are partitioned with it: they can be read by as many processes as wrote
them, and only under DeepSpeed, while a trunk's must serve any anneal anywhere. FSDP2 has neither restriction.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import strtobool

from cprec_hf.errors import InputError


def weights_are_partial(args: Any) -> bool:
    """Whether a process may not hold all weights before training starts: under FSDP and ZeRO-3.

    Args:
        args: the run's TrainingArguments.
    """
    fsdp = args.fsdp or strtobool(os.environ.get("ACCELERATE_USE_FSDP", "false"))
    return bool(fsdp) or is_deepspeed_zero3_enabled()


def refuse_checkpoints(args: Any, resume: Path | None) -> None:
    """Refuse a run under DeepSpeed that would save checkpoints or go on from one.

    Args:
        args: the run's TrainingArguments.
        resume: the checkpoint to go on from.

    Raises:
        InputError: it would.
    """
    if args.deepspeed_plugin is None:
        return
    if resume is not None:
        raise InputError(f"DeepSpeed cannot go on from {resume}, which is whole; train under FSDP2 or DDP")
    if args.save_strategy.value != "no":
        raise InputError(
            "under DeepSpeed the checkpoints would be partitioned, readable only by as many processes as wrote them; "
            "give `save_strategy: 'no'` to keep the finished model only, or train under FSDP2"
        )
