"""What a run says while it runs: one line on the console, and `log.jsonl` beside the model."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cprec_hf.files import atomic_file
from cprec_hf.training.packing import Order
from cprec_hf.training.wsa import Phases

LOG = "log.jsonl"
PHASES = ("warmup", "stable", "anneal")


class ProgressLog(TrainerCallback):
    """Writes each logged step to `log.jsonl` and shows it with the phase, the speed and the time that is left.

    What it counts itself it adds to the line, for the trackers of `report_to` that come after it: `tokens`,
    `tokens_per_second`, and `phase` as a number (0 warmup, 1 stable, 2 anneal), which they can draw.

    A line of training: step, loss (nats a predicted token), learning_rate, phase, tokens (of this stage, up to here),
    tokens_per_second, grad_norm. A line of evaluation: step and the `eval_` metrics.
    """

    def __init__(self, stage: str, order: Order, phases: Phases | None) -> None:
        self.stage, self.order, self.phases = stage, order, phases
        self._clock, self._tokens, self._started, self._first = 0.0, 0, 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clocks, and drop what an interrupted run logged after the checkpoint that is resumed."""
        self._clock = self._started = time.monotonic()
        self._tokens, self._first = self.order.tokens(state.global_step), state.global_step
        log = Path(args.output_dir or "") / LOG
        if state.is_world_process_zero and log.exists():
            kept = [
                line for line in log.read_text(encoding="utf-8").splitlines(True) if _step(line) <= state.global_step
            ]
            with atomic_file(log) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the last step too, so that a run shorter than `logging_steps` has a log, and each step that is saved.

        A logged loss is the mean since the line before, which a resumed run can know only from its checkpoint on.
        """
        if state.global_step >= state.max_steps or control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append a line to the log, and show it."""
        logs = logs or {}
        if not state.is_world_process_zero or not ("loss" in logs or any(key.startswith("eval_") for key in logs)):
            return
        line: dict[str, Any] = {"step": state.global_step}
        if "loss" in logs:
            tokens, now = self.order.tokens(state.global_step), time.monotonic()
            speed = (tokens - self._tokens) / max(now - self._clock, 1e-9)
            self._tokens, self._clock = tokens, now
            phase = self.phases.name(state.global_step - 1) if self.phases else None
            line |= {"loss": logs["loss"], "learning_rate": logs["learning_rate"], "phase": phase, "tokens": tokens}
            line |= {"tokens_per_second": round(speed, 1), "grad_norm": logs.get("grad_norm")}
            own = ("rewards/", "listwise/")  # of preference, of listwise
            line |= {key: value for key, value in logs.items() if key.startswith(own)}
            logs |= {"tokens": tokens, "tokens_per_second": line["tokens_per_second"]}
            logs |= {"phase": PHASES.index(phase)} if phase else {}
            self._show(state, line)
        else:
            line |= {key: value for key, value in logs.items() if key.startswith("eval_")}
            shown = "  ".join(
                f"{key} {value:.4f}" for key, value in line.items() if "eval_" in key and "per_second" not in key
            )
            say(f"{self.stage}  step {state.global_step}  {shown}", stays=True)
        with (Path(args.output_dir or "") / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave the time of an evaluation out of the tokens per second."""
        self._clock = time.monotonic()

    def _show(self, state: TrainerState, line: dict[str, Any]) -> None:
        done, left = state.global_step - self._first, state.max_steps - state.global_step
        seconds = (time.monotonic() - self._started) / max(done, 1) * left
        text = (
            f"{self.stage}  step {state.global_step}/{state.max_steps}  loss {line['loss']:.3f}  "
            f"lr {line['learning_rate']:.2e}{' ' + line['phase'] if line['phase'] else ''}  "
            f"{line['tokens_per_second']:,.0f} tokens/s  {_duration(seconds)} left"
        )
        say(text, stays=state.global_step >= state.max_steps)


def say(text: str, *, stays: bool) -> None:
    """One line; on a terminal it takes the place of the line before, unless that one stays."""
    if sys.stdout.isatty():
        print(f"\r{text:<110}", end="\n" if stays else "", flush=True)
    else:
        print(text, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{seconds:02d}s"


def _step(line: str) -> float:
    """The step of a log line; a line that a killed run left incomplete counts as after everything."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
