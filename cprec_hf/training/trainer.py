"""A thin SFTTrainer: rectangular packed batches, one loss, whole checkpoints, and models that say what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
from accelerate.utils import broadcast_object_list
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainerState

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training.averaging import averaged_steps
from cprec_hf.training.checkpoints import clear_output
from cprec_hf.training.kernels import apply_kernels, has_plain_head, teach_summed_loss
from cprec_hf.training.mixed_order import Draws, MixedOrder
from cprec_hf.training.packing import BlockCollator, Order, refuse_leaks, row_lengths
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.saving import SavingTrainer, require_space
from cprec_hf.training.wsa import Phases


class StageTrainer(SavingTrainer):
    """TRL's SFTTrainer for rows that are already token ids.

    Args:
        model: a causal language model.
        args: with `max_steps` set.
        rows: training rows; packed (`pack_rows`) if `args.packing`.
        tokenizer: saved beside the model.
        record: what the model's `cprec.json` will say; its tokens are counted here.
        phases: of the learning rate, or None for a schedule of transformers.
        items: the item table saved beside the final model.
        eval_rows: validation rows, packed alike.
        start: the step at which the stage begins (an anneal's trunk step), 0 otherwise.
        continues: whether `rows` were read from step 0 on, by the trunk; otherwise they begin at `start`.
        probe: measures the model at each evaluation; its metrics get the prefix `eval_`.
        resume: a checkpoint to go on from; its directory may be another run's (an anneal's trunk).
        draws: how rows that lie kind by kind are mixed; without it they are read as one kind.
        average: how many of the run's last checkpoints the finished model is the mean of; the last step's if None.
        peft_config: trains an adapter instead of the model.
        callbacks: further callbacks.

    Raises:
        InputError: the model cannot keep packed documents apart, the disk is too small for what the run will save, or
            the run will not have as many checkpoints as `average` says.
    """

    train_dataset: Any
    data_collator: Any

    def __init__(
        self,
        model: Any,
        args: Any,
        rows: datasets.Dataset,
        *,
        tokenizer: PreTrainedTokenizerBase,
        record: ModelRecord,
        phases: Phases | None,
        items: pa.Table,
        eval_rows: datasets.Dataset | None = None,
        start: int = 0,
        continues: bool = False,
        probe: Callable[[Any], dict[str, float]] | None = None,
        resume: Path | None = None,
        draws: Draws | None = None,
        average: int | None = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.record, self.items, self.probe, self.tokenizer = record, items, probe, tokenizer
        self._resume, self._done, self._stays, existing = resume, 0, False, 0
        if resume is not None:
            self._done = TrainerState.load_from_json(str(resume / "trainer_state.json")).global_step
            self._stays = resume.parent.resolve() == Path(args.output_dir).resolve()
            existing = len(list(resume.parent.glob("checkpoint-*"))) if self._stays else 0
        # An adapter and its moments are small beside what is left on any disk.
        size = 0 if peft_config else sum(p.numel() for p in model.parameters() if p.requires_grad)
        require_space(args, self._done, existing, size)
        begin = start if self._stays else self._done  # elsewhere, its checkpoints come after the one it goes on from
        self.averaged = averaged_steps(args, average, begin=begin, done=self._done)
        seed = args.seed if args.data_seed is None else args.data_seed
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        run = (row_lengths(rows), batch, args.max_steps, seed, start)
        self.order = MixedOrder(*run, continues=continues, draws=draws) if draws else Order(*run, continues=continues)
        blocks = args.packing and "flash" not in model.config._attn_implementation
        if blocks and not (args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
            refuse_leaks(_unwrapped(model))  # FSDP's ranks may not hold their weights yet
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__init__(
            model,
            args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[ProgressLog(record.stage, self.order, phases), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if blocks:
            self.data_collator = BlockCollator(tokenizer.pad_token_id)
        inner = _unwrapped(self.model)
        found = [self.accelerator.is_main_process and has_plain_head(inner)]
        (self._own_loss,) = broadcast_object_list(found)  # under FSDP only the main process holds the weights yet
        self.kernels = apply_kernels(inner, args.device, self._own_loss)
        if self._own_loss:
            teach_summed_loss(inner)
        # The loss below is a sum over the step's predicted tokens, whatever the architecture's signature says.
        self.model_accepts_loss_kwargs = self._loss_shifts_labels = True

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean negative log-likelihood over the step's predicted tokens, on all devices and accumulated batches."""
        if return_outputs or not self._own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is None:
            num_items_in_batch = (inputs["labels"][:, 1:] != -100).sum()
        loss = model(**inputs, summed_loss=True) / torch.as_tensor(num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices and model.training:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the count is over all processes
        return loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The evaluation, and with it the probe, so that early stopping sees both."""
        output = super().evaluation_loop(*args, **kwargs)
        if self.probe is not None:
            found = {f"eval_{name}": value for name, value in self.probe(self.model).items()}
            output = output._replace(metrics={**(output.metrics or {}), **found})
        return output

    def run(self) -> Path:
        """Train to `max_steps` and leave the finished model in `output_dir`; returns it."""
        folder = Path(self.args.output_dir)
        parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if self.accelerator.is_main_process:
            n, tokens = len(self.train_dataset), int(self.order.lengths.sum())
            print(
                f"{self.record.stage}  {tokens:,} tokens in {n:,} rows of at most {self.args.max_length}; "
                f"{self.args.max_steps - self._done:,} steps of {self.order.batch} rows; {parameters:,} parameters to "
                f"train\n"
                f"{self.record.stage}  {self.kernels}",
                flush=True,
            )
            clear_output(folder, keep=self._stays)
        self.accelerator.wait_for_everyone()
        self.train(resume_from_checkpoint=None if self._resume is None else str(self._resume))
        self.save_final(folder)
        return folder

    def _send_telemetry(self) -> None:
        """Nothing: whoever trains on people's behaviour tells no third party about it."""

    def _init_training_state(self, max_steps: int, *args: Any) -> Any:
        begin = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)  # a loaded state brings the intervals of the run that saved it
        return begin

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, then set the rate of the next step by this run's phases: a trunk's file holds the trunk's."""
        super()._load_optimizer_and_scheduler(checkpoint)
        scheduler = self.lr_scheduler
        if checkpoint is not None and isinstance(scheduler, LambdaLR):
            at = scheduler.last_epoch
            rates = [base * share(at) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
            for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            scheduler._last_lr = rates

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Warn of what a checkpoint lacks, except weights tied to one that it has: those are never saved twice."""
        missing, tied = load_result.missing_keys, getattr(_unwrapped(self.model), "all_tied_weights_keys", None) or {}
        lacking = [key for key in missing if tied.get(key) is None or tied[key] in missing]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=lacking))

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.order


def _unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
