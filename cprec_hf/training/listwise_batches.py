"""Batches of list-wise training: histories with siblings of their targets, as one forest, and what is scored of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.forest import Forest
from cprec_hf.ranking.layout import Form, lay_out, trunk_tokens
from cprec_hf.training.listwise_negatives import Siblings, list_keys
from cprec_hf.training.listwise_rows import Trunks
from cprec_hf.training.packing import Order


class PassOrder(Order):
    """An order whose numbers say the pass too: row `i` of the `e`-th pass over `n` rows is e * n + i."""

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.lengths), self.steps * self.batch
        for epoch in range(-(-left // n)):
            yield from (epoch * n + self.epoch(epoch)[: left - epoch * n]).tolist()


class Numbers(Dataset):
    """A dataset of which each example is its number; `ListwiseBatches` knows what it stands for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, number: int) -> int:
        return number


@dataclass(frozen=True)
class ListwiseBatches:
    """Numbers of `PassOrder` to a batch: what `layout.lay_out` gives of their trees, and

    states: the places, in the batch read row after row, of what predicts something, int64 [n_states].
    rows: which of `states` predicts each scored token, int64 [m].
    tokens: the scored tokens, those of the trunks (but the first of each) and of all branches, int64 [m].
    lists: of each list the scored tokens of its target, then of each sibling, int64 [n_lists, 1 + K, longest]; -1 for
        padding. A target's tokens are the trunk's own: it needs no branch.
    trunks: the scored tokens of the trunks, int64 [n].
    log_q: of each list's titles, float32 [n_lists, 1 + K], if negatives are drawn by it.
    """

    trunks: Trunks
    catalogue: Catalogue
    siblings: Siblings
    form: Form

    def __call__(self, numbers: list[int]) -> dict[str, Tensor]:
        """The batch of some numbers."""
        trunks, codes, count = self.trunks, self.catalogue.codes, self.siblings.count
        epoch, row = np.divmod(np.array(numbers, dtype=np.int64), len(trunks))
        chosen = trunks.lists.take(row)
        lists, owner = chosen.values.astype(np.int64), np.repeat(np.arange(len(row)), chosen.lengths)
        targets, begin = trunks.target[lists], trunks.begin[lists]
        keys = list_keys(trunks.keys[row[owner]], epoch[owner], trunks.place[lists])
        drawn = self.siblings.draw(targets, trunks.seen.take(row[owner]), keys, trunks.titles.take(row).values)

        ids, branches = trunks.ids.take(row), codes.take(drawn.ravel())
        forest, of_trunk, of_branch = Forest.of_trunks(ids, np.repeat(owner, count), np.repeat(begin, count), branches)
        n_trees = forest.n_trees  # so many first tokens, which nothing predicts, stand before what is scored
        first, sizes = ids.offsets[owner] + begin, codes.lengths[targets]
        of_target = Ragged(of_trunk.values[ranges(first, first + sizes)], offsets_of(sizes))
        sources = np.repeat(np.arange(len(forest.tokens)), np.diff(forest.wanted_bounds[n_trees:]))
        predicts, rows = np.unique(sources, return_inverse=True)

        batch = lay_out(forest, trunk_tokens(forest, of_trunk), self.form)
        arrays = {
            "rows": rows,
            "tokens": forest.wanted[n_trees:],
            "lists": _side_by_side(of_target, of_branch, count) - n_trees,
            "trunks": np.delete(of_trunk.values, of_trunk.offsets[:-1]).astype(np.int64) - n_trees,
        }
        arrays["lists"] = np.where(arrays["lists"] >= 0, arrays["lists"], -1)
        if self.siblings.log_q is not None:
            arrays["log_q"] = self.siblings.log_q[np.column_stack([targets, drawn])]
        batch["states"] = batch["place"][torch.from_numpy(predicts)]
        return batch | {name: torch.from_numpy(a) for name, a in arrays.items()}


def _side_by_side(targets: Ragged, siblings: Ragged, count: int) -> np.ndarray:
    """The tokens of each list's target and siblings, int64 [n_lists, 1 + count, longest], -1 for padding."""
    n = len(targets)
    both = Ragged(
        np.concatenate([targets.values, siblings.values]),
        np.concatenate([targets.offsets, targets.offsets[-1] + siblings.offsets[1:]]),
    )
    order = np.column_stack([np.arange(n), n + np.arange(n * count).reshape(n, count)])
    rows = both.take(order.ravel())
    real = np.arange(int(rows.lengths.max(initial=0))) < rows.lengths[:, None]
    out = np.full(real.shape, -1, dtype=np.int64)
    out[real] = rows.values
    return out.reshape(n, 1 + count, -1)
