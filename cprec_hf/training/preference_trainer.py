"""TRL's DPOTrainer with any number of negatives a row: the softmax DPO loss (S-DPO, arXiv 2406.09215).

    loss = -log softmax(beta * [log p/p_ref of the chosen, of each rejected])[chosen]

With one negative it is DPO's (arXiv 2305.18290), and where the policy is the reference it is log(1 + negatives). The
reference is the start: a frozen copy of it, or the base below a new adapter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch
import torch.nn.functional as F
import trl
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training.kernels import IGNORED, apply_kernels
from cprec_hf.training.preference_rows import ChoiceCollator, tokens_read
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.running import RunningTrainer, unwrapped
from cprec_hf.training.wsa import Phases


def softmax_dpo_losses(log_ratios: Tensor, beta: float) -> Tensor:
    """The loss of each row, [n_rows], in nats.

    Args:
        log_ratios: log p - log p_ref of each completion, [n_rows, 1 + negatives], the chosen one first.
        beta: how strongly the reference holds.
    """
    chosen = torch.zeros(len(log_ratios), dtype=torch.long, device=log_ratios.device)
    return F.cross_entropy(beta * log_ratios, chosen, reduction="none")


class PreferenceTrainer(RunningTrainer, trl.DPOTrainer):
    """TRL's DPOTrainer for rows that are already token ids.

    Args:
        model: a causal language model, the start.
        args: a trl.DPOConfig with `max_steps` set.
        rows: of `preference_rows`.
        tokenizer: saved beside the model.
        record: what the model's `cprec.json` will say; its tokens are counted here.
        phases: of the learning rate, or None for a schedule of transformers.
        items: the item table saved beside the final model.
        eval_rows: validation rows of the same columns and number of negatives.
        probe: measures the model at each evaluation; its metrics get the prefix `eval_`.
        resume: a checkpoint to go on from.
        peft_config: trains an adapter instead of the model.
        callbacks: further callbacks.

    Raises:
        InputError: the disk is too small for what the run will save.
    """

    loss_is_scaled_for_ga = False  # a mean over the rows of one batch; the Trainer divides by the batches of a step

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
        probe: Callable[[Any], dict[str, float]] | None = None,
        resume: Path | None = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        size = 0 if peft_config else sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.negatives = len(rows[0]["rejected_ids"])
        self.begin(
            args, tokens_read(rows), size,
            tokenizer=tokenizer, record=record, items=items, probe=probe, resume=resume,
        )  # fmt: skip
        super().__init__(
            model,
            None if peft_config else copy.deepcopy(model),
            args,
            train_dataset=rows,
            eval_dataset=eval_rows,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[ProgressLog(record.stage, self.order, phases), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.data_collator = ChoiceCollator(int(tokenizer.pad_token_id))
        self.kernels = apply_kernels(unwrapped(self.model), args.device, None)
        if self.ref_model is not None:
            apply_kernels(self.accelerator.unwrap_model(self.ref_model), args.device, None)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # token ids already, by the corpus' encoder

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        """The mean softmax DPO loss of a batch of `ChoiceCollator`; TRL's own `compute_loss` calls it."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = model(**read, labels=labels, use_cache=False, fused_lm_head=True)
        start = self.ref_model or self.model
        below = self.accelerator.unwrap_model(start).disable_adapter() if self.ref_model is None else nullcontext()
        with torch.no_grad(), below:
            of_start = start(**read, labels=labels, use_cache=False, fused_lm_head=True).log_probs
        ratios = (outputs.log_probs.float() - of_start.float()).sum(dim=1).view(1 + self.negatives, -1).T
        loss = softmax_dpo_losses(ratios, self.beta).mean()

        rewards = self.beta * ratios.detach()
        margins = rewards[:, 0] - rewards[:, 1:].mean(dim=1)
        best = (rewards[:, :1] > rewards[:, 1:]).all(dim=1).float()
        kept = self._metrics["train" if self.model.training else "eval"]
        for name, values in (("rewards/margins", margins), ("rewards/accuracies", best)):
            kept[name].append(self.accelerator.gather_for_metrics(values).mean().item())
        return (loss, outputs) if return_outputs else loss
