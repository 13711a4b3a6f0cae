"""How likely is each candidate after a history: exact log-probabilities, each history read once for all its candidates.

Every candidate of a user follows the same prefix. So the prefixes of a batch of users are read once, into cached keys
and values, and the candidates are read on top of them. Three methods give the same numbers:

    mask    many candidates of a user side by side in one row, kept apart by a block mask. The fastest; right only where
            every token may see its whole past and positions are rotary (`reader.choose_method`).
    cache   one candidate a row, each row with its copy of the prefix's keys and values. Right for sliding windows,
            position tables and the bias buffers of older models.
    rows    one candidate a row after its whole prefix, nothing shared. Right for any causal model, recurrent ones
            included; the other two are measured against it in `benchmarks/shared_prefix.py`.

A candidate's last token is predicted but never read, and the vocabulary head runs only on positions that predict.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.reader import Method, Reader, choose_method, rows_of

_ROW_TOKENS = 256  # candidate tokens side by side in one row; more would only add masked-out attention (our choice)

Scored = Iterator[tuple[np.ndarray, np.ndarray]]  # pair numbers [n] and the log-probability of one token of each [n]


def score_candidates(
    model: Any,
    prefixes: Ragged,
    candidates: Ragged,
    owners: np.ndarray,
    *,
    which: np.ndarray | None = None,
    method: Method = "auto",
    max_batch_tokens: int = 16384,
) -> np.ndarray:
    """The log-probability of each candidate's tokens, summed, given its prefix.

    The model is put in evaluation mode meanwhile and left as it was. On a terminal, a progress bar shows after 2 s.

    Args:
        model: any causal language model of transformers, LoRA adapters included, on any device.
        prefixes: one row of token ids a user, at least one token each.
        candidates: one row of token ids a candidate, at least one token each.
        owners: the row of `prefixes` that each pair's candidate follows, int64 [n_pairs].
        which: the row of `candidates` that each pair scores, int64 [n_pairs]; by default pair `i` scores row `i`. So a
            catalogue is encoded once, however many users are scored against it.
        method: see above; "auto" takes the fastest that is right for the model.
        max_batch_tokens: tokens held by one forward pass, cached ones included; longer work takes more passes.

    Returns:
        float32 [n_pairs], in nats. Softmax in float32 and sums in float64, whatever the model's dtype.

    Raises:
        InputError: an empty prefix or candidate, or a pair longer than the model's positions.
        ValueError: the numbers of owners and candidates differ.
    """
    owners = np.asarray(owners, dtype=np.int64)
    which = np.arange(len(candidates), dtype=np.int64) if which is None else np.asarray(which, dtype=np.int64)
    if owners.shape != which.shape:
        raise ValueError(f"{len(owners)} owners for {len(which)} candidates; give each candidate one owner")
    total = np.zeros(len(owners), dtype=np.float64)
    if not len(total):
        return total.astype(np.float32)
    pairs, reader = _Pairs(prefixes, candidates, owners, which), Reader(model)
    longest = pairs.check(reader.context)
    method = choose_method(model, longest) if method == "auto" else method
    n_tokens = int(candidates.lengths[which].sum())
    with reader.reading(prefixes.row(int(owners[0]))):
        tokens = reader.batch_tokens(max_batch_tokens)
        scored = _whole_rows(reader, pairs, tokens) if method == "rows" else _shared(reader, pairs, tokens, method)
        with tqdm(desc="scoring", total=n_tokens, unit="token", delay=2, disable=None, leave=False) as bar:
            for numbers, log_probs in scored:
                np.add.at(total, numbers, log_probs)
                bar.update(len(numbers))
    return total.astype(np.float32)


@dataclass(frozen=True)
class _Pairs:
    """What to score: pair `i` is row `which[i]` of `candidates` after row `owners[i]` of `prefixes`."""

    prefixes: Ragged
    candidates: Ragged
    owners: np.ndarray
    which: np.ndarray

    def check(self, context: int | None) -> int:
        """The tokens read for the longest pair; `InputError` for pairs that cannot be scored."""
        before, after = self.prefixes.lengths[self.owners], self.candidates.lengths[self.which]
        if not before.all():
            raise InputError(f"prefix {self.owners[before.argmin()]} is empty; a prompt holds at least its header")
        if not after.all():
            raise InputError(f"candidate {self.which[after.argmin()]} is empty; it holds at least the delimiter")
        worst = int((before + after).argmax())
        longest = int(before[worst] + after[worst]) - 1
        if context is not None and longest > context:
            raise InputError(
                f"prefix {self.owners[worst]} has {before[worst]} tokens and its candidate {self.which[worst]} has "
                f"{after[worst]}, but the model has {context} positions; shorten the history or the titles"
            )
        return longest


def _whole_rows(reader: Reader, pairs: _Pairs, max_tokens: int) -> Scored:
    """Method "rows": right-padded rows of a prefix and a candidate, longest first."""
    size = pairs.prefixes.lengths[pairs.owners] + pairs.candidates.lengths[pairs.which] - 1
    order = np.argsort(-size, kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(size[order[begin]])
        numbers = order[begin : begin + max(1, max_tokens // longest)]
        prefixes, tokens = pairs.prefixes.take(pairs.owners[numbers]), pairs.candidates.take(pairs.which[numbers])
        column = np.arange(longest)
        real = column < size[numbers][:, None]
        ids = np.zeros(real.shape, dtype=np.int64)
        ids[real] = _without_last(prefixes.join(tokens))
        states = reader.read(ids, reader.tensor(real), np.broadcast_to(column, real.shape))
        row, predicts = np.nonzero(real & (column >= (prefixes.lengths - 1)[:, None]))
        states = states[reader.tensor(row), reader.tensor(predicts)]
        yield numbers[row], reader.log_probs(states, np.arange(len(row)), tokens.values)
        begin += len(numbers)


def _shared(reader: Reader, pairs: _Pairs, max_tokens: int, method: Method) -> Scored:
    """Methods "mask" and "cache": batches of users, longest prefix first, padding counted in `max_tokens`."""
    lengths = pairs.prefixes.lengths
    users = np.unique(pairs.owners)
    users = users[np.argsort(-lengths[users], kind="stable")]
    place = np.empty(len(lengths), dtype=np.int64)
    place[users] = np.arange(len(users))
    order = np.argsort(place[pairs.owners], kind="stable")
    bounds = np.searchsorted(place[pairs.owners][order], np.arange(len(users) + 1))
    widest = np.maximum.reduceat(pairs.candidates.lengths[pairs.which[order]], bounds[:-1])  # per user
    begin = 0
    while begin < len(users):
        longest = int(lengths[users[begin]])
        end = min(begin + max(1, max_tokens // longest), len(users))
        if reader.context is not None:  # padded rows too must fit the model's positions
            rows = longest + np.maximum.accumulate(widest[begin:end]) - 1
            end = begin + int(np.searchsorted(rows, reader.context, side="right"))
        numbers = order[bounds[begin] : bounds[end]]
        local = _Pairs(
            pairs.prefixes.take(users[begin:end]),
            pairs.candidates,
            place[pairs.owners[numbers]] - begin,
            pairs.which[numbers],
        )
        for found, log_probs in _batch(reader, local, max_tokens, method):
            yield numbers[found], log_probs
        begin = end


def _batch(reader: Reader, pairs: _Pairs, max_tokens: int, method: Method) -> Scored:
    """Read the prefixes, longest first, all at once; predict first tokens; read the candidates on top of them."""
    prefixes, user = pairs.prefixes, pairs.owners
    past = int(prefixes.lengths[0])
    column = np.arange(past) - (past - prefixes.lengths)[:, None]  # left-padded: all prefixes end in the last column
    seen = column >= 0
    ids = np.zeros(seen.shape, dtype=np.int64)
    ids[seen] = prefixes.values
    last, cache = reader.read_prefixes(ids, reader.tensor(seen), column.clip(0))
    first = pairs.candidates.values[pairs.candidates.offsets[pairs.which]]
    yield np.arange(len(user)), reader.log_probs(last, user, first)

    layout = _Layout.of(user, pairs.candidates.lengths[pairs.which] - 1, side_by_side=method == "mask")
    for part, row, first_column in layout.chunks(max_tokens, past):
        tokens = pairs.candidates.take(pairs.which[part])
        read = tokens.lengths - 1
        pair = np.repeat(np.arange(len(part)), read)
        step = np.arange(len(pair)) - np.repeat(np.cumsum(read) - read, read)
        at = row[pair], first_column[pair] + step
        shape = int(row.max()) + 1, int(at[1].max()) + 1
        ids, positions, block = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
        ids[at] = _without_last(tokens)
        positions[at] = prefixes.lengths[user[part]][pair] + step
        block[at] = pair
        owner = np.empty(shape[0], dtype=np.int64)
        owner[row] = user[part]
        mask = _block_mask(reader, seen[owner], block, method)
        states = reader.read(ids, mask, positions, rows_of(cache, reader.tensor(owner)))
        states = states[reader.tensor(at[0]), reader.tensor(at[1])]
        yield part[pair], reader.log_probs(states, np.arange(len(pair)), _without_first(tokens))


@dataclass(frozen=True)
class _Layout:
    """Where candidates stand: pair `order[i]` in row `row[i]` from column `column[i]`; longest rows first."""

    order: np.ndarray
    row: np.ndarray
    column: np.ndarray
    lengths: np.ndarray  # of the rows

    @classmethod
    def of(cls, user: np.ndarray, read: np.ndarray, side_by_side: bool) -> _Layout:
        """Lay out candidates of `read` tokens; those of a user (sorted) side by side, a new row every `_ROW_TOKENS`."""
        order = np.flatnonzero(read)
        user, read = user[order], read[order]
        row, column = np.arange(len(order)), np.zeros(len(order), dtype=np.int64)
        if side_by_side and len(order):
            start = np.cumsum(read) - read
            piece = (start - start[np.searchsorted(user, user)]) // _ROW_TOKENS
            new = np.concatenate([[True], (user[1:] != user[:-1]) | (piece[1:] != piece[:-1])])
            row = np.cumsum(new) - 1
            column = start - start[new][row]
        lengths = np.zeros(len(np.unique(row)), dtype=np.int64)
        np.maximum.at(lengths, row, column + read)
        by_length = np.argsort(-lengths, kind="stable")
        row = np.argsort(by_length)[row]
        again = np.argsort(row, kind="stable")
        return cls(order[again], row[again], column[again], lengths[by_length])

    def chunks(self, max_tokens: int, past: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(pairs, row within the chunk, column) of as many rows at a time as fit, each with `past` cached columns."""
        begin = 0
        while begin < len(self.lengths):
            end = begin + max(1, max_tokens // (past + int(self.lengths[begin])))
            part = slice(*np.searchsorted(self.row, [begin, end]))
            yield self.order[part], self.row[part] - begin, self.column[part]
            begin = end


def _block_mask(reader: Reader, seen: np.ndarray, block: np.ndarray, method: Method) -> torch.Tensor:
    """What each token sees: the prefix [rows, past], and of its row [rows, columns] its own block so far (-1: none)."""
    if method == "cache":
        return reader.tensor(np.concatenate([seen, block >= 0], axis=1))
    blocks = reader.tensor(block)
    own = (blocks[:, :, None] == blocks[:, None, :]).tril()
    return reader.additive(torch.cat([reader.tensor(seen)[:, None, :].expand(-1, block.shape[1], -1), own], dim=-1))


def _without_last(rows: Ragged) -> np.ndarray:
    return np.delete(rows.values, rows.offsets[1:] - 1)


def _without_first(rows: Ragged) -> np.ndarray:
    return np.delete(rows.values, rows.offsets[:-1])
