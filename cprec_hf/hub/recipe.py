"""What of a run goes to the Hub, in which order: `cprec hub push --config recipes/tiny/hub.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cprec_hf.errors import InputError

Kind = Literal["corpus", "trunk", "checkpoint", "model", "adapter", "recommender", "metric", "results"]


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """One push."""

    kind: Kind
    """What is pushed; see `kinds`."""
    folder: str
    """Local folder; for a trunk or checkpoint also a run's (its newest is taken), for a metric a shipped one's name."""
    repo: str
    """`user/name`, or `name` under the token's user."""
    branch: str = "main"
    """Branch to push to; a trunk and a checkpoint go to their own, `trunk-step-N` and `checkpoint-N`."""
    results: str | None = None
    """For models: the folder of an evaluation, for the card and `.eval_results/`."""


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A recipe of pushes, carried out in order: what a record names is pushed before what names it."""

    push: list[PushConfig] = field(default_factory=list)
    """The pushes."""
    public: bool = False
    """Whether new repos are public."""

    def __post_init__(self) -> None:
        if not self.push:
            raise InputError("`push` is empty: list what to push")
        for entry in self.push:
            if entry.results is not None and entry.kind not in ("model", "adapter", "recommender"):
                raise InputError(f"`results` goes with a model, not with a {entry.kind}")
            if entry.kind in ("trunk", "checkpoint") and entry.branch != "main":
                own = {"trunk": "trunk-step-N", "checkpoint": "checkpoint-N"}[entry.kind]
                raise InputError(f"`branch` has no place with a {entry.kind}: it goes to {own}")
