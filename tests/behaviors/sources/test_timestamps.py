from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction
from math import floor
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.behaviors.sources.timestamps import number, seconds

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(values: list[Any], unit: Any, dtype: Any = None) -> list[int | None]:
    frame = pl.DataFrame({"t": pl.Series(values, dtype=dtype)})
    return frame.select(seconds(pl.col("t"), frame.schema["t"], unit))["t"].to_list()


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.sampled_from([("s", 0), ("ms", 3), ("us", 6), ("ns", 9)]))
def test_whole_numbers_of_any_unit_are_exact_in_every_spelling(values: list[int], unit: tuple[str, int]) -> None:
    expected = [floor(Fraction(value, 10 ** unit[1])) for value in values]
    assert read(values, unit[0]) == expected
    assert read([f" {value} " for value in values], unit[0]) == expected


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)), st.integers(-12, 14))
def test_iso_text_is_read_with_its_offset_and_as_utc_without(moment: datetime, hours: int) -> None:
    expected = floor((moment.replace(tzinfo=UTC) - EPOCH).total_seconds())
    assert read([moment.isoformat(), moment.isoformat(" ")], "iso") == [expected, expected]
    local = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    expected = (local - EPOCH) // timedelta(seconds=1)
    assert read([local.isoformat(), local.isoformat(" ")], "iso") == [expected, expected]


def test_other_spellings() -> None:
    assert read(["1.6e9", "1600000000.9", "x", "", "nan", "inf", None], "s") == [1_600_000_000] * 2 + [None] * 5
    assert read([1_600_000_000_999.5, float("nan")], "ms") == [1_600_000_000, None]
    assert read(["2024-01-02", "2024-01-02T03:04:05Z", "2024-01-02T03:04:05.5+01:00", "yesterday"], "iso") == [
        1_704_153_600,
        1_704_164_645,
        1_704_161_045,
        None,
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "iso"])
def test_a_column_of_times_says_its_own_unit(unit: str) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 999_999)
    for dtype in (pl.Datetime("ms"), pl.Datetime("ns")):
        assert read([moment], unit, dtype) == [1_704_164_645]
    aware = pl.Series([moment]).dt.replace_time_zone("Asia/Tokyo")
    assert read(aware.to_list(), unit, aware.dtype) == [1_704_164_645 - 9 * 3600]
    assert read([date(2024, 1, 2), None], unit) == [1_704_153_600, None]


def test_numbers_round_down() -> None:
    frame = pl.DataFrame({"f": [1.9, -1.1], "s": ["1.9", "-1.1"]})
    assert frame.select(number(pl.col("f"), pl.Float64()), number(pl.col("s"), pl.String())).to_dicts() == [
        {"f": 1, "s": 1},
        {"f": -2, "s": -2},
    ]
