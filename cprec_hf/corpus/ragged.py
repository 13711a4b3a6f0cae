"""Rows of different lengths in two flat arrays: how token ids and histories travel between the rooms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Ragged:
    """Row `i` is `values[offsets[i]:offsets[i + 1]]`.

    Args:
        values: all rows one after the other, int32 [n_values].
        offsets: where each row begins, and the end of the last, int64 [n_rows + 1]; starts at 0, never decreases.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets run from {self.offsets[0]} to {self.offsets[-1]} over {len(self.values)} values")

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]]) -> Ragged:
        """Rows given as Python sequences."""
        rows = list(rows)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        values = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        return cls(values, offsets_of(lengths))

    @classmethod
    def empty(cls, n_rows: int) -> Ragged:
        """`n_rows` rows without values."""
        return cls(np.empty(0, dtype=np.int32), np.zeros(n_rows + 1, dtype=np.int64))

    @classmethod
    def from_arrow(cls, rows: pa.Array | pa.ChunkedArray) -> Ragged:
        """Rows of an Arrow list column of integers without nulls, as `to_arrow` and `datasets` give it."""
        if isinstance(rows, pa.ChunkedArray):
            rows = rows.combine_chunks()
        offsets = np.asarray(rows.offsets, dtype=np.int64)
        values = np.asarray(rows.values.slice(offsets[0], offsets[-1] - offsets[0])).astype(np.int32, copy=False)
        return cls(values, offsets - offsets[0])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """The length of each row, int64 [n_rows]."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """One row, as a view into `values`; a negative index counts from the end."""
        index = range(len(self))[index]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indices: np.ndarray) -> Ragged:
        """The rows at `indices`, in that order, repeats allowed."""
        rows = pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.values))
        return Ragged.from_arrow(rows.take(pa.array(np.asarray(indices, dtype=np.int64))))

    def join(self, other: Ragged) -> Ragged:
        """Row by row, this row followed by the other's.

        Raises:
            ValueError: the two have different numbers of rows.
        """
        if len(self) != len(other):
            raise ValueError(f"cannot join {len(self)} rows with {len(other)}")
        offsets = self.offsets + other.offsets
        values = np.empty(int(offsets[-1]), dtype=np.int32)
        ours = np.arange(len(self.values)) + np.repeat(other.offsets[:-1], self.lengths)
        theirs = np.arange(len(other.values)) + np.repeat(self.offsets[1:], other.lengths)
        values[ours], values[theirs] = self.values, other.values
        return Ragged(values, offsets)

    def to_arrow(self) -> pa.ListArray:
        """A list<int32> column, the type `datasets` stores token ids in; at most 2**31 - 1 values.

        Raises:
            ValueError: there are more; write the rows in shards.
        """
        if len(self.values) > np.iinfo(np.int32).max:
            raise ValueError(f"{len(self.values):,} values do not fit one list column; write the rows in shards")
        return pa.ListArray.from_arrays(pa.array(self.offsets.astype(np.int32)), pa.array(self.values, pa.int32()))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """The offsets of rows of those lengths, int64 [n_rows + 1]."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """begins[0], ..., ends[0] - 1, begins[1], ..., int64 [sum of the lengths]."""
    offsets = offsets_of(ends - begins)
    return np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], ends - begins)
