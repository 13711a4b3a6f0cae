"""Kept scores are looked up by split and place, and other rows are refused."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from cprec_hf.evaluation import rows as rows_module
from cprec_hf.evaluation.kept import Kept
from cprec_hf.evaluation.rows import Catalogue, Rows

ITEMS = [f"i{n}" for n in range(9)]


def rows_of(targets: list[int], split: str) -> Rows:
    lists = pa.list_(pa.string())
    columns = {
        "user_id": pa.array([f"u{i}" for i in range(len(targets))]), "history": pa.array([[]] * len(targets), lists),
        "target": pa.array([ITEMS[t] for t in targets]),
        "candidates": pa.array([[ITEMS[t], "i8"] for t in targets], lists),
    }  # fmt: skip
    return Rows.from_table(pa.table(columns), Catalogue(pa.array(ITEMS), pa.array(ITEMS)), "toy", split=split)


def test_scores_are_made_once_and_found_again_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    test, validation = rows_of([3, 1, 4, 1, 5], "test"), rows_of([2, 6], "validation")
    monkeypatch.setattr(rows_module, "_CELLS", 4)  # two rows a block
    calls: list[int] = []

    def score(rows: Rows) -> np.ndarray:
        calls.append(len(rows))
        return rows.candidates * 10.0

    kept = Kept.score(score, [test, validation])
    assert calls == [2, 2, 1, 2]
    np.testing.assert_array_equal(kept(test), test.candidates * 10.0)
    for block in [*test.blocks(), *validation.blocks()]:
        np.testing.assert_array_equal(kept(block), block.candidates * 10.0)
    assert len(calls) == 4


def test_rows_that_were_not_scored_are_refused() -> None:
    test = rows_of([3, 1, 4], "test")
    kept = Kept.score(lambda rows: rows.candidates, [test])
    for other in (rows_of([3, 1, 5], "test"), rows_of([3, 1, 4], "validation"), dataclasses.replace(test, first=1)):
        with pytest.raises(ValueError, match="these rows are others"):
            kept(other)
