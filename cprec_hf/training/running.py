"""What every stage's trainer does around its loss: begin or resume, read rows in their order, probe, and finish."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.optim.lr_scheduler import LambdaLR
from transformers import DefaultFlowCallback, PreTrainedTokenizerBase, TrainerState
from transformers.trainer_pt_utils import get_model_param_count

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training.averaging import averaged_steps
from cprec_hf.training.checkpoints import clear_output
from cprec_hf.training.mixed_order import Draws, run_order
from cprec_hf.training.packing import Order
from cprec_hf.training.partitioned import refuse_checkpoints
from cprec_hf.training.progress import ProgressLog
from cprec_hf.training.pushing import refuse_local_base, take_pushes
from cprec_hf.training.saving import SavingTrainer, require_space
from cprec_hf.training.state import refuse_other_data


class RunningTrainer(SavingTrainer):
    """A run of a stage, to be mixed in before the trainer of TRL's that has its loss.

    Attributes:
        train_dataset: the rows.
        probe: measures the model at each evaluation; its metrics get the prefix `eval_`.
        kernels: one line that says which the run uses.
    """

    train_dataset: Any
    data_collator: Any
    probe: Callable[[Any], dict[str, float]] | None
    kernels: str

    def begin(
        self,
        args: Any,
        lengths: np.ndarray,
        parameters: int,
        *,
        tokenizer: PreTrainedTokenizerBase,
        record: ModelRecord,
        items: pa.Table,
        probe: Callable[[Any], dict[str, float]] | None,
        resume: Path | None,
        start: int = 0,
        continues: bool = False,
        draws: Draws | None = None,
        average: int | None = None,
    ) -> None:
        """Set what the run needs before TRL's trainer is made: arguments as `StageTrainer` takes them.

        Args:
            args: of the run.
            lengths: tokens that each row makes the model read, [n_rows].
            parameters: that are trained and saved.
            tokenizer: see `StageTrainer`.
            record: see `StageTrainer`.
            items: see `StageTrainer`.
            probe: see `StageTrainer`.
            resume: see `StageTrainer`.
            start: see `StageTrainer`.
            continues: see `StageTrainer`.
            draws: see `StageTrainer`.
            average: see `StageTrainer`.

        Raises:
            InputError: the disk is too small for what the run will save, `resume` stopped in other data, the run will
                not have as many checkpoints as `average` says or would have them in parts (`refuse_checkpoints`), or it
                may not push what it is to push.
        """
        refuse_checkpoints(args, resume)
        self.record, self.items, self.probe, self.tokenizer = record, items, probe, tokenizer
        self._pusher = take_pushes(args, record)
        self._resume, self._done, self._stays, existing = resume, 0, False, 0
        if resume is not None:
            self._done = TrainerState.load_from_json(str(resume / "trainer_state.json")).global_step
            self._stays = resume.parent.resolve() == Path(args.output_dir).resolve()
            existing = len(list(resume.parent.glob("checkpoint-*"))) if self._stays else 0
            if self._done > start:  # of this stage: an anneal's trunk stopped where the anneal begins
                refuse_other_data(resume, record, args)
        require_space(args, self._done, existing, parameters)
        begin = start if self._stays else self._done  # elsewhere, its checkpoints come after the one it goes on from
        self.averaged = averaged_steps(args, average, begin=begin, done=self._done)
        self.order = run_order(args, lengths, draws, start, continues=continues)

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
        if self._pusher:
            refuse_local_base(self.model)
            self.add_callback(self._pusher)
        # The run's own log comes first, behind what says when to save, where it logs too: what it adds to a line
        # (tokens, speed, phase), trackers get to see.
        self.callback_handler.callbacks.sort(key=lambda c: not isinstance(c, (DefaultFlowCallback, ProgressLog)))
        parameters = get_model_param_count(self.model, trainable_only=True)
        if self.accelerator.is_main_process:
            n, tokens = len(self.order.lengths), int(self.order.lengths.sum())
            print(
                f"{self.record.stage}  {tokens:,} tokens in {n:,} rows of at most {self.args.max_length}; "
                f"{self.args.max_steps - self._done:,} steps of {self.order.batch} rows; {parameters:,} parameters to "
                f"train\n"
                f"{self.record.stage}  {self.kernels}",
                flush=True,
            )
            clear_output(folder, keep=self._stays)
        self.accelerator.wait_for_everyone()
        with self._pusher or nullcontext():
            self.train(resume_from_checkpoint=None if self._resume is None else str(self._resume))
            self.save_final(folder)
            if self._pusher:
                self._pusher.finish()
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
        missing, tied = load_result.missing_keys, getattr(unwrapped(self.model), "all_tied_weights_keys", None) or {}
        lacking = [key for key in missing if tied.get(key) is None or tied[key] in missing]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=lacking))

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.order


def unwrapped(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
