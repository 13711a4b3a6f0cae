"""Groups against plain loops and by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cprec_hf.evaluation.groups import Grouping, group_figures, groupings, popularity_thirds
from cprec_hf.evaluation.rows import Catalogue, Rows

ITEMS = [f"i{n}" for n in range(20)]


def rows_of(users: list[int], lengths: list[int], **columns: list[bool]) -> Rows:
    lists = pa.list_(pa.string())
    table = {
        "user_id": pa.array([f"u{u}" for u in users]), "history": pa.array([ITEMS[2 : 2 + n] for n in lengths], lists),
        "target": pa.array(["i1"] * len(users)), "candidates": pa.array([["i0", "i1"]] * len(users), lists),
    }  # fmt: skip
    table |= {name: pa.array(values) for name, values in columns.items()}
    return Rows.from_table(pa.table(table), Catalogue(pa.array(ITEMS), pa.array(ITEMS)), "toy")


def test_thirds_by_hand() -> None:
    # 30 events: 12 + 6 + 6 + 3 + 3. Above the second and third item stands .4 of them, above the last two .8.
    assert popularity_thirds(np.array([3, 12, 6, 0, 6, 3])).tolist() == [1, 3, 2, 0, 2, 1]
    assert popularity_thirds(np.zeros(3)).tolist() == [0, 0, 0]
    assert popularity_thirds(np.array([5, 5])).tolist() == [3, 3]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_an_items_third_follows_from_what_is_more_popular(popularity: list[int]) -> None:
    total = sum(popularity)
    for count, third in zip(popularity, popularity_thirds(np.array(popularity)), strict=True):
        above = 3 * sum(other for other in popularity if other > count)
        assert third == (0 if count == 0 else 3 if above < total else 2 if above < 2 * total else 1)


def test_rows_are_parted_by_marks_lengths_and_popularity() -> None:
    rows = rows_of([0, 1, 2], [2, 3, 11], cold_user=[True, False, True], cold_item=[False, False, True])
    found = {g.name: [g.labels[i] for i in g.of_row] for g in groupings(rows, np.arange(20))}
    assert found == {
        "user": ["cold user", "warm user", "cold user"], "target": ["warm item", "warm item", "cold item"],
        "items in the history": ["0 to 2", "3 to 5", "11 or more"], "popularity of the target": ["tail"] * 3,
    }  # fmt: skip
    assert [g.name for g in groupings(rows_of([0], [0]), np.zeros(20))] == [
        "items in the history",
        "popularity of the target",
    ]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.floats(0, 1)), min_size=1, max_size=12))
def test_figures_equal_plain_loops(data: list[tuple[int, int, float]]) -> None:
    users, labels, values = map(list, zip(*data, strict=True))
    rows = rows_of(users, [0] * len(users))
    grouping = Grouping("g", ["a", "b", "c"], np.array(labels))
    found = group_figures([grouping], {"hr@1": np.array(values)}, rows)["g"]
    for i, label in enumerate(grouping.labels):
        mine: dict[int, list[float]] = {}
        for user, of, value in data:
            if of == i:
                mine.setdefault(user, []).append(value)
        if not mine:
            assert label not in found
            continue
        means = [sum(v) / len(v) for v in mine.values()]
        assert (found[label]["users"], found[label]["rows"]) == (len(means), sum(map(len, mine.values())))
        figures = found[label]["hr@1"]
        assert figures["mean"] == pytest.approx(sum(means) / len(means))
        if len(means) == 1:
            assert figures["low"] is None and figures["high"] is None
        elif np.std(means) > 1e-9:
            low, high = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
            assert (figures["low"], figures["high"]) == (pytest.approx(low), pytest.approx(high))
        else:
            assert math.isclose(figures["low"], figures["mean"], abs_tol=1e-9)
