"""Frozen candidates: uniform, outside the history, and a function of the row's own key alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cprec_hf.corpus.candidates import draw_candidates, row_keys
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError

WORD = 2**64


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def uniform(x: int, limit: int) -> int:
    return (mix(x % WORD) >> 11) * limit // 2**53


def twin(size: int, history: list[int], target: int, key: int, count: int, groups: list[int]) -> list[int]:
    """One row, one draw at a time, in Python's own integers."""
    negatives: list[int] = []
    i = 0
    while len(negatives) < count - 1:
        i += 1
        item = uniform(key + i * 0x9E3779B97F4A7C15, size)
        if item not in history and item not in negatives and groups[item] != groups[target]:
            negatives.append(item)
    place = uniform((key ^ 0xD1B54A32D192ED03) + 0x9E3779B97F4A7C15, count)
    return [*negatives[:place], target, *negatives[place:]]


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, list[list[int]], list[int], list[int], int, list[int]]:
    size = draw(st.integers(2, 30))
    items = st.integers(0, size - 1)
    histories = draw(st.lists(st.lists(items, max_size=8), min_size=1, max_size=6))
    targets = [draw(items) for _ in histories]
    groups = draw(st.lists(st.integers(0, size // 2), min_size=size, max_size=size))
    free = [
        sum(i not in history and groups[i] != groups[target] for i in range(size))
        for history, target in zip(histories, targets, strict=True)
    ]
    keys = [draw(st.integers(0, WORD - 1)) for _ in histories]
    return size, histories, targets, keys, draw(st.integers(1, min(free) + 1)), groups


@given(problem=problems())
def test_agrees_with_one_draw_at_a_time(problem: tuple) -> None:
    size, histories, targets, keys, count, groups = problem
    drawn = draw_candidates(
        size, Ragged.from_lists(histories), np.array(targets), np.array(keys, np.uint64), count, groups=np.array(groups)
    )
    expected = [twin(size, *row, count, groups) for row in zip(histories, targets, keys, strict=True)]
    assert drawn.tolist() == expected and drawn.dtype == np.int64


def world(n: int = 3000, size: int = 60, seed: int = 0) -> tuple[Ragged, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    history = Ragged.from_lists([rng.integers(0, size, rng.integers(0, 12)).tolist() for _ in range(n)])
    users = [f"u{i // 2}" for i in range(n)]
    return history, rng.integers(0, size, n), row_keys("demo", "test", users, np.arange(n) % 2)


def test_sets_hold_the_target_once_and_nothing_seen() -> None:
    history, targets, keys = world()
    drawn = draw_candidates(60, history, targets, keys, 20)
    assert ((drawn == targets[:, None]).sum(axis=1) == 1).all()
    assert (np.diff(np.sort(drawn, axis=1)) > 0).all()
    for i, row in enumerate(drawn):
        assert not set(row.tolist()) - {targets[i]} & set(history.row(i).tolist())


def test_negatives_and_places_are_uniform() -> None:
    n, size, count = 20_000, 50, 10
    empty, targets = Ragged.from_lists([[]] * n), np.zeros(n, dtype=np.int64)
    drawn = draw_candidates(size, empty, targets, row_keys("demo", "test", ["u"] * n, np.arange(n)), count)
    is_target = drawn == 0
    assert chisquare(np.bincount(drawn[~is_target], minlength=size)[1:]).pvalue > 0.01
    assert chisquare(is_target.sum(axis=0)).pvalue > 0.01
    in_first_place = drawn[~is_target[:, 0], 0]
    assert chisquare(np.bincount(in_first_place, minlength=size)[1:]).pvalue > 0.01


def test_a_row_is_the_same_alone_in_any_order_and_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    history, targets, keys = world(n=200)
    drawn = draw_candidates(60, history, targets, keys, 20)
    order = np.random.default_rng(1).permutation(200)
    shuffled = draw_candidates(60, history.take(order), targets[order], keys[order], 20)
    assert (shuffled == drawn[order]).all()
    for i in (0, 7, 199):
        one = np.array([i])
        assert (draw_candidates(60, history.take(one), targets[one], keys[one], 20)[0] == drawn[i]).all()
    monkeypatch.setattr("cprec_hf.corpus.candidates._CHUNK", 90)
    assert (draw_candidates(60, history, targets, keys, 20) == drawn).all()


def test_the_target_only_refuses() -> None:
    """With another target the same stream is read: the negatives differ by at most the one that is now refused."""
    history, targets, keys = world(n=500)
    other = (targets + 1) % 60
    drawn, again = (draw_candidates(60, history, wanted, keys, 20) for wanted in (targets, other))
    assert (np.argmax(drawn == targets[:, None], axis=1) == np.argmax(again == other[:, None], axis=1)).all()
    for i in range(500):
        first = [item for item in drawn[i].tolist() if item not in (targets[i], other[i])]
        second = [item for item in again[i].tolist() if item not in (targets[i], other[i])]
        assert first[:18] == second[:18]  # 19 negatives, of which at most one is the other row's target


def test_items_that_share_the_targets_title_are_not_drawn() -> None:
    size, n = 30, 400
    groups = np.arange(size) // 3
    targets = np.arange(n) % size
    keys = row_keys("demo", "test", [str(i) for i in range(n)], np.zeros(n, int))
    drawn = draw_candidates(size, Ragged.from_lists([[]] * n), targets, keys, 20, groups=groups)
    assert ((groups[drawn] == groups[targets][:, None]).sum(axis=1) == 1).all()


def test_too_few_items_is_one_clear_message() -> None:
    keys = row_keys("demo", "test", ["a", "b"], np.zeros(2, int))
    history = Ragged.from_lists([[0], [0, 1, 1, 2]])
    assert draw_candidates(10, history, np.array([3, 3]), keys, 7).shape == (2, 7)
    with pytest.raises(InputError, match=r"row 1: 8 candidates need 7 items .*, and 6 of 10 are left .* 4 items"):
        draw_candidates(10, history, np.array([3, 3]), keys, 8)
    with pytest.raises(InputError, match=r"row 1: 7 candidates need 6 items .*, and 5 of 10"):
        draw_candidates(10, history, np.array([3, 3]), keys, 7, groups=np.array([0, 1, 2, 3, 3, 5, 6, 7, 8, 9]))


def test_no_rows() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    keys = row_keys("demo", "test", [], nothing)
    assert draw_candidates(10, Ragged.from_lists([]), nothing, keys, 5).shape == (0, 5)


def test_keys_follow_their_definition_and_tell_rows_apart() -> None:
    keys = row_keys("demo", "test", ["a", "b", "a"], np.array([0, 5, 1]))
    for key, user, index in zip(keys.tolist(), ["a", "b", "a"], [0, 5, 1], strict=True):
        digest = hashlib.blake2b(f"demo\0test\0{user}".encode(), digest_size=8).digest()
        assert key == mix(int.from_bytes(digest, "little") ^ mix((index + 1) * 0x9E3779B97F4A7C15 % WORD))
    assert row_keys("demo", "test", pa.array(["a", "b", "a"]), np.array([0, 5, 1])).tolist() == keys.tolist()
    users = [f"u{i}" for i in range(100) for _ in range(50)]
    indices = np.tile(np.arange(50), 100)
    many = [row_keys(d, s, users, indices) for d in ("demo", "demo2") for s in ("validation", "test")]
    assert len(np.unique(np.concatenate(many))) == 4 * 5000
