"""Sequences as padded batches of tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.evaluation.sequential.sequences import windows


def padded(rows: Ragged, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last `longest` of each row, padded with 0 on the right; ids int64 [rows, columns] and lengths int64 [rows].

    Every row keeps at least one column, so that an empty history is a row of padding of length 0.
    """
    lengths = np.minimum(rows.lengths, longest)
    ids = np.zeros((len(rows), max(int(lengths.max(initial=0)), 1)), dtype=np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = rows.values[ranges(rows.offsets[1:] - lengths, rows.offsets[1:])]
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def batches(
    sequences: Ragged, width: int, size: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch: windows of similar length together, some `size` items a batch, batches shuffled; each as `padded`."""
    cut = windows(sequences, width, rng)
    order = np.lexsort((rng.random(len(cut)), cut.lengths))
    batch = offsets_of(cut.lengths[order])[:-1] // size
    bounds = np.append(np.flatnonzero(np.diff(batch, prepend=-1)), len(order))
    for i in rng.permutation(len(bounds) - 1):
        yield padded(cut.take(order[bounds[i] : bounds[i + 1]]), width)
