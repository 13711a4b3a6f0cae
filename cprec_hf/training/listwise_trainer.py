"""TRL's SFTTrainer with the list-wise loss: one forward over trunks and branches, one head over the scored tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow as pa
import torch
import trl
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput
from trl.models import prepare_deepspeed, prepare_fsdp

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.ranking.layout import model_inputs
from cprec_hf.training.arguments import ListwiseArguments
from cprec_hf.training.kernels import apply_kernels, has_plain_head
from cprec_hf.training.listwise_batches import ListwiseBatches, Numbers, PassOrder
from cprec_hf.training.listwise_loss import listwise_losses, sequence_log_probs
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.running import RunningTrainer, unwrapped
from cprec_hf.training.token_head import choose_token_head, teach_token_log_probs
from cprec_hf.training.wsa import Phases


class Sums(NamedTuple):
    """What is summed over lists and tokens for the log, each a scalar tensor."""

    rank: Tensor
    """Rank losses, in nats."""
    lists: Tensor
    nll: Tensor
    """Negative log-likelihoods of the trunks' tokens, in nats."""
    tokens: Tensor
    nats: Tensor
    """Negative log-likelihoods of the lists' targets, in nats."""
    ahead: Tensor
    """Lists whose target is ahead of all its siblings."""


class _Validating(Trainer):
    """The exact mean losses of validation rows, to be mixed in before TRL's trainer."""

    eval_batches: ListwiseBatches | None
    model: Any

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """`eval_loss` and its parts over all lists of the validation rows, whose negatives are always the same."""
        batches: Any = self.eval_batches
        model: Any = self._wrap_model(self.model, training=False)
        model.eval()
        size, ranks, rank = self.args.eval_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        totals, n = torch.zeros(len(Sums._fields), dtype=torch.float64, device=self.args.device), len(batches.trunks)
        off = None if self.is_world_process_zero() else True
        with tqdm(desc="validation", total=n, unit="row", delay=2, leave=False, disable=off) as bar, torch.no_grad():
            for first in range(0, n, size * ranks):
                mine = range(first + rank * size, min(first + (rank + 1) * size, n))
                # Each process takes part in each step, as FSDP needs, if only to be counted as nothing.
                inputs = self._prepare_inputs(batches([*mine] or [0]))
                with self.compute_loss_context_manager():
                    found = self.sums(model, inputs)  # type: ignore[attr-defined]
                if mine:
                    totals += torch.stack(found).double()
                bar.update(min(size * ranks, n - first))
        metrics = self.means(self.accelerator.reduce(totals, "sum"))  # type: ignore[attr-defined]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=n)  # type: ignore[arg-type]


class ListwiseTrainer(RunningTrainer, _Validating, trl.SFTTrainer):
    """Trains on `ListwiseBatches`.

    Args:
        model: a causal language model, the start; its attention is what the batches' form asks for.
        args: with `max_steps` set.
        batches: of the training rows.
        options: of the loss: lm_weight, beta, reference, length_normalise, loss_head.
        tokenizer: saved beside the model.
        record: what the model's `cprec.json` will say; the tokens counted are those of the histories.
        phases: of the learning rate, or None for a schedule of transformers.
        items: the item table saved beside the final model.
        eval_batches: of validation rows.
        probe: measures the model at each evaluation; its metrics get the prefix `eval_`.
        resume: a checkpoint to go on from.
        peft_config: trains an adapter instead of the model.
        callbacks: further callbacks.

    Raises:
        InputError: the loss head cannot run here, or the disk is too small for what the run will save.
    """

    loss_is_scaled_for_ga: Any = True  # a share of the step's sums, over all devices and accumulated batches

    def __init__(
        self,
        model: Any,
        args: Any,
        batches: ListwiseBatches,
        options: ListwiseArguments,
        *,
        tokenizer: PreTrainedTokenizerBase,
        record: ModelRecord,
        phases: Phases | None,
        items: pa.Table,
        eval_batches: ListwiseBatches | None = None,
        probe: Callable[[Any], dict[str, float]] | None = None,
        resume: Path | None = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        size = 0 if peft_config else sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.begin(
            args, batches.trunks.ids.lengths, size,
            tokenizer=tokenizer, record=record, items=items, probe=probe, resume=resume,
        )  # fmt: skip
        self.order = PassOrder(self.order.lengths, self.order.batch, self.order.steps, self.order.seed)
        self.options, self.eval_batches = options, eval_batches
        self.reference: Any = copy.deepcopy(model) if options.reference and not peft_config else None
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        rows = datasets.Dataset.from_dict({"row": range(len(batches.trunks))})
        super().__init__(
            model,
            args,
            train_dataset=rows,
            eval_dataset=rows if eval_batches else None,  # that there is one; `evaluation_loop` reads its batches
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[ProgressLog(record.stage, self.order, phases), *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self.train_dataset, self.data_collator = Numbers(len(batches.trunks)), batches
        self.eval_dataset = Numbers(len(eval_batches.trunks)) if eval_batches else None
        inner = unwrapped(self.model)
        found = [self.accelerator.is_main_process and not is_deepspeed_zero3_enabled() and has_plain_head(inner)]
        (plain,) = broadcast_object_list(found)  # under FSDP only the main process holds the weights yet
        head = choose_token_head(options.loss_head, args.device, plain)
        own = {"torch": "torch's chunked log-probabilities", "trl": "TRL's fused log-probabilities"}
        form = f"{own.get(head, 'log-probabilities of all logits')}; branches apart by {batches.form}"
        self.kernels = apply_kernels(inner, args.device, None, form)
        teach_token_log_probs(inner, head)
        if self.reference is not None:
            apply_kernels(self.reference, args.device, None)
            teach_token_log_probs(self.reference, head)
            if self.is_deepspeed_enabled:
                self.reference = prepare_deepspeed(self.reference, self.accelerator)
            elif self.is_fsdp_enabled:
                self.reference = prepare_fsdp(self.reference, self.accelerator)
            else:
                self.reference = self.accelerator.prepare_model(self.reference, evaluation_mode=True)
            self.reference.requires_grad_(False).eval()
        self._log_titles = math.log(len(batches.catalogue.codes))
        self._sums = torch.zeros(len(Sums._fields), dtype=torch.float64, device=args.device)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Lists and tokens of all batches of a step, on all devices, float64 [2]."""
        counts = [[len(batch["lists"]) for batch in batch_samples], [len(batch["trunks"]) for batch in batch_samples]]
        totals = torch.tensor([sum(c) for c in counts], dtype=torch.float64, device=device)
        return self.accelerator.reduce(totals, "sum")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This batch's share of the step's mean rank loss and mean LM loss; see `listwise_loss`."""
        found = self.sums(model, inputs)
        with torch.no_grad():
            self._sums += torch.stack(found).double()
        lists, tokens = (found.lists, found.tokens) if num_items_in_batch is None else num_items_in_batch
        loss = found.rank / lists + self.options.lm_weight * found.nll / tokens
        loss = loss.float()
        if model.training:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients; the counts are over all processes
        return (loss, None) if return_outputs else loss

    def sums(self, model: Any, inputs: dict[str, Any]) -> Sums:
        """What a batch comes to; the first and third are differentiable."""
        options, places = self.options, inputs["lists"]
        log_probs = self._token_log_probs(model, inputs)
        sequences = sequence_log_probs(log_probs, places)
        reference = None
        if options.reference:
            with torch.no_grad(), self._as_it_began(model) as start:
                reference = sequence_log_probs(self._token_log_probs(start, inputs), places)
        lengths = (places >= 0).sum(-1) if options.length_normalise else None
        rank = listwise_losses(
            sequences, reference=reference, beta=options.beta, lengths=lengths, log_q=inputs.get("log_q")
        )
        with torch.no_grad():
            ahead = (sequences[:, :1] > sequences[:, 1:]).all(dim=1).sum()
            counts = [ahead.new_tensor(len(places)), ahead.new_tensor(len(inputs["trunks"]))]
            nats = -sequences[:, 0].sum()
        return Sums(rank.sum(), counts[0], -log_probs[inputs["trunks"]].sum(), counts[1], nats, ahead)

    def means(self, sums: Tensor) -> dict[str, float]:
        """Of what `sums` added up, as the log says it: nats per item beside those of knowing nothing but the titles."""
        found = dict(zip(Sums._fields, sums.tolist(), strict=True))
        rank, nll = found["rank"] / found["lists"], found["nll"] / found["tokens"]
        return {
            "loss": rank + self.options.lm_weight * nll,
            "rank_loss": rank,
            "lm_loss": nll,
            "nats_per_item": found["nats"] / found["lists"],
            "log_catalogue_size": self._log_titles,
            "accuracy": found["ahead"] / found["lists"],
        }

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and in a line of training the parts of the loss since the line before."""
        if "loss" in logs:
            means = self.means(self.accelerator.reduce(self._sums, "sum"))
            logs |= {f"listwise/{name}": value for name, value in means.items() if name != "loss"}
            self._sums.zero_()
        super().log(logs, start_time)

    def _token_log_probs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Of the scored tokens, [m]."""
        scored = inputs["states"], inputs["rows"], inputs["tokens"]
        found: Tensor = model(**model_inputs(unwrapped(self.accelerator.unwrap_model(model)), inputs), scored=scored)
        return found

    @contextmanager
    def _as_it_began(self, model: Any) -> Iterator[Any]:
        """The start, without dropout: the frozen copy, or the base below the adapter."""
        if self.reference is not None:
            yield self.reference
            return
        training = model.training
        model.eval()
        with self.accelerator.unwrap_model(model).disable_adapter():
            yield model
        model.train(training)
