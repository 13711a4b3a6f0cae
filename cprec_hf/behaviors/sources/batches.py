"""A reader of our own as a LazyFrame: it hands on whole batches, Polars asks it for columns and a number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl
from polars.io.plugins import register_io_source

Read = Callable[[list[str]], Iterator[pl.DataFrame]]


def scan_batches(read: Read, schema: dict[str, pl.DataType] | pl.Schema) -> pl.LazyFrame:
    """The frame of what `read` yields, which is read again by every query and never held whole.

    Predicates stay with Polars: to hand one over it would have to pickle the Python functions in it (title cleaning).

    Args:
        read: names of columns -> batches with these columns, in the order of the rows.
        schema: of all the columns there are.
    """

    def batches(
        wanted: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        names = wanted or list(schema)[: None if wanted is None else 1]  # who only counts rows names no column
        for batch in read(names):
            frame = batch.select(names)
            if n_rows is not None:
                frame = frame.head(n_rows)
                n_rows -= frame.height
            yield frame
            if n_rows == 0:
                return

    frame = register_io_source(batches, schema=schema, is_pure=True)
    return frame.map_batches(
        lambda batch: batch, predicate_pushdown=False, projection_pushdown=True, slice_pushdown=True,
        validate_output_schema=False, streamable=True,
    )  # fmt: skip
