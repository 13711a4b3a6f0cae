"""A trie against the set of all prefixes of its rows."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.ranking.trie import Trie

ROWS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=25)


@given(ROWS)
def test_nodes_are_the_distinct_prefixes(rows: list[list[int]]) -> None:
    trie = Trie.of(Ragged.from_lists(rows))
    prefixes = {tuple(row[:n]) for row in rows for n in range(len(row) + 1)} | {()}
    spelled = [_spelled(trie, node) for node in range(len(trie))]
    assert sorted(spelled) == sorted(prefixes)
    assert [len(prefix) for prefix in spelled] == sorted(map(len, prefixes))  # breadth first
    assert [spelled[node] for node in trie.order] == sorted(prefixes)  # depth first
    assert [spelled[node] for node in trie.ends] == [tuple(row) for row in rows]
    for node, prefix in enumerate(spelled):
        children = [spelled[child] for child in range(*trie.first_child[node : node + 2])]
        assert children == sorted(p for p in prefixes if len(p) == len(prefix) + 1 and p[:-1] == prefix)
        assert trie.n_children[node] == len(children)
        assert trie.sizes[node] == sum(p[: len(prefix)] == prefix for p in prefixes)
        assert trie.depth[node] == len(prefix)
        assert trie.order[trie.rank[node]] == node
    by_depth = [[p for p in prefixes if len(p) == depth] for depth in range(len(trie.levels) - 1)]
    assert np.diff(trie.levels).tolist() == [len(level) for level in by_depth]


@given(ROWS)
def test_rows_come_back(rows: list[list[int]]) -> None:
    again = Trie.of(Ragged.from_lists(rows)).rows()
    assert [again.row(i).tolist() for i in range(len(again))] == rows


@given(ROWS.filter(bool), st.data())
def test_paths_lead_to_their_nodes(rows: list[list[int]], data: Any) -> None:
    trie = Trie.of(Ragged.from_lists(rows))
    nodes = data.draw(st.lists(st.integers(0, len(trie) - 1), max_size=8))
    paths = trie.paths(np.array(nodes, dtype=np.int64))
    for number, node in enumerate(nodes):
        path = paths.row(number).tolist()
        assert [trie.tokens[n] for n in path] == list(_spelled(trie, node))
        assert path[-1:] == ([node] if node else [])


def _spelled(trie: Trie, node: int) -> tuple[int, ...]:
    return () if node == 0 else (*_spelled(trie, trie.parents[node]), int(trie.tokens[node]))
