"""The account: for every step, rows in = rows out + rows refused, by reason. Nothing is dropped silently."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """One step that rows went through.

    Attributes:
        name: what was done to which table, e.g. `interactions: read`.
        rows_in: rows before the step.
        rows_out: rows after it.
        refused: reason -> rows refused for it; a row is counted once, under the first reason that applies.
    """

    name: str
    rows_in: int
    rows_out: int
    refused: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_out + sum(self.refused.values()) or min(self.refused.values(), default=0) < 0:
            raise AssertionError(f"rows in are not rows out + rows refused: {self}")


@dataclass
class Account:
    """The steps so far, oldest first."""

    steps: list[Step] = field(default_factory=list)

    def add(self, name: str, rows_in: int, rows_out: int, refused: Mapping[str, int] | None = None) -> None:
        """Append a step (see `Step`).

        Raises:
            AssertionError: rows in are not rows out + rows refused.
        """
        self.steps.append(Step(name, rows_in, rows_out, dict(refused or {})))

    def copy(self) -> Account:
        """An account of the same steps, to be continued without touching this one."""
        return Account(list(self.steps))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One JSON-ready dict a step: name, rows_in, rows_out, refused."""
        return [dataclasses.asdict(step) for step in self.steps]

    @classmethod
    def from_dicts(cls, steps: Iterable[Mapping[str, Any]]) -> Account:
        """The inverse of `to_dicts`."""
        return cls([Step(**step) for step in steps])
