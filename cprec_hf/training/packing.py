"""Documents side by side in blocks of equal length, none seeing another: every token is used, no step reads padding.

TRL packs (best fit, long documents split) and then flattens a whole batch into one row, which costs
(batch x length)^2 attention wherever FlashAttention is absent: three times slower at 8 x 256 on a CPU. Here a batch
stays [batch, length]; position ids restart with every document, and transformers builds the block-diagonal causal mask
from them. With FlashAttention, TRL's flattened batch is the right one and is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Sampler
from trl import pack_dataset

from cprec_hf.errors import InputError
from cprec_hf.training import attention
from cprec_hf.training.kernels import IGNORED


def pack_rows(rows: datasets.Dataset, length: int, seed: int) -> datasets.Dataset:
    """Pack rows into blocks of at most `length` tokens; documents longer than that are split, no token is lost.

    TRL packs 1,000 rows at a time, longest first, so the rows are shuffled before.

    Args:
        rows: columns `input_ids` and `labels`, lists of equal lengths.
        length: tokens a block.
        seed: of the shuffle.

    Returns:
        Columns `input_ids`, `labels` and `seq_lengths` (the documents of each block).
    """
    rows = rows.shuffle(seed=seed).flatten_indices(keep_in_memory=True)
    packed = pack_dataset(rows, length, "bfd_split", {"keep_in_memory": True})
    before, after = (int(row_lengths(data).sum()) for data in (rows, packed))
    if before != after:
        raise RuntimeError(f"packing made {after:,} tokens of {before:,}")
    return packed


def row_lengths(rows: datasets.Dataset) -> np.ndarray:
    """Tokens of each row, int64 [n_rows]."""
    column = rows.select_columns(["input_ids"]).with_format("arrow")[:].column("input_ids").combine_chunks()
    return np.diff(np.asarray(column.offsets, dtype=np.int64))


@dataclass(frozen=True)
class BlockCollator:
    """Packed rows to `input_ids`, `labels` and `position_ids`, each int64 [batch, longest row].

    Positions restart at each document, and a document's first token is not predicted. Rows are padded on the right,
    where no document can see it: the padding counts on from the last position, and is not predicted either.

    With `boundaries`, also `cu_seq_lens_q` and `max_length_q` of `attention.boundaries`, for `cprec_varlen`.
    """

    pad_token_id: int
    boundaries: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows of `input_ids`, `labels` and `seq_lengths`."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = np.full((len(rows), width), self.pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), width), IGNORED, dtype=np.int64)
        positions = np.empty((len(rows), width), dtype=np.int64)
        for i, row in enumerate(rows):
            n, starts = len(row["input_ids"]), np.cumsum([0, *row["seq_lengths"][:-1]])
            ids[i, :n], labels[i, :n] = row["input_ids"], row["labels"]
            labels[i, starts] = IGNORED
            positions[i] = np.arange(width) - np.repeat(starts, np.diff([*starts, width]))
        batch: dict[str, Any] = {
            name: torch.from_numpy(a)
            for name, a in zip(("input_ids", "labels", "position_ids"), (ids, labels, positions), strict=True)
        }
        if self.boundaries:
            batch["cu_seq_lens_q"], batch["max_length_q"] = attention.boundaries(batch["position_ids"])
        return batch


def refuse_leaks(model: Any) -> None:
    """Try the model on two documents in one block, and refuse it if the second can see the first.

    Transformers builds the block mask for most architectures and silently not for all (state-space and convolution
    layers carry a state across); trying is the only check that holds for any model of the Hub.

    Args:
        model: a causal language model of transformers, without a PEFT wrapper.

    Raises:
        InputError: changing the first document changed the second's hidden states, the model takes no position ids, or
            its attention is not for it (`attention.check_attention`).
    """
    advice = f"{type(model).__name__} cannot keep packed documents apart here; set `packing: false`"
    attention.check_attention(model)
    if "position_ids" not in inspect.signature(type(model.base_model).forward).parameters:
        raise InputError(advice)
    training, device = model.training, model.device
    model.eval()
    documents = (
        torch.tensor([[3, 4, 5, 3, 4, 5, 6], [7, 6, 8, 3, 4, 5, 6]], device=device)
        % model.config.get_text_config().vocab_size
    )
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=device).expand(2, -1)
    with torch.no_grad():
        hidden = model.base_model(
            input_ids=documents, position_ids=positions, use_cache=False
        ).last_hidden_state.float()
    model.train(training)
    difference = (hidden[0, 3:] - hidden[1, 3:]).abs().max()
    if not difference <= 1e-3 * hidden[0, 3:].abs().max():
        raise InputError(advice)


class Order(Sampler[int]):
    """Which row comes when, for a whole run: shuffled epoch after epoch, without a short batch at an epoch's end.

    The run is one long epoch to the Trainer, so a resumed run goes on with exactly the row the interrupted one would
    have read next, and a branch (`anneal`) may begin its own data at the step it branches from.

    Args:
        lengths: tokens of each row, [n_rows].
        batch: rows of one optimizer step, over all devices and accumulated batches.
        steps: optimizer steps of the run, those before `start` included.
        seed: of the shuffles.
        start: the step at which the stage begins (an anneal's trunk step); what came before it is another stage's.
        continues: whether these rows were read from step 0 on; otherwise they begin at `start`, and rows before it are
            never read (the Trainer skips them).
    """

    def __init__(
        self, lengths: np.ndarray, batch: int, steps: int, seed: int, start: int = 0, *, continues: bool = False
    ) -> None:
        self.lengths, self.batch, self.steps, self.seed, self.start = lengths, batch, steps, seed, start
        self._skipped = 0 if continues else start
        self._cached: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return self.steps * self.batch

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.lengths), (self.steps - self._skipped) * self.batch
        for _ in range(self._skipped * self.batch):
            yield 0
        for epoch in range(-(-left // n)):
            yield from self.epoch(epoch)[: left - epoch * n].tolist()

    def epoch(self, epoch: int) -> np.ndarray:
        """The order of one pass over the rows, int64 [n_rows]."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.lengths))

    def tokens(self, step: int) -> int:
        """Tokens the stage has read once `step` steps of the run are done, padding not counted."""
        return self._read(max(step, self.start)) - self._read(self.start)

    def _read(self, step: int) -> int:
        epoch, rest = divmod((step - self._skipped) * self.batch, len(self.lengths))
        if self._cached[0] != epoch:
            self._cached = (epoch, np.concatenate([[0], np.cumsum(self.lengths[self.epoch(epoch)])]))
        return epoch * int(self.lengths.sum()) + int(self._cached[1][rest])
