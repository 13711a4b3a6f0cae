"""Which row comes when where a run reads several kinds of rows by weight: an even, repeatable interleave.

Within a phase each kind is laid out along a line in the order in which it will be read, its rows' tokens divided by
the kind's weight, and rows are read by where their middles lie. After any number of rows, with K kinds and no row
longer than L, a kind of share w is then off its share of the tokens by at most L (1 + w (K - 2)) / 2: half a row for
two kinds, less than one for three. (Sainte-Lague's rule of apportionment, for tokens; the choice is ours.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_hf.training.packing import Order

Weights = Mapping[str, float]
_BLOCK = 1 << 16  # rows that are laid out at a time


@dataclass(frozen=True)
class Draws:
    """What a `MixedOrder` draws from and by."""

    sizes: Mapping[str, int]
    """Rows of each kind; they lie one kind after another."""
    spans: list[tuple[int, Weights]]
    """Steps of each phase, from the first that is read, and its weights."""


def run_order(args: Any, lengths: np.ndarray, draws: Draws | None, start: int = 0, *, continues: bool = False) -> Order:
    """The order of a run's rows: as one kind, or mixed.

    Args:
        args: of the run: `max_steps`, seeds, and what a step reads.
        lengths: tokens of each row, [n_rows].
        draws: how kinds are mixed; without it rows are read as one kind.
        start: see `Order`.
        continues: see `Order`.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    run = (lengths, batch, args.max_steps, seed, start)
    return MixedOrder(*run, continues=continues, draws=draws) if draws else Order(*run, continues=continues)


class MixedOrder(Order):
    """Which row comes when, for a whole run whose phases mix kinds by weight; see `Order` for the other arguments.

    Each kind is read in shuffled passes, without repeats within a pass, on through all phases: a kind goes on where the
    phase before stopped. Shares are counted anew in each phase; neighbouring phases of equal weights are one.

    Args:
        draws: kinds and weights; its steps are all those of the run, or without `continues` those from `start` on.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch: int,
        steps: int,
        seed: int,
        start: int = 0,
        *,
        continues: bool = False,
        draws: Draws,
    ) -> None:
        super().__init__(lengths, batch, steps, seed, start, continues=continues)
        if sum(n for n, _ in draws.spans) != steps - self._skipped or sum(draws.sizes.values()) != len(lengths):
            raise ValueError(f"{draws} are not of {steps - self._skipped} steps and {len(lengths)} rows")
        self._sizes = draws.sizes
        self._first = dict(zip(draws.sizes, np.cumsum([0, *draws.sizes.values()]), strict=False))
        self._passes: dict[str, dict[int, np.ndarray]] = {}  # of each kind, by number
        self._plan = np.concatenate([np.empty(0, np.int64), *self._planned(_merged(draws.spans))])
        self._passes.clear()
        self._tokens_read = np.cumsum([0, *lengths[self._plan].reshape(-1, batch).sum(1)])

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._skipped * self.batch):
            yield 0
        for rows in self._plan.reshape(-1, self.batch):
            yield from rows.tolist()

    def _read(self, step: int) -> int:
        return int(self._tokens_read[step - self._skipped])

    def _planned(self, spans: list[tuple[int, Weights]]) -> Iterator[np.ndarray]:
        """The rows of the run from the first that is read, a block at a time."""
        taken = dict.fromkeys(self._sizes, 0)  # rows of each kind, over all phases
        for steps, weights in spans:
            kinds = sorted(kind for kind, weight in weights.items() if weight > 0)
            tokens = dict.fromkeys(kinds, 0)  # of each kind, in this phase
            for first in range(0, steps * self.batch, _BLOCK):
                n = min(_BLOCK, steps * self.batch - first)
                rows = np.stack([self._next(kind, taken[kind], n) for kind in kinds])
                ends = np.cumsum(self.lengths[rows], axis=1) + np.array([[tokens[kind]] for kind in kinds])
                middles = (ends - self.lengths[rows] / 2) / np.array([[weights[kind]] for kind in kinds])
                chosen = np.argsort(middles, axis=None, kind="stable")[:n]  # of equal places the first kind's
                yield rows.ravel()[chosen]
                for i, read in enumerate(np.bincount(chosen // n, minlength=len(kinds))):
                    taken[kinds[i]] += int(read)
                    tokens[kinds[i]] = int(ends[i, read - 1]) if read else tokens[kinds[i]]

    def _next(self, kind: str, taken: int, n: int) -> np.ndarray:
        """The `n` rows of a kind that come after the first `taken`."""
        size = self._sizes[kind]
        key = zlib.crc32(kind.encode())  # a kind's own shuffles, whatever other kinds there are
        first, last = taken // size, (taken + n - 1) // size
        before = self._passes.get(kind, {})  # those that the block before laid out
        self._passes[kind] = {
            p: before[p] if p in before else np.random.default_rng([self.seed, key, p]).permutation(size)
            for p in range(first, last + 1)
        }
        return self._first[kind] + np.concatenate([*self._passes[kind].values()])[taken - first * size :][:n]


def _merged(spans: list[tuple[int, Weights]]) -> list[tuple[int, Weights]]:
    """Spans with neighbours of equal weights made one."""
    merged: list[tuple[int, Weights]] = []
    for steps, weights in spans:
        if merged and merged[-1][1] == weights:
            merged[-1] = (merged[-1][0] + steps, weights)
        else:
            merged.append((steps, weights))
    return merged
