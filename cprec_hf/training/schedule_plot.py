"""A recipe's learning rate over its steps, and its mixture by phase, drawn without training anything.

    cprec train cpt --config recipes/tiny/cpt.yaml --plot-schedule schedule.png
    cprec anneal --config recipes/tiny/anneal.yaml --plot-schedule schedule.png

Draws what the stage would follow, from the recipe alone: neither corpus nor model is read, only, for an anneal, its
trunk's record. Beside the picture `schedule.png.json` holds the numbers: the rate of every step (from 1, as the log
counts) and each phase's first and last step with the shares of its mixture.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import trl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file, require_writable
from cprec_hf.hub.curves import STYLE, Curve, plot_learning_rate, png
from cprec_hf.training.anneal import follow_trunk, spell_out
from cprec_hf.training.arguments import STAGES, AnnealArguments, MixtureArguments, parse_stage
from cprec_hf.training.checkpoints import find_checkpoint
from cprec_hf.training.cpt import be_a_trunk
from cprec_hf.training.mixture import PHASES, read_mixture
from cprec_hf.training.stage import run_phases
from cprec_hf.training.wsa import Phases

_FLAG = "--plot-schedule"
_KINDS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#bab0ac")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a recipe's run follows."""

    stage: str
    name: str
    """Of the schedule, as `lr_scheduler_type` calls it."""
    unit: str
    """`learning rate`, or `share of the trunk's peak` of an anneal whose trunk cannot be read."""
    begin: int
    """The step behind which the stage begins: an anneal's trunk step, 0 of any other."""
    rates: np.ndarray
    """Of each step from `begin` + 1 on, float64 [steps]."""
    phases: dict[str, tuple[int, int]]
    """First and last step of each phase that the stage runs through; none of a schedule without phases."""
    mixture: dict[str, dict[str, float]]
    """Shares of the tokens, by phase and kind; `stable` stands for the whole run where the schedule has no phases."""

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        values = {"stage": self.stage, "schedule": self.name, "first_step": self.begin + 1}
        values |= {"last_step": self.begin + len(self.rates), "phases": [], "mixture": self.mixture}
        values["phases"] = [{"name": n, "first_step": a, "last_step": b} for n, (a, b) in self.phases.items()]
        return values | {"unit": self.unit, "rates": self.rates.tolist()}


def main(stage: str, argv: Sequence[str]) -> Path:
    """Draw the schedule of a recipe; returns the picture's path.

    Args:
        stage: base, cpt, anneal, sft, preference, pointwise, listwise.
        argv: the stage's command line, with `--plot-schedule PNG` in it.

    Raises:
        InputError: no path behind the flag, one that is no PNG or cannot be written; or see `read_schedule`.
    """
    path, rest = _take(list(argv))
    schedule = read_schedule(stage, spell_out(rest) if stage == "anneal" else rest)
    require_writable(path.parent)
    with atomic_file(path) as temporary:
        temporary.write_bytes(draw_schedule(schedule))
    numbers = path.with_name(f"{path.name}.json")
    with atomic_file(numbers) as temporary:
        temporary.write_text(json.dumps(schedule.numbers()) + "\n", encoding="utf-8")
    told, rates = ", ".join(f"{name} {a:,} to {b:,}" for name, (a, b) in schedule.phases.items()), schedule.rates
    print(
        f"{stage}  {schedule.name}, steps {schedule.begin + 1:,} to {schedule.begin + len(rates):,}"
        f"{': ' + told if told else ''}; {schedule.unit} first {rates[0]:.3g}, highest {rates.max():.3g}, last "
        f"{rates[-1]:.3g}\n{stage}  drawn in {path}, numbers in {numbers}; nothing was trained",
        flush=True,
    )
    return path


def read_schedule(stage: str, argv: Sequence[str]) -> Schedule:
    """The schedule that a stage would follow.

    Raises:
        InputError: the recipe is wrong, or its schedule cannot be known before the run: it counts epochs or tokens,
            whose steps depend on the corpus, or its rate follows the loss.
    """
    config = trl.DPOConfig if stage == "preference" else trl.SFTConfig
    arguments, training, _, _ = parse_stage(stage, STAGES[stage], argv, config)
    begin, unit = 0, "learning rate"
    if isinstance(arguments, AnnealArguments):
        begin, unit = _follow(training, arguments)
    elif stage == "cpt":
        be_a_trunk(training)
    if training.max_steps <= 0:
        budget = getattr(arguments, "token_budget", None)
        epochs = f"epochs (`num_train_epochs: {training.num_train_epochs:g}`)"
        counts = epochs if budget is None else f"tokens (`token_budget: {budget}`)"
        raise InputError(
            f"the recipe counts {counts}, and how many steps those are depends on the packed corpus; give "
            "`--max_steps` to draw the schedule over as many"
        )
    phases = run_phases(training)
    rates = _rates(training)[begin:]
    shown = {} if phases is None else _spans(phases, begin)
    mixture: dict[str, dict[str, float]] = {}
    if isinstance(arguments, MixtureArguments) and arguments.mixture is not None:
        weights = read_mixture(arguments.mixture, None, stage=stage).by_phase(phases)
        mixture = {name: _shares(by_kind) for name, by_kind in weights.items()}
    return Schedule(stage, training.lr_scheduler_type.value, unit, begin, rates, shown, mixture)


def draw_schedule(schedule: Schedule) -> bytes:
    """A PNG: the learning rate over steps with its phases shaded, below it the mixture where the recipe gives one."""
    begin, end = schedule.begin, schedule.begin + len(schedule.rates)
    spans = [(name, float(first - 1), float(last)) for name, (first, last) in schedule.phases.items()]
    curve = Curve(
        schedule.stage, np.arange(begin + 1, end + 1, dtype=np.float64), {"learning_rate": schedule.rates}, spans
    )
    with matplotlib.rc_context(STYLE):
        rows = 2 if schedule.mixture else 1
        figure = Figure(figsize=(8, 1.2 + 1.7 * rows), layout="constrained")
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        plot_learning_rate(panels[0], curve)
        if schedule.unit != "learning rate":
            panels[0].set(ylabel=schedule.unit, ylim=(0, 1))
            panels[0].ticklabel_format(axis="y", style="plain")
        panels[0].set_title(f"{schedule.stage}, {schedule.name}", loc="left", fontsize=9)
        if schedule.mixture:
            _plot_mixture(panels[1], schedule.mixture, spans or [("stable", float(begin), float(end))])
        panels[-1].set_xlabel("step")
        return png(figure)


def _follow(training: Any, arguments: AnnealArguments) -> tuple[int, str]:
    """Set an anneal's run behind its trunk, or alone where the trunk cannot be read; its first step, and the unit."""
    try:
        trunk, record = _read_trunk(arguments.init_from)
    except InputError as error:
        print(f"anneal  drawn from its own first step, as a share of the peak: {error}", flush=True)
        training.max_steps, training.warmup_steps, training.learning_rate = arguments.anneal_steps, 0, 1.0
        options = {"num_anneal_steps": arguments.anneal_steps}
        training.lr_scheduler_kwargs = {**(training.lr_scheduler_kwargs or {}), **options}
        return 0, "share of the trunk's peak"
    return follow_trunk(training, trunk, record.schedule, arguments.anneal_steps), "learning rate"


def _read_trunk(named: str) -> tuple[Path, ModelRecord]:
    """A trunk's record, of a folder's newest checkpoint or of `repo@revision`, whose weights are not downloaded."""
    if "@" in named and not Path(named).expanduser().exists():
        repo, _, revision = named.partition("@")
        return Path(named), ModelRecord.load(repo, revision)
    folder = find_checkpoint(named, "init_from")
    return folder, ModelRecord.load(folder)


def _rates(training: Any) -> np.ndarray:
    """The learning rate of every step of a run, float64 [max_steps], as the Trainer's own scheduler gives it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    name, warmup = training.lr_scheduler_type, training.get_warmup_steps(training.max_steps)
    scheduler = get_scheduler(name, optimizer, warmup, training.max_steps, training.lr_scheduler_kwargs)
    if not isinstance(scheduler, LambdaLR):
        raise InputError(f"`lr_scheduler_type: {name.value}` follows the loss: its curve is not known before the run")
    share = scheduler.lr_lambdas[0]
    return training.learning_rate * np.array([share(step) for step in range(training.max_steps)], dtype=np.float64)


def _spans(phases: Phases, begin: int) -> dict[str, tuple[int, int]]:
    """First and last step of each phase behind `begin`, counted from 1."""
    ends = np.cumsum([getattr(phases, name) for name in PHASES]).tolist()
    spans = {name: (max(a, begin) + 1, b) for name, a, b in zip(PHASES, [0, *ends], ends, strict=False)}
    return {name: (first, last) for name, (first, last) in spans.items() if first <= last}


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items() if weight > 0}


def _plot_mixture(
    panel: Axes, mixture: Mapping[str, Mapping[str, float]], spans: Sequence[tuple[str, float, float]]
) -> None:
    """Each phase as a column as wide as its steps, its kinds' shares of the tokens one above the other."""
    kinds = list(dict.fromkeys(kind for shares in mixture.values() for kind in shares))
    lefts, widths = [first for _, first, _ in spans], [last - first for _, first, last in spans]
    below = np.zeros(len(spans))
    for i, kind in enumerate(kinds):
        heights = np.array([mixture[name].get(kind, 0.0) for name, _, _ in spans])
        panel.bar(lefts, heights, widths, below, align="edge", color=_KINDS[i % len(_KINDS)], label=kind, lw=0)
        below += heights
    panel.set(ylabel="share of tokens", ylim=(0, 1))
    panel.margins(x=0.01)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7, reverse=True)


def _take(argv: list[str]) -> tuple[Path, list[str]]:
    """The path behind the flag, and the rest of the command line."""
    at = next(i for i, word in enumerate(argv) if _spelt(word) == _FLAG)
    _, given, value = argv[at].partition("=")
    end = at + 1 if given else at + 2
    value = value if given else next(iter(argv[at + 1 : end]), "")
    if not value.lower().endswith(".png"):
        raise InputError(f"{_FLAG} needs the path of a PNG to write{f', not {value!r}' if value else ''}")
    return Path(value), argv[:at] + argv[end:]


def _spelt(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")
