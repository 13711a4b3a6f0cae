"""A log in buckets on disk, against the same log sorted in memory."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.events import BYTES_PER_EVENT, Bucket, EventStore, open_events
from cprec_hf.errors import InputError

DOMAIN_OF = np.array([0, 0, 0, 1, 1, 2], dtype=np.int64)
ROW = st.tuples(
    st.text("ab0é", min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 4), st.none() | st.integers(0, 3)
)


def _named(users: Any) -> list[str]:
    return [hashlib.sha256(user.encode()).hexdigest()[:16] for user in users]


def _open(rows: list[Any], folder: Path, events_a_bucket: float, named: bool = False) -> tuple[EventStore, int]:
    schema = {"user_id": pl.String, "item": pl.Int32, "timestamp": pl.Int64, "clock": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").lazy()
    store, repeated, (n,) = open_events(
        frame, DOMAIN_OF, folder, name_users=_named if named else None,
        memory_gb=events_a_bucket * BYTES_PER_EVENT / 2**30, also=[frame.select(pl.len())],
    )  # fmt: skip
    assert n.item() == len(rows)
    return store, repeated


def _rows(bucket: Bucket) -> list[Any]:
    ids = bucket.users.to_pylist()
    clocks = [clock if known else None for clock, known in zip(bucket.clock.tolist(), bucket.known, strict=True)]
    return list(
        zip([ids[u] for u in bucket.user], bucket.item.tolist(), bucket.timestamp.tolist(), clocks, strict=True)
    )


@given(st.lists(ROW, max_size=60), st.sampled_from([3, 17, 1000]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_buckets_are_the_log_sorted_and_without_repetitions(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], size: int, named: bool
) -> None:
    folder = tmp_path_factory.mktemp("events") / "work"
    store, repeated = _open(rows, folder, size, named)
    assert len(store) == max(-(-len(rows) // size), 1)
    first: dict[Any, Any] = {}
    for user, item, time, clock in rows:  # of equal events the one of the earliest known clock
        key = (_named([user])[0] if named else user, int(DOMAIN_OF[item]), time, item)
        known = [c for c in (first.get(key), clock) if c is not None]
        first[key] = min(known, default=None)
    expected = [(user, item, time, first[user, d, time, item]) for user, d, time, item in sorted(first)]
    buckets = list(store)
    assert [row for bucket in buckets for row in _rows(bucket)] == expected
    assert repeated == len(rows) - len(expected)
    users = [user for bucket in buckets for user in bucket.users.to_pylist()]
    assert users == sorted({row[0] for row in expected})
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{what}-{n:05d}.arrow" for what in ("events", "users") for n in range(len(store))
    )


def test_times_that_are_the_clock_are_held_once(tmp_path: Path) -> None:
    rows = [("b", 3, 9), ("a", 0, 5), ("b", 1, 7), ("b", 3, 9), ("a", 4, 2)]
    schema = {"user_id": pl.String, "item": pl.Int32, "timestamp": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").lazy()
    store, repeated, _ = open_events(frame, DOMAIN_OF, tmp_path / "work", name_users=None, memory_gb=1)
    assert repeated == 1
    bucket = store.load(0)
    assert _rows(bucket) == [("a", 0, 5, 5), ("a", 4, 2, 2), ("b", 1, 7, 7), ("b", 3, 9, 9)]
    store.save(0, bucket.take(np.array([0, 2, 3])).without_idle_users())
    store.renumber_items(0, np.array([0, 1, -1, 2, -1, -1], dtype=np.int32))
    assert _rows(store.load(0)) == [("a", 0, 5, 5), ("b", 1, 7, 7), ("b", 2, 9, 9)]
    with pa.ipc.open_file(tmp_path / "work" / "events-00000.arrow") as file:
        assert file.schema.names == ["user", "item", "timestamp"]


def test_buckets_hold_about_as_many_events_each(tmp_path: Path) -> None:
    rows = [(f"u{n % 4_997}", n % 6, n, None) for n in range(20_000)]
    store, _ = _open(rows, tmp_path / "work", 2_000)
    sizes = [len(bucket) for bucket in store]
    assert len(sizes) == 10 and sum(sizes) == 20_000 and max(sizes) < 3_000


def test_two_users_of_one_pseudonym_are_refused(tmp_path: Path) -> None:
    frame = pl.LazyFrame({"user_id": ["a", "b"], "item": [0, 0], "timestamp": [1, 1], "clock": [1, 1]})
    frame = frame.with_columns(pl.col("item").cast(pl.Int32))
    with pytest.raises(InputError, match="two of 2 users share a pseudonym; set another secret key"):
        open_events(frame, DOMAIN_OF, tmp_path / "work", name_users=lambda users: ["x"] * len(users), memory_gb=1)


def test_events_leave_and_items_get_other_numbers(tmp_path: Path) -> None:
    store, _ = _open([("a", 0, 1, 1), ("b", 3, 2, None), ("b", 4, 3, 5), ("c", 5, 1, 1)], tmp_path / "work", 100)
    kept = store.load(0).take(np.array([False, True, True, False]))
    assert kept.users.to_pylist() == ["a", "b", "c"] and kept.frame()["clock"].to_list() == [None, 5]
    store.save(0, kept.without_idle_users())
    store.renumber_items(0, np.array([-1, -1, -1, 0, 1, -1], dtype=np.int32))
    assert _rows(store.load(0)) == [("b", 0, 2, None), ("b", 1, 3, 5)]
