"""Trunk and branches: what is read after each prefix, every token that branches share standing there once.

A `Forest` holds for every prefix the tree of tokens that must be read to predict the wanted ones, depth first, so that
what a token may see of its own tree is an interval: token `i` sees `j` where j <= i < end[j] (`sees`). `scoring` reads
it in pieces on top of its prefixes; list-wise training (`layout`) reads trees whole, a history the trunk of each.
Nothing here knows a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.ranking.trie import Trie


def sees(query: Any, key: Any, end: Any) -> Any:
    """Whether a token sees another of its forest; arrays or tensors of shapes that broadcast.

    Args:
        query: numbers of tokens that are read.
        key: numbers of tokens, those left of them among others; below 0 for padding, which has the end 0.
        end: of `key`, see `Forest`.
    """
    return (key <= query) & (query < end)


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
        tokens, depth = trie.tokens[node], trie.depth[node] - 1
        forest, places = cls._of_nodes(np.arange(n_prefixes), owner, tokens, depth, parent, end)
        return forest, Ragged(places[place].astype(np.int32), paths.offsets)

    @classmethod
    def whole(cls, trie: Trie, n_prefixes: int) -> tuple[Forest, np.ndarray]:
        """The whole trie, one tree for all prefixes.

        Returns:
            The forest, and the place in `wanted` of each node but the root, int64 [n_nodes - 1].
        """
        node = trie.order[1:]
        parent, end = trie.rank[trie.parents[node]] - 1, np.arange(len(node)) + trie.sizes[node]
        tokens, depth = trie.tokens[node], trie.depth[node] - 1
        tree_of, tree = np.zeros(n_prefixes, dtype=np.int64), np.zeros(len(node), dtype=np.int64)
        forest, places = cls._of_nodes(tree_of, tree, tokens, depth, parent, end)
        return forest, places[trie.rank[1:] - 1]

    @classmethod
    def of_trunks(
        cls, trunks: Ragged, owners: np.ndarray, begins: np.ndarray, branches: Ragged
    ) -> tuple[Forest, Ragged, Ragged]:
        """Sequences with branches: each trunk a tree after an empty prefix, each branch read on top of a part of it.

        What predicts the first token of a trunk is nothing: the places 0 ... n_trees - 1 of `wanted` are no source's.

        Args:
            trunks: one row of token ids a tree, none empty.
            owners: the trunk of each branch, never decreasing, int64 [n_branches].
            begins: how many tokens of the trunk stand before it, at least 1 and not all, within a trunk never
                decreasing, int64 [n_branches].
            branches: one row of token ids a branch, none empty.

        Returns:
            The forest, and the places in `wanted` of each trunk's tokens and of each branch's.
        """
        n_trunk, n_branch = len(trunks.values), len(branches.values)
        tree = np.repeat(np.arange(len(trunks)), trunks.lengths)
        depth = ranges(np.zeros(len(trunks), dtype=np.int64), trunks.lengths)
        # Depth first: the branches that leave a trunk after n tokens stand between its n-th and its next.
        at = trunks.offsets[owners] + begins  # the trunk's token before which a branch stands
        before = offsets_of(np.bincount(at, weights=branches.lengths, minlength=n_trunk + 1).astype(np.int64))[1:]
        trunk = np.arange(n_trunk) + before[:n_trunk]
        first = at + branches.offsets[:-1]
        branch = ranges(first, first + branches.lengths)
        last = (trunks.offsets + np.concatenate([[0], before])[trunks.offsets])[1:]  # one past each tree
        values: dict[str, np.ndarray] = {name: np.empty(n_trunk + n_branch, dtype=np.int64) for name in _NODE}
        of_branch = np.repeat(np.arange(len(branches)), branches.lengths)
        place = ranges(np.zeros(len(branches), dtype=np.int64), branches.lengths)
        for nodes, found in (
            (trunk, (tree, trunks.values, depth, np.where(depth > 0, np.roll(trunk, 1), -1), last[tree])),
            (
                branch,
                (
                    owners[of_branch], branches.values, begins[of_branch] + place,
                    np.where(place > 0, branch - 1, trunk[at[of_branch] - 1]), (first + branches.lengths)[of_branch],
                ),
            ),
        ):  # fmt: skip
            for name, column in zip(_NODE, found, strict=True):
                values[name][nodes] = column
        forest, places = cls._of_nodes(np.arange(len(trunks)), *(values[name] for name in _NODE))
        return forest, Ragged(places[trunk], trunks.offsets), Ragged(places[branch], branches.offsets)

    @classmethod
    def _of_nodes(
        cls,
        tree_of: np.ndarray,
        tree: np.ndarray,
        tokens: np.ndarray,
        depth: np.ndarray,
        parent: np.ndarray,
        end: np.ndarray,
    ) -> tuple[Forest, np.ndarray]:
        """The forest that predicts these nodes (by tree, depth first), and their places in `wanted`."""
        n_trees = int(tree_of.max(initial=-1)) + 1
        read = np.zeros(len(tokens), dtype=bool)  # a token that nothing follows is predicted and never read
        read[parent[parent >= 0]] = True
        before = offsets_of(read)
        source = np.where(parent < 0, tree, n_trees + before[parent])
        by_source = np.argsort(source, kind="stable")
        places = np.empty(len(tokens), dtype=np.int64)
        places[by_source] = np.arange(len(tokens))
        return cls(
            tree_of=tree_of,
            bounds=offsets_of(np.bincount(tree[read], minlength=n_trees)),
            tokens=tokens[read].astype(np.int64),
            depth=depth[read],
            parent=np.where(parent[read] < 0, -1, before[parent[read]]),
            end=before[end[read]],
            wanted=tokens[by_source].astype(np.int64),
            wanted_bounds=offsets_of(np.bincount(source, minlength=n_trees + int(before[-1]))),
        ), places


_NODE = ("tree", "tokens", "depth", "parent", "end")  # of what `_of_nodes` takes of each node, in its order
