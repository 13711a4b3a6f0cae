"""Ragged rows agree with the lists of lists they stand for."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.ragged import Ragged

rows = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4), max_size=6)


@given(data=st.data(), left=rows)
def test_ragged_agrees_with_lists(data: st.DataObject, left: list[list[int]]) -> None:
    right = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=len(left), max_size=len(left)))
    indices = data.draw(st.lists(st.integers(0, len(left) - 1), max_size=8)) if left else []
    ragged, other = Ragged.from_lists(left), Ragged.from_lists(right)
    assert as_lists(ragged) == left and len(ragged) == len(left)
    assert ragged.lengths.tolist() == list(map(len, left))
    assert as_lists(ragged.take(np.array(indices, dtype=np.int64))) == [left[i] for i in indices]
    assert as_lists(ragged.join(other)) == [a + b for a, b in zip(left, right, strict=True)]
    column = ragged.to_arrow()
    assert column.type == pa.list_(pa.int32()) and column.to_pylist() == left
    assert as_lists(Ragged.from_arrow(column.slice(1))) == left[1:]
    for made in (ragged.take(np.array(indices, dtype=np.int64)), ragged.join(other), Ragged.from_arrow(column)):
        assert made.values.dtype == np.int32 and made.offsets.dtype == np.int64


def as_lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.row(i).tolist() for i in range(len(ragged))]


def test_ragged_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="offsets run from 0 to 3 over 2"):
        Ragged(np.zeros(2, np.int32), np.array([0, 3]))
    with pytest.raises(ValueError, match="1 rows with 2"):
        Ragged.from_lists([[1]]).join(Ragged.from_lists([[1], [2]]))
    assert Ragged.from_lists([[1], [2, 3]]).row(-1).tolist() == [2, 3]
    with pytest.raises(IndexError):
        Ragged.from_lists([[1]]).row(1)
