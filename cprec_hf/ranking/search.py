"""The best rows of a trie without reading all of it: best-first search that knows when nothing better can follow.

A row cannot be more likely than what it begins with. So where the k-th best row found is at least as likely as
everything not yet read on from, the k found are the best there are, proven. Every step reads the most likely open
nodes of all users at once, on top of the keys and values of what was read before; all bookkeeping stays on the device.
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
from cprec_hf.ranking.reader import HEAD_VALUES, Reader, choose_method, rows_of
from cprec_hf.ranking.scoring import MAX_BATCH_TOKENS, method_for
from cprec_hf.ranking.trie import Trie

MAX_NODES = 2048
"""Nodes read for a user before the search gives up on a proof. Our choice."""
_FEW = 512  # nodes that memory is first reserved for: mostly enough, and more users then fit a batch
_OPEN = 4096  # open nodes remembered of a user; more than are ever read
_AT_ONCE = 32  # nodes of a user read in a step: more means fewer steps, and more nodes that need not have been read


@dataclass(frozen=True, eq=False)
class TopRows:
    """The best rows of each user.

    Attributes:
        rows: numbers of rows, best first, int64 [users, k]; -1 where there are no more.
        log_probs: float32 [users, k], in nats; -inf where there are no more.
        proven: whether these are the k best there are, bool [users].
        nodes: how many nodes were read, those of a first try with little memory included, int64 [users].
    """

    rows: np.ndarray
    log_probs: np.ndarray
    proven: np.ndarray
    nodes: np.ndarray


def can_search(model: Any, prefixes: Ragged, trie: Trie) -> bool:
    """Whether `top_rows` is right for a model: where `score_candidates` would choose the block mask."""
    longest = int(prefixes.lengths.max(initial=0)) + len(trie.levels) - 2
    return choose_method(model, longest) == "mask"


def top_rows(
    model: Any,
    prefixes: Ragged,
    trie: Trie,
    k: int,
    *,
    excluded: Ragged | None = None,
    max_nodes: int = MAX_NODES,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> TopRows:
    """The `k` most likely rows of a trie after each prefix, by the sum of their tokens' log-probabilities.

    Args:
        model: one for which `can_search` holds.
        prefixes: one row of token ids a user, at least one token each.
        trie: of rows that are distinct, and of which none begins another.
        k: how many.
        excluded: rows that are not wanted, a row of row numbers a user.
        max_nodes: nodes read for a user before the search gives up on a proof. Where fewer than `k` rows are found by
            then, it goes on down from the deepest open nodes, so that `k` rows come back, if there are so many.
        max_batch_tokens: tokens held at once, cached ones included.

    Raises:
        InputError: an empty prefix, or one too long for the model with the longest row; or the model needs another
            method.
        ValueError: rows repeat or begin one another.
    """
    n = len(prefixes)
    found = TopRows(
        np.full((n, k), -1), np.full((n, k), -np.inf, np.float32), np.ones(n, dtype=bool), np.zeros(n, dtype=np.int64)
    )
    if not n or not len(trie.ends):
        return found
    if trie.n_children[trie.ends].any() or len(np.unique(trie.ends)) < len(trie.ends):
        raise ValueError("rows repeat or begin one another; a search needs rows that end where nothing follows")
    if method_for(model, prefixes, trie) != "mask":
        raise InputError(f"{type(model).__name__} needs another method than a block mask; score the whole catalogue")
    reader = Reader(model)
    todo = np.argsort(-prefixes.lengths, kind="stable")
    with reader.reading(prefixes.row(0)), tqdm(
        desc="searching", total=n, unit="user", delay=2, disable=None, leave=False
    ) as bar:  # fmt: skip
        on_device = _TrieOnDevice(reader, trie)
        tokens = reader.batch_tokens(max_batch_tokens)
        head = max(1, HEAD_VALUES // (_AT_ONCE * reader.config.vocab_size))
        for limit in sorted({min(_FEW, max_nodes), max_nodes}):
            most = min(head, tokens // (int(prefixes.lengths.max()) + min(limit, len(trie))))
            for users in np.split(todo, range(max(1, most), len(todo), max(1, most))):
                search = _Search(reader, prefixes.take(users), on_device, k, _barred(trie, users, excluded, reader))
                for at, *of_users, nodes in search.run(limit, complete=limit == max_nodes):
                    known = (found.rows, found.log_probs, found.proven)
                    for whole, part in zip(known, of_users, strict=True):
                        whole[users[at]] = part.cpu().numpy()
                    found.nodes[users[at]] += nodes.cpu().numpy()
                bar.update(int(found.proven[users].sum() if limit < max_nodes else len(users)))
            todo = todo[~found.proven[todo]]
            if not len(todo):
                break
    return found


class _TrieOnDevice:
    """The arrays of a trie as tensors; `row` is the row that ends in a node, -1 where none does.

    `none` is the number of a node there is not, which has no children.
    """

    def __init__(self, reader: Reader, trie: Trie) -> None:
        row = np.full(len(trie), -1)
        row[trie.ends] = np.arange(len(trie.ends))
        self.tokens, self.depth, self.row = (reader.tensor(a) for a in (trie.tokens.clip(0), trie.depth, row))
        self.first_child = reader.tensor(trie.first_child)
        self.none, self.n_children = len(trie), reader.tensor(np.append(trie.n_children, 0))
        self.height = len(trie.levels) - 2
        self.depths = reader.tensor(np.arange(1, self.height + 1))


def _barred(trie: Trie, users: np.ndarray, excluded: Ragged | None, reader: Reader) -> torch.Tensor:
    """Excluded leaves as sorted numbers user * n_nodes + node."""
    if excluded is None:
        return reader.tensor(np.zeros(0, dtype=np.int64))
    mine = excluded.take(users)
    owner = np.repeat(np.arange(len(users)), mine.lengths)
    return reader.tensor(np.unique(owner * len(trie) + trie.ends[mine.values]))


class _Search:
    """A batch of users, a row of every tensor each; users that are done leave it."""

    def __init__(self, reader: Reader, prefixes: Ragged, trie: _TrieOnDevice, k: int, barred: torch.Tensor) -> None:
        self.reader, self.trie, self.barred = reader, trie, barred
        states, self.cache, seen, positions = reader.read_prefixes(prefixes, keep_all=True)
        n, device = len(prefixes), states.device
        self.lengths = reader.tensor(prefixes.lengths)
        self.positions = reader.tensor(positions)  # of all columns read
        self.prefix_mask = reader.mask_of(reader.tensor(seen))
        self.users = torch.arange(n, device=device)
        self.read = torch.zeros(n, dtype=torch.long, device=device)
        # Of each node read, the columns of what leads to it, by depth, and from its own depth on its own; counted from
        # 1 after the prefix' columns. Number 0 is the prefix, to which nothing leads.
        self.paths = torch.zeros((n, 1, trie.height), dtype=torch.int32, device=device)
        self.rows = torch.full((n, k), -1, device=device)
        self.log_probs = torch.full((n, k), -torch.inf, device=device)
        # Open nodes, the most likely first: node, log-probability, column it follows (from 1, the prefix is 0). `lost`:
        # of those let go.
        self.open = torch.zeros((n, 0), dtype=torch.long, device=device)
        self.open_log_probs, self.open_columns = torch.zeros((n, 0), device=device), self.open
        self.lost = torch.full((n,), -torch.inf, device=device)
        self.deepest_first, self.most_open = False, _OPEN
        root = torch.zeros((n, 1), dtype=torch.long, device=device)
        self._expand(states[:, None], root, root.float(), 0)

    def run(
        self, max_nodes: int, *, complete: bool
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Search; users come out as they are done: their places in the batch, and what `TopRows` says of them.

        `complete`: find `k` rows for everyone, if not the best.
        """
        # More than are read are open in vain, unless it is to go on down from them.
        self.most_open = _OPEN if complete else max_nodes
        while len(self.users):
            worst, left = self.log_probs[:, -1:], max_nodes - (self.paths.shape[1] - 1)
            better = self.open_log_probs[:, : min(_AT_ONCE, left) if left > 0 else _AT_ONCE] > worst
            if left <= 0:
                better &= (worst == -torch.inf) & complete
            done = ~better.any(dim=1)
            if bool(done.any()):
                bound = torch.cat([self.open_log_probs, self.lost[:, None]], dim=1).amax(dim=1)
                proven = bound <= worst[:, 0]
                rows = self.rows.masked_fill(self.log_probs == -torch.inf, -1)
                yield self.users[done].cpu().numpy(), rows[done], self.log_probs[done], proven[done], self.read[done]
                self._keep((~done).nonzero()[:, 0])
                better = better[~done]
            if len(self.users):
                if left <= 0 and not self.deepest_first:
                    self.deepest_first = True
                    self.lost.fill_(torch.inf)  # nothing is to be proven any more
                    self._sort(self.open, self.open_log_probs, self.open_columns)
                    better = self.open_log_probs[:, :_AT_ONCE] > self.log_probs[:, -1:]
                self._step(better[:, : int(better.sum(dim=1).max())])

    def _sort(self, nodes: torch.Tensor, log_probs: torch.Tensor, columns: torch.Tensor) -> None:
        """Take these for the open nodes, [users, n] each; a log-probability of -inf is no node."""
        first = log_probs + 1e4 * self.trie.depth[nodes] if self.deepest_first else log_probs
        some = int((log_probs > -torch.inf).sum(dim=1).max())
        best, at = first.topk(min(some, self.most_open + 1), dim=1)
        if some > self.most_open:
            self.lost = torch.maximum(self.lost, best[:, -1])
            at = at[:, :-1]
        self.open, self.open_log_probs, self.open_columns = (x.gather(1, at) for x in (nodes, log_probs, columns))

    def _keep(self, rows: torch.Tensor) -> None:
        for name in (
            "users", "read", "prefix_mask", "positions", "lengths", "paths", "rows", "log_probs", "open",
            "open_log_probs", "open_columns", "lost",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[rows])
        self.cache = rows_of(self.cache, rows)

    def _step(self, better: torch.Tensor) -> None:
        """Read the best open nodes, [users, columns], of which `better` may lead to something."""
        width, read = better.shape[1], self.paths.shape[1]
        nodes, log_probs, above = (x[:, :width] for x in (self.open, self.open_log_probs, self.open_columns))
        self.open, self.open_log_probs, self.open_columns = (
            x[:, width:] for x in (self.open, self.open_log_probs, self.open_columns)
        )
        self.read += better.sum(dim=1)
        mask, positions = self._see(nodes, above)
        states = self.reader.read(self.trie.tokens[nodes], mask, positions, self.cache)
        self._expand(states, nodes.where(better, self.trie.none), log_probs, read)

    def _see(self, nodes: torch.Tensor, above: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The mask and positions to read nodes with, which follow the columns `above` and go into the next ones."""
        trie, past, (_, read, height) = self.trie, self.prefix_mask.shape[1], self.paths.shape
        depth = trie.depth.take(nodes)  # of the root, which padding holds: 0
        own = torch.arange(read, read + nodes.shape[1], dtype=torch.int32, device=nodes.device)
        paths = self.paths.gather(1, above[..., None].expand(-1, -1, height))
        paths = own[:, None].where(trie.depths >= depth[..., None], paths)
        self.paths = torch.cat([self.paths, paths], dim=1)
        positions = (self.lengths[:, None] - 1) + depth
        self.positions = torch.cat([self.positions, positions], dim=1)

        mask = self.prefix_mask.new_empty((*nodes.shape, self.positions.shape[1]))
        mask[..., :past] = self.prefix_mask[:, None]
        mask[..., past:] = torch.finfo(mask.dtype).min
        mask.scatter_(2, paths.long() + (past - 1), 0)
        return self.reader.tree_mask(mask, positions, self.positions), positions

    def _expand(self, states: torch.Tensor, nodes: torch.Tensor, log_probs: torch.Tensor, first: int) -> None:
        """Take in the children of nodes [users, columns], `first` the columns' number: as rows, or as open nodes."""
        trie = self.trie
        likely, node, above = self._children(self.reader.predict(states.flatten(0, 1)), nodes, log_probs, first)
        row = trie.row[node]  # none ends in the root, which padding holds
        unwanted = inner = row < 0
        if len(self.barred):
            unwanted = inner | torch.isin(self.users[:, None] * trie.none + node, self.barred)
        best = torch.cat([self.log_probs, likely.masked_fill(unwanted, -torch.inf)], dim=1)
        self.log_probs, at = best.topk(self.rows.shape[1], dim=1)
        self.rows = torch.cat([self.rows, row], dim=1).gather(1, at)

        hopeful = inner & (likely > self.log_probs[:, -1:])
        self._sort(
            torch.cat([self.open, node], dim=1),
            torch.cat([self.open_log_probs, likely.masked_fill(~hopeful, -torch.inf)], dim=1),
            torch.cat([self.open_columns, above], dim=1),
        )

    def _children(
        self, predicted: torch.Tensor, nodes: torch.Tensor, log_probs: torch.Tensor, first: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The children of nodes [users, columns]: log-probability, node and the column followed, [users, most of them].

        Padding holds the root, at -inf. `predicted`: [users * columns, vocabulary]; `first`: number of the columns.
        """
        trie, width, flat = self.trie, nodes.shape[1], nodes.flatten()
        counts = trie.n_children.take(flat)
        ends = counts.cumsum(0)  # of each node's children, in a list of them all
        starts = ends - counts
        source = torch.repeat_interleave(counts)
        shift = trie.first_child.take(flat).sub_(starts)
        child = torch.arange(len(source), device=source.device).add_(shift.take(source))
        found = log_probs.flatten().take(source).add_(predicted[source, trie.tokens.take(child)])
        # The list, cut to a row for each user.
        begins, ends = starts[::width, None], ends[width - 1 :: width, None]
        at = begins + torch.arange(int((ends - begins).max()), device=source.device)
        padding = at >= ends
        at.clamp_(max=len(source) - 1)
        likely, node = found.take(at).masked_fill_(padding, -torch.inf), child.take(at).masked_fill_(padding, 0)
        return likely, node, source.take(at).remainder_(width).add_(first)
