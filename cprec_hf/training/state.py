"""What a run resumes from, in one form whatever the number of processes: saved by one, resumed by two, or the reverse.

The Trainer writes one form for a process or DDP and another under FSDP, neither of which reads the other's. Here a
checkpoint always holds whole weights (safetensors), torch's own optimizer state dict of whole tensors (`optimizer.pt`),
the schedule (`scheduler.pt`), and one random state a process. What the Trainer itself does with one process or under
DDP is already that, so only FSDP2 is handled here, and random states that a checkpoint does not have. All of it is read
with `weights_only=True`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import DistributedType
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer, set_seed

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training.mixture import before_anneal

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"


class LoadResult(NamedTuple):
    """What `torch.nn.Module.load_state_dict` returns."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class ResumableTrainer(Trainer):
    """The part of every stage's trainer that writes and reads the state of a run."""

    args: Any  # the trainers' own annotations leave much open that is set once they are made
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, and under FSDP let it save whole tensors.

        Raises:
            InputError: FSDP of the first version, whose flat parameters no other run could read, or FSDP on CPUs, for
                which Accelerate would train DDP without a word.
        """
        super().create_accelerator_and_postprocess()
        asked, processes = os.environ.get("ACCELERATE_USE_FSDP") == "true", self.accelerator.num_processes
        if asked and processes > 1 and self.accelerator.distributed_type != DistributedType.FSDP:
            raise InputError("FSDP needs GPUs: on CPUs, Accelerate would train DDP instead; choose accelerate/ddp.yaml")
        if self.is_fsdp_enabled:
            if not self.accelerator.is_fsdp2:
                raise InputError("FSDP of version 1 is not supported; set `fsdp_version: 2`, as accelerate/fsdp2.yaml")
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gather(self.optimizer.state_dict(), keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / _OPTIMIZER)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = torch.load(Path(checkpoint) / _OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        self.optimizer.load_state_dict(shard(state, self.optimizer.param_groups))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULER, weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            sharded = self.model if model is None else model
            self._issue_warnings_after_load(load_weights(sharded, Path(resume_from_checkpoint)))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Go on with this process's random numbers, or, after another number of processes, with new ones.

        Only dropout and embedding noise draw them: the order of the data has a generator of its own. With other
        processes, other rows meet in a batch, so no state could go on as if nothing had changed; the new ones follow
        from the seed, the step and the process, so that the same resume is the same run.
        """
        if checkpoint is None:
            return
        world, found = self.args.world_size, {path.name for path in Path(checkpoint).glob("rng_state*.pth")}
        if found == ({"rng_state.pth"} if world == 1 else {f"rng_state_{rank}.pth" for rank in range(world)}):
            super()._load_rng_state(checkpoint)
            return
        entropy = [self.args.seed, self.state.global_step, self.args.process_index]
        set_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        if self.accelerator.is_main_process:
            print(
                f"{checkpoint} has random states of {len(found)} processes and this run has {world}: dropout, if any, "
                f"goes on from the seed {self.args.seed} and the step {self.state.global_step}",
                flush=True,
            )


def gather(state: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors, on the CPU; every process must call this.

    Args:
        state: of `optimizer.state_dict()`, with DTensors for what is sharded.
        keep: whether this process wants it; elsewhere the tensors are dropped one by one as they are gathered.
    """
    whole: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        whole[index] = {}
        for name, value in values.items():
            if isinstance(value, DTensor):
                value = value.full_tensor()
            if keep:
                whole[index][name] = value.cpu() if isinstance(value, Tensor) else value
    return {**state, "state": whole}


def shard(state: dict[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """An optimizer's state dict, each tensor cut as the parameter it belongs to; each process takes its own part.

    Args:
        state: whole tensors; parameters are numbered through, group by group, as torch does.
        groups: the optimizer's own, whose parameters may be DTensors.

    Raises:
        InputError: it belongs to another model.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    cut: dict[int, dict[str, Any]] = {}
    for index, values in state["state"].items():
        cut[index] = {}
        for name, value in values.items():
            # Moments have the parameter's shape; a count of steps has none and is everyone's.
            if isinstance(value, Tensor) and value.dim():
                if index >= len(parameters) or value.shape != parameters[index].shape:
                    raise InputError(f"{_OPTIMIZER} is of another model: parameter {index}'s `{name}` does not fit")
                value = _part(value, parameters[index])
            cut[index][name] = value
    return {**state, "state": cut}


@torch.no_grad()
def load_weights(model: Any, checkpoint: Path) -> LoadResult:
    """Put whole weights into a model that is sharded over processes; each reads its own part from the disk.

    Args:
        model: after FSDP2 has wrapped it, with or without an adapter.
        checkpoint: with `*.safetensors`: of the model, or of the adapter.

    Returns:
        What the checkpoint lacks and what the model lacks, as `load_state_dict` returns it.
    """
    own = model.state_dict()  # shares memory with the parameters
    if isinstance(model, PeftModel):
        own = get_peft_model_state_dict(model, state_dict=own)  # named as in the file, without the base
    left, unexpected = set(own), []
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (a file, not a dict)
                if key in own:
                    _local(own[key]).copy_(_local(_part(file.get_tensor(key), own[key])))
                    left.discard(key)
                else:
                    unexpected.append(key)
    return LoadResult(sorted(left), unexpected)


def refuse_other_data(checkpoint: Path, record: ModelRecord, args: Any) -> None:
    """Refuse to resume a run on other rows or in another order: some would be read twice and others never.

    Args:
        checkpoint: of the same stage.
        record: what this run's `cprec.json` will say.
        args: of this run.

    Raises:
        InputError: with what differs, and for the rows of a step with the numbers that make them.
    """
    try:
        before = ModelRecord.load(checkpoint)
    except InputError:  # of a Trainer that records nothing
        return
    step, ends = before.schedule.get("step", 0), [_phase_ends(r.schedule) for r in (before, record)]
    annealing = any(step > last for _, last in ends)  # before that, what an anneal will read is still open
    theirs, ours = (
        {"corpus": r.corpus_hash, "domain": r.domain, **_order(r.schedule, step, end, annealing=annealing)}
        for r, end in zip((before, record), ends, strict=True)
    )
    said = [
        f"`{key}` was {theirs[key]!r} and is {ours[key]!r}"
        for key in theirs.keys() & ours.keys()
        if theirs[key] != ours[key] and key != "batch"
    ]
    if theirs.get("batch") not in (None, ours.get("batch")):
        said.append(
            f"a step read {theirs['batch']} rows and would read {ours['batch']}: `per_device_train_batch_size` "
            f"{args.per_device_train_batch_size} x `gradient_accumulation_steps` {args.gradient_accumulation_steps} x "
            f"{args.world_size} processes"
        )
    if said:
        raise InputError(
            f"`resume_from_checkpoint`: {checkpoint} stopped in other data than this run's: {'; '.join(sorted(said))}; "
            "make them equal, or begin a new run with the checkpoint as `model_name_or_path`"
        )


def _phase_ends(schedule: Mapping[str, Any]) -> tuple[float, float]:
    """The last steps of warmup and of the stable phase; never, under a schedule without phases."""
    if "stable_steps" not in schedule:
        return math.inf, math.inf
    return schedule["warmup_steps"], schedule["warmup_steps"] + schedule["stable_steps"]


def _order(schedule: Mapping[str, Any], step: int, ends: tuple[float, float], *, annealing: bool) -> dict[str, Any]:
    """What the order of the rows up to `step` depends on; of phases with mixtures of their own, those begun by then."""
    order = schedule.get("data") or {}
    if "mixture" not in order:
        return dict(order)
    return (order if annealing else before_anneal(order)) | {"phase ends": [min(step, end) for end in ends]}


def _part(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor, cut as `like` is; every process holds the whole one, so nothing is sent."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
