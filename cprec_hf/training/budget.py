"""The recipe key `token_budget`: a run that reads exactly so many tokens, whatever kinds of document it reads.

    token_budget: 1500000

Packed rows are nearly full, and of each kind of document differently so: at equal steps, two ablations read different
numbers of tokens. With a budget a run takes the fewest steps whose rows hold that many, and its last rows are cut, from
the very last backwards, to exactly the budget. A step always has its rows, so of a cut row at least the first token is
left, from which nothing is learnt. What is cut off counts as read: whatever goes on behind the run's end goes on behind
those rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import datasets
import numpy as np

from cprec_hf.errors import InputError
from cprec_hf.training.mixed_order import run_order
from cprec_hf.training.mixed_rows import TrainingRows
from cprec_hf.training.packing import Order, row_lengths
from cprec_hf.training.stage import fix_run_length, run_phases


class BudgetedOrder(Order):
    """An order whose last rows are cut, so that the run reads exactly `budget` tokens.

    Attributes:
        ending: which rows the cut ones are, [k]; in the order they are rows n, n + 1, ... behind the n given ones.
        kept: tokens that are left of each, at least 1, [k].

    Args:
        order: of the run from its first step on, with no fewer tokens than `budget`.
        budget: tokens.

    Raises:
        InputError: the run has more rows than the budget has tokens.
    """

    def __init__(self, order: Order, budget: int) -> None:
        super().__init__(order.lengths, order.batch, order.steps, order.seed)
        self._whole = order
        excess = order.tokens(order.steps) - budget
        rows = np.fromiter(order, np.int64, len(order))
        spare = np.cumsum(order.lengths[rows][::-1] - 1)  # that the last row, the last two, ... can do without
        if excess < 0 or not (len(spare) and excess <= spare[-1]):
            raise InputError(f"`token_budget` is {budget:,} tokens for {len(rows):,} rows; give at least one for each")
        k = int(np.searchsorted(spare, excess)) + 1 if excess else 0
        self.ending, self.kept = rows[len(rows) - k :], np.ones(k, dtype=np.int64)
        if k:
            self.kept[0] += spare[k - 1] - excess
        self._cut = np.cumsum([0, *(order.lengths[self.ending] - self.kept)])

    def __iter__(self) -> Iterator[int]:
        yield from islice(self._whole, len(self) - len(self.kept))
        yield from range(len(self.lengths), len(self.lengths) + len(self.kept))

    def tokens(self, step: int) -> int:
        """Tokens that have been read once `step` steps are done, padding not counted."""
        into = max(0, step * self.batch - (len(self) - len(self.kept)))
        return self._whole.tokens(step) - int(self._cut[into])

    def with_ending(self, rows: datasets.Dataset) -> datasets.Dataset:
        """The rows that the order is of, and behind them the cut ones."""
        if not len(self.kept):
            return rows
        cut = rows.select(self.ending).to_dict()
        for name in ("input_ids", "labels"):
            cut[name] = [row[:n] for row, n in zip(cut[name], self.kept, strict=True)]
        if "seq_lengths" in cut:  # the documents of a packed row
            cut["seq_lengths"] = [
                np.diff(np.unique(np.minimum(np.cumsum([0, *documents]), n))).tolist()
                for documents, n in zip(cut["seq_lengths"], self.kept, strict=True)
            ]
        return datasets.concatenate_datasets([rows, datasets.Dataset.from_dict(cut, features=rows.features)])


def fix_length(training: Any, budget: int | None, data: TrainingRows, given: set[str]) -> None:
    """Set a run's `max_steps`: to the fewest that read `budget` tokens, or without a budget see `fix_run_length`.

    Args:
        training: of the run.
        budget: tokens.
        data: what it reads.
        given: the keys that the recipe or a flag gave.

    Raises:
        InputError: a budget below 1, or beside another length; or phases that do not fit its steps.
    """
    if budget is None:
        fix_run_length(training, len(data.rows))
        return
    if beside := sorted(given & {"max_steps", "num_train_epochs"}):
        raise InputError(f"`{beside[0]}` and `token_budget` both say how long the run is; give one of them")
    if budget < 1:
        raise InputError(f"`token_budget` is {budget}; give at least 1")
    lengths = row_lengths(data.rows)
    by_phase = data.mixture is not None and data.mixture.weights.keys() != {"stable"}

    def order_of(steps: int) -> Order:
        training.max_steps = steps
        return run_order(training, lengths, data.draws(run_phases(training) if by_phase else None, steps))

    batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    training.max_steps = steps_for(budget, batch * int(lengths.max()), order_of)


def steps_for(budget: int, most: int, order_of: Callable[[int], Order]) -> int:
    """The steps of the shortest run of at least `budget` tokens.

    As many steps as what is missing would fill can be added at once: none of them is too many. (Where phases mix
    differently and their bounds move with the length, a run a step longer might read fewer tokens; then it is one of
    the shortest.)

    Args:
        budget: tokens.
        most: tokens that a step can read: its rows times the longest of them.
        order_of: the order of a run of so many steps.

    Raises:
        InputError: of `order_of`.
    """
    steps = -(-budget // most)
    while (missing := budget - order_of(steps).tokens(steps)) > 0:
        steps += -(-missing // most)
    return steps
