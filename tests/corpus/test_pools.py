"""Candidates by popularity and category: one draw at a time, their laws, where they end; targets never seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cprec_hf.corpus.candidates import draw_candidates, draw_from_pool, row_keys
from cprec_hf.corpus.pools import (
    PATIENCE,
    POLICIES,
    Pool,
    candidate_columns,
    category_pool,
    popularity_pool,
    set_columns,
)
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError

from .test_candidates import WORD, mix, uniform  # the stream in Python's own integers

STEP = 0x9E3779B97F4A7C15


def twin(
    line: list[int], size: int, history: list[int], target: int, key: int, count: int, groups: list[int]
) -> tuple[list[int], int]:
    """One row, one draw at a time. `line`: what the row draws from, each item as often as its weight says."""
    free = sorted({item for item in line if item not in history and groups[item] != groups[target]})
    negatives: list[int] = free if len(free) < count - 1 else []
    scarce = len(free) < count - 1
    i = filled = 0
    while len(negatives) < count - 1:
        i += 1
        early = i <= PATIENCE * (count - 1) and not scarce
        number = uniform(key + i * STEP, len(line) if early else size)
        item = line[number] if early else number
        if item not in history and item not in negatives and groups[item] != groups[target]:
            negatives.append(item)
            filled += not early
    return sorted([target, *negatives], key=lambda item: mix(key ^ mix((item + 1) * STEP % WORD))), filled


@st.composite
def problems(draw: st.DrawFn) -> tuple:
    size = draw(st.integers(2, 24))
    items = st.integers(0, size - 1)
    histories = draw(st.lists(st.lists(items, max_size=8), min_size=1, max_size=5))
    targets = [draw(items) for _ in histories]
    groups = draw(st.lists(st.integers(0, size // 2), min_size=size, max_size=size))
    free = [
        sum(i not in history and groups[i] != groups[target] for i in range(size))
        for history, target in zip(histories, targets, strict=True)
    ]
    keys = [draw(st.integers(0, WORD - 1)) for _ in histories]
    events = draw(st.lists(st.sampled_from([0, 0, 1, 2, 9, 5000]), min_size=size, max_size=size))
    categories = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    return size, histories, targets, keys, draw(st.integers(1, min(free) + 1)), groups, events, categories


@given(problem=problems())
def test_agrees_with_one_draw_at_a_time(problem: tuple) -> None:
    size, histories, targets, keys, count, groups, events, categories = problem
    popular = [item for item in range(size) for _ in range(events[item] + 1)]
    lines = {
        "popularity": lambda target: popular,
        "category": lambda target: [
            i for i in range(size) if categories[i] == categories[target] and categories[target] >= 0
        ],
    }
    pools = {"popularity": popularity_pool(np.array(events)), "category": category_pool(np.array(categories))}
    for policy, pool in pools.items():
        drawn, filled = draw_from_pool(
            pool, Ragged.from_lists(histories), np.array(targets), np.array(keys, np.uint64), count, np.array(groups)
        )
        rows = zip(histories, targets, keys, strict=True)
        expected = [twin(lines[policy](row[1]), size, *row, count, groups) for row in rows]
        assert drawn.tolist() == [items for items, _ in expected]
        assert filled.tolist() == [n for _, n in expected]


def _streams(n: int, policy: str) -> np.ndarray:
    return row_keys("demo", "test", ["u"] * n, np.arange(n), policy)


def test_the_first_negative_follows_the_training_events_plus_one() -> None:
    n, events = 40_000, np.array([0, 0, 3, 9, 30, 1, 0, 55])
    size, targets = len(events), np.full(n, 6)
    empty = Ragged.from_lists([[]] * n)
    drawn, filled = draw_from_pool(
        popularity_pool(events), empty, targets, _streams(n, "popularity"), 2, np.arange(size)
    )
    negatives = drawn[drawn != 6]
    weights = np.delete(events + 1, 6)
    counts = np.delete(np.bincount(negatives, minlength=size), 6)
    assert not filled.any() and chisquare(counts, weights / weights.sum() * n).pvalue > 0.01
    plain = draw_candidates(size, empty, targets, _streams(n, "uniform"), 2)
    assert (
        chisquare(np.delete(np.bincount(plain[plain != 6], minlength=size), 6), weights / weights.sum() * n).pvalue
        < 0.01
    )


def test_later_negatives_follow_the_events_of_what_is_left() -> None:
    """Two of three items by weights 1, 2, 7, without replacement: each pair's probability in closed form."""
    n, events = 60_000, np.array([0, 1, 6, 0])
    drawn, _ = draw_from_pool(
        popularity_pool(events), Ragged.from_lists([[]] * n), np.full(n, 3), _streams(n, "popularity"), 3, np.arange(4)
    )
    pairs = np.sort(drawn, axis=1)[:, :2]  # the target is the last
    weights = {0: 0.1, 1: 0.2, 2: 0.7}
    expected = {
        pair: sum(weights[a] * weights[b] / (1 - weights[a]) for a, b in (pair, pair[::-1]))
        for pair in ((0, 1), (0, 2), (1, 2))
    }
    counts = [int((pairs == pair).all(axis=1).sum()) for pair in expected]
    assert chisquare(counts, np.array(list(expected.values())) * n).pvalue > 0.01


def test_negatives_of_a_category_are_uniform_within_it() -> None:
    n, categories = 20_000, np.repeat([0, 1, 2], 20)
    targets = np.random.default_rng(0).integers(0, 60, n)
    drawn, filled = draw_from_pool(
        category_pool(categories), Ragged.from_lists([[]] * n), targets, _streams(n, "category"), 5, np.arange(60)
    )
    assert (categories[drawn] == categories[targets][:, None]).all() and not filled.any()
    negatives = drawn[(targets == 0)[:, None] & (drawn != 0)]
    assert chisquare(np.bincount(negatives, minlength=20)[1:]).pvalue > 0.01


def test_what_a_category_lacks_is_drawn_uniformly_and_counted() -> None:
    """Of 6 items in the category the user has seen 2: with the target 3 are left, and 6 more are needed."""
    n, size = 2_000, 40
    categories = np.where(np.arange(size) < 6, 0, np.where(np.arange(size) < 30, 1, -1))
    history = Ragged.from_lists([[1, 2, 35]] * n)
    drawn, filled = draw_from_pool(
        category_pool(categories), history, np.zeros(n, dtype=np.int64), _streams(n, "category"), 10, np.arange(size)
    )
    assert (filled == 6).all() and ((drawn < 6).sum(axis=1) == 4).all()
    strangers = np.bincount(drawn[drawn >= 6], minlength=size)[6:]
    assert strangers[35 - 6] == 0 and chisquare(np.delete(strangers, 35 - 6)).pvalue > 0.01
    alone, filled = draw_from_pool(
        category_pool(categories), history, np.full(n, 39), _streams(n, "category"), 10, np.arange(size)
    )
    assert (filled == 9).all() and (alone == 39).any(axis=1).all()  # a target without category


def test_where_an_item_stands_says_nothing_of_it() -> None:
    """Neither the target nor what was drawn first, or only to fill up, has a place of its own."""
    n, categories = 6_000, np.repeat(np.arange(10), 6)
    targets = np.arange(n) % 60
    drawn, _ = draw_from_pool(
        category_pool(categories), Ragged.from_lists([[]] * n), targets, _streams(n, "category"), 10, np.arange(60)
    )
    for marked in (drawn == targets[:, None], categories[drawn] == categories[targets][:, None]):
        assert chisquare(marked.sum(axis=0)).pvalue > 0.01


def test_one_item_that_is_nearly_everything_does_not_keep_it_drawing() -> None:
    n, events = 50, np.zeros(100, dtype=np.int64)
    events[7] = 10**12
    drawn, filled = draw_from_pool(
        popularity_pool(events), Ragged.from_lists([[]] * n), np.full(n, 3), _streams(n, "popularity"), 20,
        np.arange(100),
    )  # fmt: skip
    assert (drawn == 7).any(axis=1).all() and (filled == 18).all()
    assert (np.diff(np.sort(drawn, axis=1)) > 0).all()


@pytest.mark.parametrize("policy", ["popularity", "category"])
def test_the_target_only_refuses(policy: str) -> None:
    """With another target (of the same category) the same stream is read: at most one negative differs."""
    rng = np.random.default_rng(0)
    events, categories = rng.integers(0, 30, 60), np.repeat([0, 1], 30)
    pool: Pool = popularity_pool(events) if policy == "popularity" else category_pool(categories)
    targets = rng.integers(0, 60, 300)
    other = targets // 30 * 30 + (targets + 1) % 30
    history, keys = Ragged.from_lists([[]] * 300), _streams(300, policy)
    drawn, again = (draw_from_pool(pool, history, wanted, keys, 10, np.arange(60))[0] for wanted in (targets, other))
    for row in range(300):
        both = {targets[row], other[row]}
        first, second = (set(found[row].tolist()) - both for found in (drawn, again))
        assert len(first ^ second) <= 1  # the last negative, where the other row's target took a place


def test_a_row_is_the_same_alone_and_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    pool, targets = category_pool(rng.integers(0, 6, 60)), rng.integers(0, 60, 80)
    history, keys = Ragged.from_lists([rng.integers(0, 60, 5).tolist() for _ in range(80)]), _streams(80, "category")
    drawn, filled = draw_from_pool(pool, history, targets, keys, 12, np.arange(60))
    assert 0 < filled.sum() < filled.size * 11
    for i in (0, 41, 79):
        one = np.array([i])
        alone = draw_from_pool(pool, history.take(one), targets[one], keys[one], 12, np.arange(60))
        assert (alone[0][0] == drawn[i]).all() and alone[1][0] == filled[i]
    monkeypatch.setattr("cprec_hf.corpus.candidates._CHUNK", 90)
    again = draw_from_pool(pool, history, targets, keys, 12, np.arange(60))
    assert (again[0] == drawn).all() and (again[1] == filled).all()


def test_each_policy_has_its_own_stream_and_uniform_that_of_older_corpora() -> None:
    keys = {policy: row_keys("d", "test", ["a", "b"], np.array([0, 3]), policy) for policy in POLICIES}
    assert len(np.unique(np.concatenate(list(keys.values())))) == 6
    assert (keys["uniform"] == row_keys("d", "test", ["a", "b"], np.array([0, 3]))).all()
    assert mix(0) == 0  # the twin's mixer is splitmix64's: it fixes zero


def test_too_few_items_is_refused_as_elsewhere() -> None:
    keys = _streams(1, "category")
    with pytest.raises(InputError, match=r"10 candidates need 9 items .*, and 8 of 9 are left"):
        draw_from_pool(category_pool(np.zeros(9, int)), Ragged.from_lists([[]]), np.array([0]), keys, 10, np.arange(9))


def test_the_first_set_is_candidates_and_others_name_their_policy() -> None:
    assert set_columns(["popularity", "uniform"]) == {"popularity": "candidates", "uniform": "candidates_uniform"}
    names = ["prompt", "candidates", "candidates_category", "candidates_category_filled", "timestamp"]
    assert candidate_columns(names) == ["candidates", "candidates_category"]
