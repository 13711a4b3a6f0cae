"""A thin SFTTrainer: rectangular packed batches, one loss, whole checkpoints, and models that say what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
import trl
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_pt_utils import get_model_param_count

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training.attention import VARLEN, check_attention
from cprec_hf.training.budget import BudgetedOrder
from cprec_hf.training.kernels import apply_kernels, choose_head, has_plain_head
from cprec_hf.training.mixed_order import Draws
from cprec_hf.training.packing import BlockCollator, refuse_leaks, row_lengths
from cprec_hf.training.partitioned import weights_are_partial
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.running import RunningTrainer, unwrapped
from cprec_hf.training.validation import ValidatingTrainer
from cprec_hf.training.wsa import Phases


class StageTrainer(RunningTrainer, ValidatingTrainer, trl.SFTTrainer):
    """TRL's SFTTrainer for rows that are already token ids.

    Args:
        model: a causal language model.
        args: with `max_steps` set.
        rows: training rows; packed (`pack_rows`) if `args.packing`.
        tokenizer: saved beside the model.
        record: what the model's `cprec.json` will say; its tokens are counted here.
        phases: of the learning rate, or None for a schedule of transformers.
        items: the item table saved beside the final model.
        eval_rows: validation rows, packed alike; or several sets of them by name, whose losses are told apart.
        start: the step at which the stage begins (an anneal's trunk step), 0 otherwise.
        continues: whether `rows` were read from step 0 on, by the trunk; otherwise they begin at `start`.
        probe: measures the model at each evaluation; its metrics get the prefix `eval_`.
        resume: a checkpoint to go on from; its directory may be another run's (an anneal's trunk).
        draws: how rows that lie kind by kind are mixed; without it they are read as one kind.
        token_budget: how many tokens the run reads, its last rows cut; None for all those of its steps.
        average: how many of the run's last checkpoints the finished model is the mean of; the last step's if None.
        peft_config: trains an adapter instead of the model.
        callbacks: further callbacks.
        loss_head: which kernels compute the loss, see `kernels.choose_head`.

    Raises:
        InputError: the model cannot keep packed documents apart, the loss head cannot run here, the disk is too small
            for what the run will save, or `resume` stopped in other data, or the run will not have as many checkpoints
            as `average` says, or would save what it could not read again (`partitioned.refuse_checkpoints`).
    """

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
        eval_rows: datasets.Dataset | Mapping[str, datasets.Dataset] | None = None,
        start: int = 0,
        continues: bool = False,
        probe: Callable[[Any], dict[str, float]] | None = None,
        resume: Path | None = None,
        draws: Draws | None = None,
        token_budget: int | None = None,
        average: int | None = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
        loss_head: str = "auto",
    ) -> None:
        # An adapter and its moments are small beside what is left on any disk.
        size = 0 if peft_config else get_model_param_count(model, trainable_only=True)
        self.begin(
            args, row_lengths(rows), size,
            tokenizer=tokenizer, record=record, items=items, probe=probe, resume=resume, start=start,
            continues=continues, draws=draws, average=average,
        )  # fmt: skip
        if token_budget is not None:
            self.order = BudgetedOrder(self.order, token_budget)
            rows = self.order.with_ending(rows)
        blocks = args.packing and "flash" not in model.config._attn_implementation
        if blocks:
            (check_attention if weights_are_partial(args) else refuse_leaks)(unwrapped(model))
        self.groups = eval_rows if isinstance(eval_rows, Mapping) else {"": eval_rows} if eval_rows is not None else {}
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__init__(
            model,
            args,
            train_dataset=rows,
            eval_dataset=next(iter(self.groups.values()), None),  # that there is one; `evaluation_loop` reads all
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[ProgressLog(record.stage, self.order, phases), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        if blocks:
            self.data_collator = BlockCollator(tokenizer.pad_token_id, model.config._attn_implementation == VARLEN)
        inner = unwrapped(self.model)
        found = [self.accelerator.is_main_process and not is_deepspeed_zero3_enabled() and has_plain_head(inner)]
        (self._own_loss,) = broadcast_object_list(found)  # under FSDP only the main process holds the weights yet
        head = choose_head(loss_head, args.device, self._own_loss)
        self.kernels = apply_kernels(inner, args.device, head)
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
        if model.training:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the count is over all processes
        return loss
