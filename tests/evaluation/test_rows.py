"""Rows and training interactions against plain Python."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.evaluation.rows import Catalogue, Rows, training_interactions

ITEMS = [f"i{n}" for n in range(8)]
CATALOGUE = Catalogue(pa.array(ITEMS), pa.array([f"title {n}" for n in range(8)]))
LISTS = pa.list_(pa.string())


def table(rows: list[tuple[str, list[str], str, list[str]]]) -> pa.Table:
    users, histories, targets, candidates = zip(*rows, strict=True)
    columns = {
        "user_id": pa.array(users), "history": pa.array(histories, LISTS), "target": pa.array(targets),
        "candidates": pa.array(candidates, LISTS),
    }  # fmt: skip
    whole = pa.table(columns)
    return pa.concat_tables([whole.slice(0, 1), whole.slice(1)])  # more than one chunk, as files may give it


def test_reads_codes_relevance_and_users() -> None:
    rows = Rows.from_table(
        table(
            [("a", ["i1"], "i2", ["i0", "i2"]), ("b", [], "i5", ["i5", "i7"]), ("a", ["i1", "i2"], "i3", ["i3", "i4"])]
        ),
        CATALOGUE,
        "toy",
    )
    assert rows.candidates.tolist() == [[0, 2], [5, 7], [3, 4]]
    assert rows.relevance.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert rows.user_ids == ["a", "b"] and rows.users.tolist() == [0, 1, 0]
    assert [rows.histories.row(i).tolist() for i in range(3)] == [[1], [], [1, 2]]
    assert rows.per_user(np.array([1.0, 0.25, 0.0])).tolist() == [0.5, 0.25]


def test_the_catalogue_takes_one_domain_only() -> None:
    items = pa.table({"item_id": ["x", "x", "y"], "domain": ["A", "B", "A"], "title": ["xa", "xb", "ya"]})
    catalogue = Catalogue.from_items(items, "B")
    assert catalogue.item_ids.to_pylist() == ["x"] and catalogue.titles.to_pylist() == ["xb"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(ITEMS[:6]), max_size=6), min_size=2, max_size=4), st.integers(1, 7))
def test_history_matrix_holds_the_last_items_once(histories: list[list[str]], last: int) -> None:
    rows = Rows.from_table(table([(f"u{i}", h, "i6", ["i6", "i7"]) for i, h in enumerate(histories)]), CATALOGUE, "toy")
    expected = np.zeros((len(histories), len(ITEMS)))
    for row, history in enumerate(histories):
        expected[row, [ITEMS.index(item) for item in history[-last:]]] = 1
    np.testing.assert_array_equal(rows.history_matrix(len(ITEMS), last).toarray(), expected)


def test_overlapping_and_windowed_training_rows_give_the_same_interactions() -> None:
    events = {"a": ["i0", "i3", "i1", "i4"], "b": ["i2", "i2", "i5"]}
    every = [(u, e[:i], e[i], []) for u, e in events.items() for i in range(1, len(e))]
    window = [("a", ["i0"], "i3", []), ("a", ["i1"], "i4", []), ("b", ["i2", "i2"], "i5", [])]
    expected = np.zeros((2, len(ITEMS)))
    for row, items in enumerate(events.values()):
        expected[row, [ITEMS.index(i) for i in items]] = 1
    for rows in (every, window):
        np.testing.assert_array_equal(training_interactions(table(rows), CATALOGUE, "toy").toarray(), expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("b", [], "i9", ["i9", "i0"]), "'i9' is not in the corpus' items"),
        (("b", ["nope"], "i0", ["i1", "i0"]), "'nope' is not in the corpus' items"),
        (("b", [], "i0", ["i0", "i1", "i2"]), "2 to 3 candidates"),
        (("b", [], "i0", ["i1", "i2"]), "toy, row 1: the target must be among the candidates exactly once"),
        (("b", [], "i0", ["i0", "i0"]), "toy, row 1"),
    ],
)
def test_a_broken_corpus_is_refused_by_name(row: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rows.from_table(table([("a", [], "i2", ["i0", "i2"]), row]), CATALOGUE, "toy")


def test_an_empty_split_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="has no rows"):
        Rows.from_table(table([("a", [], "i0", ["i0", "i1"])]).slice(0, 0), CATALOGUE, "toy, test")
