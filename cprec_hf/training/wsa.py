"""Warmup-Stable-Annealing: a learning rate that rises, holds, and falls when the run (or a branch of it) ends.

The schedule CPRec trains under (arXiv 2504.08949); its text fixes no ratios or shapes, so the defaults here are our
choice after the practice of WSD (MiniCPM: 10 % of the steps are enough; SmolLM3: to zero over the last 10 %).

    import cprec_hf.training  # registers "wsa"
    transformers.get_scheduler("wsa", optimizer, num_warmup_steps=100, num_training_steps=1000)
    trl.SFTConfig(lr_scheduler_type="wsa", lr_scheduler_kwargs={"anneal_ratio": 0.2, "anneal_shape": "linear"})

Steps count from 0: the factor of step s is what optimizer update s + 1 is made with. Warmup climbs a line whose zero
lies one step before the first and whose top is the first stable step; the anneal falls from the last stable step to a
floor that lies one step after the last. So no update is wasted at a learning rate of zero, at either end.

Shapes of the anneal, p from 0 at the last stable step to 1 one step after the last, floor f (shares of the peak):

    linear                f + (1 - f)(1 - p)
    cosine                f + (1 - f)(1 + cos(pi p)) / 2
    1-sqrt                f + (1 - f)(1 - sqrt(p))       Haegele et al., arXiv 2405.18392; the default
    exponential           f^p, or with a half-life of T steps max(f, 0.5^(k / T)) at the anneal's step k = 1, 2, ...
                          (MiniCPM, arXiv 2404.06395, with k = s - S); f^p is the half-life that ends at the floor
    inverse-proportional  1 / ((1 - p) + p / f)          as the fall of WSD-S, arXiv 2410.05192
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION
from transformers.trainer_utils import SchedulerType

from cprec_hf.errors import InputError

Shape = Literal["linear", "cosine", "1-sqrt", "exponential", "inverse-proportional"]


@dataclass(frozen=True)
class Phases:
    """How many steps each phase lasts, the shape of the fall, and its floor as a share of the peak learning rate."""

    warmup: int
    stable: int
    anneal: int
    shape: Shape = "1-sqrt"
    min_lr_ratio: float = 0.0
    half_life: float | None = None
    """Steps in which an exponential anneal halves; None for the half-life with which it ends at its floor."""

    def name(self, step: int) -> str:
        """The phase of a step (from 0): `warmup`, `stable` or `anneal`; past the end the phase is the last one's."""
        if step < self.warmup:
            return "warmup"
        return "anneal" if self.anneal and step >= self.warmup + self.stable else "stable"

    def factor(self, step: int) -> float:
        """The share of the peak learning rate at a step (from 0), in [0, 1]."""
        return wsa_factor(step, **asdict(self))


def wsa_factor(
    step: int,
    *,
    warmup: int,
    stable: int,
    anneal: int,
    shape: Shape,
    min_lr_ratio: float,
    half_life: float | None = None,
) -> float:
    """The share of the peak learning rate at `step` (from 0); see `Phases`. After the last step the fall has ended."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if not anneal or step < warmup + stable:
        return 1.0
    fallen = min(step + 1 - warmup - stable, anneal + 1)
    progress = fallen / (anneal + 1)
    if shape == "exponential":
        return min_lr_ratio**progress if half_life is None else max(min_lr_ratio, 0.5 ** (fallen / half_life))
    if shape == "inverse-proportional":
        return 1.0 / (1.0 - progress + progress / min_lr_ratio)
    if shape == "linear":
        fall = 1.0 - progress
    elif shape == "cosine":
        fall = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        fall = 1.0 - math.sqrt(progress)
    return min_lr_ratio + (1.0 - min_lr_ratio) * fall


def wsa_phases(
    num_warmup_steps: int | float,
    num_training_steps: int,
    *,
    num_anneal_steps: int | None = None,
    anneal_ratio: float | None = None,
    anneal_shape: Shape = "1-sqrt",
    half_life_steps: int | float | None = None,
    min_lr_ratio: float = 0.0,
) -> Phases:
    """The phases of a run of `num_training_steps`, checked to fit.

    Args:
        num_warmup_steps: steps of warmup; below 1, a share of the run (rounded up), as transformers reads it.
        num_training_steps: all steps of the run.
        num_anneal_steps: steps of the anneal.
        anneal_ratio: the anneal as a share of the run (rounded up), in place of its steps; 0 for a trunk, which never
            leaves its stable phase. 0.1 if neither is given.
        anneal_shape: `linear`, `cosine`, `1-sqrt`, `exponential` (which needs a half-life or a floor above 0) or
            `inverse-proportional` (a floor above 0).
        half_life_steps: steps in which an exponential anneal halves the rate; below 1, a share of the anneal.
        min_lr_ratio: the floor the anneal falls to, as a share of the peak; with a half-life, the least it falls to.

    Raises:
        InputError: a value out of range, two that contradict each other, or warmup and anneal together longer than the
            run; with the numbers.
    """
    if num_training_steps < 1:
        raise InputError(f"WSA: a run of {num_training_steps} steps has no phases; set max_steps to at least 1")
    if num_anneal_steps is not None and anneal_ratio is not None:
        raise InputError(
            f"WSA: num_anneal_steps is {num_anneal_steps} and anneal_ratio is {anneal_ratio}, two lengths for one "
            "phase; give one of them"
        )
    anneal_ratio = 0.1 if anneal_ratio is None else anneal_ratio
    for name, value in (("anneal_ratio", anneal_ratio), ("min_lr_ratio", min_lr_ratio)):
        if not 0.0 <= value <= 1.0:
            raise InputError(f"WSA: {name} is {value}; it is a share, from 0 to 1")
    if anneal_shape not in get_args(Shape):
        raise InputError(f"WSA: anneal_shape is {anneal_shape!r}; choose one of {', '.join(get_args(Shape))}")
    if half_life_steps is not None and anneal_shape != "exponential":
        raise InputError(
            f"WSA: half_life_steps is {half_life_steps}, and an anneal of shape {anneal_shape} has no half-life; "
            "set anneal_shape to exponential"
        )
    if half_life_steps is not None and not 0.0 < half_life_steps < math.inf:
        raise InputError(f"WSA: half_life_steps is {half_life_steps}; it is a number of steps above 0")
    if anneal_shape in ("exponential", "inverse-proportional") and min_lr_ratio == 0.0 and half_life_steps is None:
        other = " or half_life_steps" if anneal_shape == "exponential" else ""
        raise InputError(
            f"WSA: an anneal of shape {anneal_shape} never reaches a floor of 0; set min_lr_ratio{other}, for example "
            "min_lr_ratio: 0.1"
        )
    warmup = math.ceil(num_training_steps * num_warmup_steps) if 0 < num_warmup_steps < 1 else num_warmup_steps
    anneal = math.ceil(num_training_steps * anneal_ratio) if num_anneal_steps is None else num_anneal_steps
    for name, value in (("warmup_steps", warmup), ("num_anneal_steps", anneal)):
        if value < 0 or value != int(value):
            raise InputError(f"WSA: {name} is {value}; it is a whole number of steps, 0 or more")
    warmup, anneal = int(warmup), int(anneal)
    if warmup + anneal > num_training_steps:
        raise InputError(
            f"WSA: {warmup} warmup + {anneal} anneal steps = {warmup + anneal} do not fit in a run of "
            f"{num_training_steps} steps; shorten a phase or raise max_steps"
        )
    half_life = half_life_steps * anneal if half_life_steps is not None and half_life_steps < 1 else half_life_steps
    return Phases(warmup, num_training_steps - warmup - anneal, anneal, anneal_shape, float(min_lr_ratio), half_life)


def get_wsa_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int | float,
    num_training_steps: int,
    *,
    num_anneal_steps: int | None = None,
    anneal_ratio: float | None = None,
    anneal_shape: Shape = "1-sqrt",
    half_life_steps: int | float | None = None,
    min_lr_ratio: float = 0.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """The WSA schedule for an optimizer, in the manner of `transformers.get_wsd_schedule`.

    Arguments and errors: see `wsa_phases`; `last_epoch` is the index of the last step when resuming.
    """
    phases = wsa_phases(
        num_warmup_steps,
        num_training_steps,
        num_anneal_steps=num_anneal_steps,
        anneal_ratio=anneal_ratio,
        anneal_shape=anneal_shape,
        half_life_steps=half_life_steps,
        min_lr_ratio=min_lr_ratio,
    )
    # A partial, not a callable object: LambdaLR would save the object's attributes with every checkpoint and put the
    # old phase boundaries back on resume, so that an anneal could never branch from a trunk.
    return LambdaLR(optimizer, partial(wsa_factor, **asdict(phases)), last_epoch)


def register_wsa() -> None:
    """Make `wsa` a true member of transformers' closed `SchedulerType`, and its function known. Repeating is harmless.

    `TrainingArguments` and `get_scheduler` both look names up in the enum, so an entry in the function table alone is
    not enough; with the member, stock configs, parsers, copies and pickles take the name.
    """
    cls: Any = SchedulerType
    if "WSA" not in cls._member_map_:
        member = str.__new__(cls, "wsa")
        member._name_, member._value_, member.__objclass__ = "WSA", "wsa", cls
        member._sort_order_ = len(cls._member_names_)
        type.__setattr__(cls, "WSA", member)
        cls._member_names_.append("WSA")
        cls._member_map_["WSA"] = cls._value2member_map_["wsa"] = member
    TYPE_TO_SCHEDULER_FUNCTION[cls._member_map_["WSA"]] = get_wsa_schedule
