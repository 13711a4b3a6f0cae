"""Trunk and branches: what is read after each prefix, every token that branches share standing there once.

A `Forest` holds for every prefix the tree of tokens that must be read to predict the wanted ones, depth first, so that
what a token may see of its own tree is an interval: token `i` sees `j` where j <= i < end[j]. `scoring` reads it in
pieces; nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.ranking.trie import Trie


@dataclass(frozen=True, eq=False)
class Forest:
    """Tokens to read after prefixes, and tokens to predict from them.

    Several prefixes may have the same tree, as they do where the whole of a catalogue is scored.

    Attributes:
        tree_of: the tree of each prefix, int64 [n_prefixes].
        bounds: the tokens of tree `t` are bounds[t] to bounds[t + 1] - 1, int64 [n_trees + 1].
        tokens: ids to read, int64 [n].
        depth: place after the prefix, from 0, int64 [n].
        parent: the token before it, int64 [n]; -1 where that is the prefix' last.
        end: one past the last token that follows it, int64 [n].
        wanted: ids to predict, int64 [m], sorted by where they are predicted from: first those that follow the prefix
            of tree 0, tree 1, ..., then those that follow token 0, token 1, ...
        wanted_bounds: what follows the prefix of tree `t` is wanted_bounds[t] to wanted_bounds[t + 1] - 1, what follows
            token `i` the same at n_trees + i; int64 [n_trees + n + 1].
    """

    tree_of: np.ndarray
    bounds: np.ndarray
    tokens: np.ndarray
    depth: np.ndarray
    parent: np.ndarray
    end: np.ndarray
    wanted: np.ndarray
    wanted_bounds: np.ndarray

    @property
    def n_trees(self) -> int:
        """How many trees there are."""
        return len(self.bounds) - 1

    @classmethod
    def of(cls, trie: Trie, n_prefixes: int, owners: np.ndarray, nodes: np.ndarray) -> tuple[Forest, Ragged]:
        """What predicts the tokens on the paths to some nodes of a trie, a tree for each prefix.

        Args:
            trie: all rows.
            n_prefixes: how many prefixes there are.
            owners: the prefix of each row wanted, int64 [n_rows].
            nodes: the node where it ends, [n_rows].

        Returns:
            The forest, and for each row the places in `wanted` of its tokens.
        """
        paths = trie.paths(nodes)
        rank = trie.rank[paths.values]
        keys, place = np.unique(np.repeat(owners, paths.lengths) * len(trie) + rank, return_inverse=True)
        owner, node = keys // len(trie), trie.order[keys % len(trie)]
        parent = np.searchsorted(keys, owner * len(trie) + trie.rank[trie.parents[node]])
        parent[trie.parents[node] == 0] = -1
        end = np.searchsorted(keys, keys + trie.sizes[node])
        forest, places = cls._of_nodes(trie, np.arange(n_prefixes), owner, node, parent, end)
        return forest, Ragged(places[place].astype(np.int32), paths.offsets)

    @classmethod
    def whole(cls, trie: Trie, n_prefixes: int) -> tuple[Forest, np.ndarray]:
        """The whole trie, one tree for all prefixes.

        Returns:
            The forest, and the place in `wanted` of each node but the root, int64 [n_nodes - 1].
        """
        node = trie.order[1:]
        parent, end = trie.rank[trie.parents[node]] - 1, np.arange(len(node)) + trie.sizes[node]
        forest, places = cls._of_nodes(
            trie, np.zeros(n_prefixes, dtype=np.int64), np.zeros(len(node), dtype=np.int64), node, parent, end
        )
        return forest, places[trie.rank[1:] - 1]

    @classmethod
    def _of_nodes(
        cls, trie: Trie, tree_of: np.ndarray, tree: np.ndarray, node: np.ndarray, parent: np.ndarray, end: np.ndarray
    ) -> tuple[Forest, np.ndarray]:
        """The forest that predicts these nodes (by tree, depth first), and their places in `wanted`."""
        n_trees = int(tree_of.max(initial=-1)) + 1
        read = np.zeros(len(node), dtype=bool)  # a token that nothing follows is predicted and never read
        read[parent[parent >= 0]] = True
        before = offsets_of(read)
        source = np.where(parent < 0, tree, n_trees + before[parent])
        by_source = np.argsort(source, kind="stable")
        places = np.empty(len(node), dtype=np.int64)
        places[by_source] = np.arange(len(node))
        return cls(
            tree_of=tree_of,
            bounds=offsets_of(np.bincount(tree[read], minlength=n_trees)),
            tokens=trie.tokens[node[read]].astype(np.int64),
            depth=trie.depth[node[read]] - 1,
            parent=np.where(parent[read] < 0, -1, before[parent[read]]),
            end=before[end[read]],
            wanted=trie.tokens[node[by_source]].astype(np.int64),
            wanted_bounds=offsets_of(np.bincount(source, minlength=n_trees + int(before[-1]))),
        ), places
