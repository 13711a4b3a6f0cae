"""Reading a forest: prefixes once into cached keys and values, then every token of their trees once on top of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.ranking.forest import Forest, sees
from cprec_hf.ranking.reader import Method, Reader, beside, columns_of, rows_of

_ROW_TOKENS = 256  # tokens of a tree side by side in one row; more would only add masked-out attention (our choice)

_FILLED = 0.85  # prefixes of lengths so different that less of a batch is tokens are read in several (our choice)

Scored = Iterator[tuple[np.ndarray, np.ndarray]]  # numbers [n], and the log-probability of one token of each [n]


def read_forest(
    reader: Reader, prefixes: Ragged, forest: Forest, method: Method, max_tokens: int, *, rest: bool = False
) -> Scored:
    """The log-probabilities of all that a forest wants, in batches.

    Numbers are places in `forest.wanted` where each prefix has a tree of its own. Where they share one, those of prefix
    `p` go on from p * len(wanted).

    Args:
        reader: inside its `reading`.
        prefixes: of the forest, longest first.
        forest: what to read and predict.
        method: "mask" or "cache".
        max_tokens: tokens held by one forward pass, cached ones and padding included.
        rest: give instead the log-probability of all that is not wanted after each source (see `Forest.wanted_bounds`),
            by the number of the source.
    """
    counts, lengths = np.diff(forest.bounds)[forest.tree_of], prefixes.lengths
    deepest = np.zeros(forest.n_trees, dtype=np.int64)
    np.maximum.at(deepest, np.repeat(np.arange(forest.n_trees), np.diff(forest.bounds)), forest.depth + 1)
    deepest = deepest[forest.tree_of]
    begin = 0
    while begin < len(counts):
        longest = int(lengths[begin])
        more = min(_ROW_TOKENS, int(counts[begin:].max())) if method == "mask" else 0
        end = min(begin + max(1, max_tokens // (longest + more)), len(counts))
        padded, filled = longest * np.arange(1, end - begin + 1), np.cumsum(lengths[begin:end])
        end = begin + max(1, int(((filled > _FILLED * padded) | (padded <= reader.least_tokens)).sum()))
        if reader.context is not None:  # padded rows too must fit the model's positions
            rows = longest + np.maximum.accumulate(deepest[begin:end])
            end = begin + int(np.searchsorted(rows, reader.context, side="right"))
        batch = _Batch(reader, prefixes.take(np.arange(begin, end)), forest, begin, method, rest)
        yield batch.first()
        yield from batch.by_mask() if method == "mask" else batch.by_rows(max_tokens)
        begin = end


class _Batch:
    """Some prefixes read at once, left-padded so that all end in the last column."""

    def __init__(
        self, reader: Reader, prefixes: Ragged, forest: Forest, begin: int, method: Method, rest: bool
    ) -> None:
        self.reader, self.forest, self.rest = reader, forest, rest
        self.lengths, self.past = prefixes.lengths, int(prefixes.lengths.max())
        tree = self.tree = forest.tree_of[begin : begin + len(prefixes)]
        self.starts, self.stops = forest.bounds[tree], forest.bounds[tree + 1]
        shared = forest.n_trees < len(forest.tree_of)
        per_prefix = len(forest.wanted_bounds) - 1 if rest else len(forest.wanted)
        self.base = (begin + np.arange(len(prefixes))) * (per_prefix if shared else 0)
        self.last, self.cache, self.seen, self.positions = reader.read_prefixes(prefixes, keep_all=method == "mask")

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """What follows the prefixes themselves."""
        return self._predicted(self.last, np.arange(len(self.lengths)), self.tree)

    def _predicted(self, states: torch.Tensor, users: np.ndarray, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What follows sources [n], each some user's, of which `states` [n, width] are the states."""
        begins, ends = self.forest.wanted_bounds[sources], self.forest.wanted_bounds[sources + 1]
        numbers, rows = ranges(begins, ends), np.repeat(np.arange(len(sources)), ends - begins)
        if self.rest:
            return self.base[users] + sources, self.reader.rest(states, rows, self.forest.wanted[numbers])
        return self.base[users][rows] + numbers, self.reader.log_probs(states, rows, self.forest.wanted[numbers])

    def _after(self, states: torch.Tensor, users: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What follows the tokens read, `token` [rows, columns], -1 for padding, each row some user's."""
        real = token >= 0
        sources = self.forest.n_trees + token[real]
        return self._predicted(states[self.reader.tensor(real)], np.repeat(users, real.sum(axis=1)), sources)

    def _ids(self, token: np.ndarray, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and positions of tokens [rows, columns], each row some user's."""
        real = token.clip(0)
        return self.forest.tokens[real], self.lengths[users][:, None] + self.forest.depth[real]

    def by_mask(self) -> Scored:
        """Each user's tree in one row, or piece after piece; of what was read, the path to the next piece is kept."""
        counts = self.stops - self.starts
        most = int(counts.max(initial=0))
        users, read, kept = np.arange(len(counts)), np.zeros((len(counts), 0), dtype=np.int64), None
        width = -(-most // max(1, -(-most // _ROW_TOKENS)))  # pieces of about one length
        for begin in range(0, most, max(1, width)):
            go_on = np.flatnonzero(counts[users] > begin)
            users, at = users[go_on], self.starts[users[go_on]] + begin
            path, columns = self._path(read[go_on], at)
            cache = rows_of(self.cache, None if len(users) == len(counts) else self.reader.tensor(users))
            if kept is not None and columns.size:
                cache = beside(cache, columns_of(kept, self.reader.tensor(go_on), self.reader.tensor(columns)))
            token = at[:, None] + np.arange(min(width, int(counts[users].max()) - begin))
            token = np.where(token < self.stops[users][:, None], token, -1)
            read = np.concatenate([path, token], axis=1)
            ids, positions = self._ids(token, users)
            states = self.reader.read(ids, self._mask(users, token, read), positions, cache)
            yield self._after(states, users, token)
            kept = cache

    def _path(self, read: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the tokens `read` [rows, columns], those that lead to `at` [rows], -1 for padding; and their columns."""
        leads = (read >= 0) & (self.forest.end[read.clip(0)] > at[:, None])
        columns = np.argsort(~leads, axis=1, kind="stable")[:, : int(leads.sum(axis=1).max(initial=0))]
        path = np.where(np.take_along_axis(leads, columns, 1), np.take_along_axis(read, columns, 1), -1)
        return path, self.past + columns

    def _mask(self, users: np.ndarray, token: np.ndarray, read: np.ndarray) -> Any:
        """A token sees its prefix, and of its tree in `read` [rows, columns] what leads to it and itself."""
        reader = self.reader
        query, key = reader.tensor(token)[:, :, None], reader.tensor(read)[:, None, :]
        end = reader.tensor(np.where(read >= 0, self.forest.end[read.clip(0)], 0))[:, None, :]
        prefix = reader.tensor(self.seen[users])[:, None, :].expand(-1, token.shape[1], -1)
        seen = torch.cat([prefix, sees(query, key, end)], dim=-1)
        _, positions = self._ids(read, users)
        keys = reader.tensor(np.concatenate([self.positions[users], positions], axis=1))
        return reader.tree_mask(reader.mask_of(seen), keys[:, -token.shape[1] :], keys)

    def by_rows(self, max_tokens: int) -> Scored:
        """A row for each branch: level by level where branches part, and in one go where nothing parts any more."""
        forest = self.forest
        by_parent = np.argsort(forest.parent, kind="stable")
        children = np.searchsorted(forest.parent[by_parent], np.arange(-1, len(forest.tokens) + 1))
        parts = offsets_of(np.diff(children)[1:] > 1)  # how often trees have parted before each token
        roots = by_parent[: children[1]]
        firsts = np.searchsorted(roots, self.starts), np.searchsorted(roots, self.stops)
        users = np.repeat(np.arange(len(self.starts)), firsts[1] - firsts[0])
        todo: list[tuple[np.ndarray, np.ndarray, np.ndarray, Any]] = [
            (roots[ranges(*firsts)], users, users, self.cache)  # tokens, users, rows of the cache
        ]
        while todo:
            here, users, rows, cache = todo.pop()
            if not len(here):
                continue
            past = self.past + int(forest.depth[here[0]])
            most = max(1, max_tokens // (past + 1))
            tail = parts[forest.end[here]] == parts[here]
            yield from self._tails(here[tail], users[tail], rows[tail], cache, past, max_tokens)
            here, users, rows = here[~tail], users[~tail], rows[~tail]
            todo.append((here[most:], users[most:], rows[most:], cache))
            here, users, rows = here[:most], users[:most], rows[:most]
            if len(here):
                states, cache = self._rows(here[:, None], users, rows, cache, past)
                yield self._after(states, users, here[:, None])
                begins, ends = children[here + 1], children[here + 2]
                below = np.repeat(np.arange(len(here)), ends - begins)
                todo.append((by_parent[ranges(begins, ends)], users[below], below, cache))

    def _tails(
        self, begins: np.ndarray, users: np.ndarray, rows: np.ndarray, cache: Any, past: int, max_tokens: int
    ) -> Scored:
        """Branches that part no more, longest first."""
        lengths = self.forest.end[begins] - begins
        order = np.argsort(-lengths, kind="stable")
        at = 0
        while at < len(order):
            longest = int(lengths[order[at]])
            now = order[at : at + max(1, max_tokens // (past + longest))]
            token = begins[now][:, None] + np.arange(longest)
            token = np.where(token < self.forest.end[begins[now]][:, None], token, -1)
            states, _ = self._rows(token, users[now], rows[now], cache, past)
            yield self._after(states, users[now], token)
            at += len(now)

    def _rows(
        self, token: np.ndarray, users: np.ndarray, rows: np.ndarray, cache: Any, past: int
    ) -> tuple[torch.Tensor, Any]:
        """States of tokens [n, columns], each row on top of its row of `cache`, and the keys and values with them."""
        cache = rows_of(cache, self.reader.tensor(rows))
        ids, positions = self._ids(token, users)
        between = np.ones((len(token), past - self.past), dtype=bool)
        seen = self.reader.tensor(np.concatenate([self.seen[users], between, token >= 0], axis=1))
        return self.reader.read(ids, seen, positions, cache), cache
