"""Timestamps of any unit to unix seconds, and the check that the unit is the one the recipe says."""

from __future__ import annotations

from typing import Literal

import polars as pl

from cprec_hf.behaviors.schema import LATEST_SECONDS
from cprec_hf.behaviors.sources.files import Table
from cprec_hf.errors import InputError

Unit = Literal["s", "ms", "us", "ns", "iso"]
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
ISO_FORMATS = [
    "%+",  # RFC 3339: a `T` and an offset or `Z`
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f%:z",
    "%Y-%m-%d",
]


def seconds(raw: pl.Expr, dtype: pl.DataType, unit: Unit) -> pl.Expr:
    """Unix seconds, rounded down, as Int64; null where the value cannot be read.

    A column of a date or time type is read as what it says, whatever `unit` is. ISO strings without an offset are UTC.
    """
    if dtype.is_temporal():
        return raw.cast(pl.Datetime("us")).dt.epoch("s")
    return _iso_seconds(raw) if unit == "iso" else number(raw, dtype) // PER_SECOND[unit]


def number(raw: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A number, or text that spells one, as Int64, rounded down; null where it is none."""
    if dtype.is_integer():
        return raw.cast(pl.Int64, strict=False)
    if dtype.is_float():
        return raw.floor().cast(pl.Int64, strict=False)
    text = raw.cast(pl.String).str.strip_chars()
    return pl.coalesce(
        text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False)
    )


def check_unit(interactions: Table, dtype: pl.DataType, unit: Unit, latest: int | None, unreadable: int) -> None:
    """Raise `InputError` naming a file, a row and its value if the timestamps are not in `unit`.

    Args:
        interactions: the table whose raw timestamps are the column `timestamp`.
        dtype: the type of that column.
        unit: what the recipe says.
        latest: the largest raw timestamp, null if there is none or the unit is "iso".
        unreadable: rows whose timestamp cannot be read in `unit`.
    """
    if dtype.is_temporal() or unit == "iso":
        return
    value = number(pl.col("timestamp"), dtype)
    if unreadable:
        iso = value.is_null() & _iso_seconds(pl.col("timestamp")).is_not_null()
        if interactions.scan().select(iso.any()).collect(engine="streaming").item():
            place = interactions.first(iso, "timestamp")
            raise InputError(f"{place}, an ISO date and not a number; add `timestamp_unit: iso` to the recipe")
    if latest is None:
        return
    fits = next((name for name, per in PER_SECOND.items() if latest < LATEST_SECONDS * per), "ns")
    if fits != unit:
        place = interactions.first(value >= min(latest, LATEST_SECONDS * PER_SECOND[unit]), "timestamp")
        raise InputError(f"{place}, which is not in `{unit}`; add `timestamp_unit: {fits}` to the recipe")


def _iso_seconds(raw: pl.Expr) -> pl.Expr:
    text = raw.cast(pl.String).str.strip_chars()
    parsed = [text.str.to_datetime(f, strict=False, time_zone="UTC", time_unit="us") for f in ISO_FORMATS]
    return pl.coalesce(parsed).dt.epoch("s")
