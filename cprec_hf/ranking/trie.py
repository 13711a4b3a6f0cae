"""Titles as a prefix tree of token ids, in flat arrays.

Nodes are numbered breadth first, so that the children of a node, and the nodes of a depth, stand side by side: the
children of node `i` are `first_child[i]` to `first_child[i + 1] - 1`, in the order of their tokens. `order` is the same
tree depth first, which is how a model reads it: the descendants of a node follow it at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from cprec_hf.corpus.ragged import Ragged, offsets_of


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree over rows of token ids; node 0 is the root, the empty row.

    Attributes:
        tokens: the token that leads to each node, int32 [n_nodes]; -1 at the root.
        parents: int32 [n_nodes]; -1 at the root.
        first_child: int32 [n_nodes + 1]; see the module.
        order: the nodes depth first, int32 [n_nodes].
        ends: the node where each row ends, int32 [n_rows]. Where no row begins another these are leaves.
    """

    tokens: np.ndarray
    parents: np.ndarray
    first_child: np.ndarray
    order: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, rows: Ragged) -> Trie:
        """The tree of these rows, none of them empty; rows may repeat, or begin one another."""
        lengths = rows.lengths
        column = np.arange(int(lengths.max(initial=0)))
        real = column < lengths[:, None]
        matrix = np.full(real.shape, -1, dtype=np.int32)
        matrix[real] = rows.values
        by_row = np.lexsort(matrix.T[::-1]) if matrix.size else np.arange(len(rows))
        matrix, real = matrix[by_row], real[by_row]
        # A row makes a node at each depth where it has parted from the row before it.
        parted = np.ones(real.shape, dtype=bool)
        parted[1:] = np.logical_or.accumulate(matrix[1:] != matrix[:-1], axis=1)
        new = parted & real
        depth, row = np.nonzero(new.T)
        number = np.zeros(new.shape, dtype=np.int32)
        number[row, depth] = np.arange(1, len(row) + 1)
        at = np.maximum.accumulate(number, axis=0)  # the node of each row at each depth, where it has one
        parents = np.where(depth > 0, at[row, depth - 1], 0)
        ends = np.empty(len(rows), dtype=np.int32)
        ends[by_row] = np.where(real, at, 0).max(axis=1, initial=0)
        return cls(
            np.concatenate([[-1], matrix[row, depth]]).astype(np.int32),
            np.concatenate([[-1], parents]).astype(np.int32),
            (1 + offsets_of(np.bincount(parents, minlength=len(row) + 1))).astype(np.int32),
            np.concatenate([[0], number[new]]).astype(np.int32),  # by row, then by depth: depth first
            ends,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_children(self) -> np.ndarray:
        """Children of each node, int32 [n_nodes]."""
        return np.diff(self.first_child)

    @cached_property
    def rank(self) -> np.ndarray:
        """The place of each node in `order`, int64 [n_nodes]."""
        rank = np.empty(len(self), dtype=np.int64)
        rank[self.order] = np.arange(len(self))
        return rank

    @cached_property
    def levels(self) -> np.ndarray:
        """Where the nodes of each depth begin, int64 [n_levels + 1]; the root is depth 0."""
        bounds = [0, 1]
        while bounds[-1] < len(self):
            bounds.append(int(self.first_child[bounds[-1]]))
        return np.array(bounds, dtype=np.int64)

    @cached_property
    def depth(self) -> np.ndarray:
        """Tokens from the root to each node, int64 [n_nodes]."""
        return np.repeat(np.arange(len(self.levels) - 1), np.diff(self.levels))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Nodes in each node's subtree, itself included, int64 [n_nodes]."""
        sizes = np.ones(len(self), dtype=np.int64)
        for begin, end in zip(self.levels[-2:0:-1], self.levels[:1:-1], strict=True):  # the deepest first
            np.add.at(sizes, self.parents[begin:end], sizes[begin:end])
        return sizes

    def paths(self, nodes: np.ndarray) -> Ragged:
        """The nodes from the root (left out) to each of `nodes` (included)."""
        lengths = self.depth[nodes]
        offsets = offsets_of(lengths)
        values, last = np.empty(int(offsets[-1]), dtype=np.int32), offsets[1:] - 1
        at, here = np.asarray(nodes, dtype=np.int64), np.arange(len(nodes))
        for step in range(int(lengths.max(initial=0))):
            here = here[lengths[here] > step]
            values[last[here] - step] = at[here]
            at[here] = self.parents[at[here]]
        return Ragged(values, offsets)

    def rows(self) -> Ragged:
        """The rows it was made of."""
        paths = self.paths(self.ends)
        return Ragged(self.tokens[paths.values], paths.offsets)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays it is made of, by name, as `Trie(**arrays)` takes them."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
