"""What sequential models are trained on: each user's training events once, in order, and windows of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.evaluation.rows import Catalogue


def training_sequences(train: pa.Table, catalogue: Catalogue, where: str, *, every: bool) -> Ragged:
    """Each training user's items in order, every event once, from the rows of a corpus' training split.

    Rows of `train_targets: window` follow each other, so they are joined; a last event alone in its window stands in no
    row and is not known here. Rows of `every` overlap: the first gives its history, each its target.

    Args:
        train: columns user_id, history, target, timestamp; a user's rows of one timestamp in their order.
        catalogue: the domain's items.
        where: names the corpus and split in error messages.
        every: whether the rows are those of `train_targets: every`.

    Returns:
        Item codes, oldest first, users in the order of their first rows [training users][any].

    Raises:
        InputError: an item without a catalogue entry.
    """
    users = train["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    order = np.lexsort((train["timestamp"].to_numpy(), users))  # stable
    users, train = users[order], train.take(pa.array(order))
    first = np.diff(users, prepend=-1) > 0
    history = train["history"].combine_chunks()
    lengths = pc.list_value_length(history).fill_null(0).to_numpy().astype(np.int64)
    values = catalogue.codes(history.flatten(), where)
    if every:
        values, lengths = values[np.repeat(first, lengths)], np.where(first, lengths, 0)
    targets = catalogue.codes(train["target"].combine_chunks(), where)
    before = Ragged(values.astype(np.int32), offsets_of(lengths))
    rows = before.join(Ragged(targets.astype(np.int32), np.arange(len(users) + 1, dtype=np.int64)))
    return Ragged(rows.values, np.append(rows.offsets[:-1][first], rows.offsets[-1]))


@dataclass(frozen=True)
class Vocabulary:
    """Which row of a model's item table stands for each item.

    Attributes:
        rows: int64 [items].
        size: rows of the table.
    """

    rows: np.ndarray
    size: int

    @classmethod
    def seen(cls, sequences: Ragged, n_items: int) -> Vocabulary:
        """A row for each item of the sequences, and a last one that all others share.

        So an item without a training event has the score of any other such item: nothing tells them apart, and ties
        are ranked in expectation. No training target falls on that row, so the softmax learns to rank it low.
        """
        known = np.unique(sequences.values)
        rows = np.full(n_items, len(known), dtype=np.int64)
        rows[known] = np.arange(len(known))
        return cls(rows, len(known) + 1)

    @classmethod
    def whole(cls, n_items: int) -> Vocabulary:
        """A row for each item, for tables that say something of items before any training."""
        return cls(np.arange(n_items, dtype=np.int64), n_items)

    def of(self, sequences: Ragged) -> Ragged:
        """Sequences of items as sequences of rows."""
        return Ragged(self.rows[sequences.values].astype(np.int32), sequences.offsets)


def windows(sequences: Ragged, width: int, rng: np.random.Generator) -> Ragged:
    """Sequences cut into windows of at most `width` items, each beginning with the last item of the one before.

    So every step from an item to the next is in exactly one window. Where a sequence has several, the first is of a
    length drawn from 2 to `width`: an epoch's cuts fall elsewhere than the one's before, and no item always stands
    without its past. Our choice.

    Args:
        sequences: of at least two items each.
        width: at least 2.
        rng: draws the first windows' lengths.
    """
    steps = sequences.lengths - 1
    long = steps > width - 1
    first = np.where(long, rng.integers(1, width, len(steps)), steps)  # steps of the first window
    count = 1 + -(-(steps - first) // (width - 1))
    number = np.arange(count.sum()) - np.repeat(offsets_of(count)[:-1], count)
    begin = np.where(number > 0, np.repeat(first, count) + (number - 1) * (width - 1), 0)
    stop = np.minimum(np.repeat(first, count) + number * (width - 1), np.repeat(steps, count))
    base = np.repeat(sequences.offsets[:-1], count)
    taken = sequences.values[ranges(base + begin, base + stop + 1)]
    return Ragged(taken, offsets_of(stop - begin + 1))
