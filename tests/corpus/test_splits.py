"""Splits against a user-by-user twin, and what pre-training may see."""

import re
from collections import defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cprec_hf.corpus.config import SplitConfig
from cprec_hf.corpus.splits import Split, TimeCuts, cpt_events, cpt_step, keyed_rng, split_downstream, time_cuts
from cprec_hf.errors import InputError

LEAVE_ONE_OUT = SplitConfig(policy="leave_one_out")


def _frame(rows: list[tuple[str, str, str, int]], clock: bool = True) -> pl.DataFrame:
    schema = {"user_id": pl.String, "domain": pl.String, "item_id": pl.String, "timestamp": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(clock="timestamp" if clock else pl.lit(None, pl.Int64))


def _split(
    frame: pl.DataFrame, config: SplitConfig, order: str = "time", most: int | None = None, seed: int = 0
) -> Split:
    return split_downstream([frame], config, order=order, max_test_users=most, seed=seed)


def _parts(split: Split, *buckets: pl.DataFrame) -> dict[tuple[str, str, str, int], str | None]:
    marked = pl.concat([split.of(number, bucket) for number, bucket in enumerate(buckets)])
    rows = marked.select("user_id", "domain", "item_id", "timestamp", "split").iter_rows()
    return {row[:4]: row[4] for row in rows}


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[str, str, str, int]]:
    row = st.tuples(
        st.sampled_from("uvwxyz"), st.sampled_from(["A", "B"]), st.sampled_from(["i", "j", "k", "l", "m", "n"]),
        st.integers(0, 30),
    )  # fmt: skip
    regular = [("s", domain, f"item {t}", t) for domain in "AB" for t in range(31)]  # so that no part is empty
    return draw(st.lists(row, max_size=80, unique=True)) + regular


def _histories(rows: list[tuple[str, str, str, int]]) -> dict[tuple[str, str], list[tuple[str, str, str, int]]]:
    histories = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r[3], r[2])):
        histories[row[:2]].append(row)
    return histories


@given(logs(), st.sampled_from([(0.1, 0.1), (0.3, 0.2), (0.25, 0.5)]))
def test_time_split_equals_a_walk_through_each_history(rows: list[Any], shares: tuple[float, float]) -> None:
    times = sorted(row[3] for row in rows)
    n = len(rows)
    v = times[int(np.floor(round((1 - shares[0] - shares[1]) * n, 6)))]
    t = times[int(np.floor(round((1 - shares[1]) * n, 6)))]
    expected: dict[Any, str | None] = {}
    for history in _histories(rows).values():
        had: set[str] = set()
        done: set[str] = set()
        for i, row in enumerate(history):
            era = "train" if row[3] < v else "validation" if row[3] < t else "test"
            part: str | None = era
            if era != "train":
                part = era if i and row[2] not in had and era not in done else None
                done |= {era} if part else set()
            expected[row] = part
            had.add(row[2])
    found = {(row[1], part) for row, part in expected.items() if part}
    assume(found == {(d, s) for d in "AB" for s in ("train", "validation", "test")})
    split = _split(_frame(rows), SplitConfig("time", *shares))
    assert split.cuts == TimeCuts(v, t)
    assert _parts(split, _frame(rows)) == expected


@given(logs(), st.none() | st.integers(1, 3))
def test_leave_one_out_equals_a_walk_through_each_history(rows: list[Any], most: int | None) -> None:
    able: dict[str, set[str]] = defaultdict(set)
    for (user, domain), history in _histories(rows).items():
        items = [row[2] for row in history]
        if len(items) >= 3 and items[-1] not in items[:-1] and items[-2] not in items[:-2]:
            able[domain].add(user)
    split = _split(_frame(rows), LEAVE_ONE_OUT, "position", most)
    parts = _parts(split, _frame(rows))
    for (user, domain), history in _histories(rows).items():
        found = [parts[row] for row in history]
        if found[-1] == "train":
            assert set(found) == {"train"}
        else:
            assert user in able[domain] and found == ["train"] * (len(history) - 2) + ["validation", "test"]
    for domain, users in able.items():
        held = {row[0] for row, part in parts.items() if part == "test" and row[1] == domain}
        assert len(held) == (len(users) if most is None else min(most, len(users))) and held <= users


@given(logs(), st.none() | st.integers(1, 3), st.booleans(), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_buckets_of_users_leave_the_split_as_it_is(
    rows: list[Any], most: int | None, by_time: bool, bucket_of: list[int]
) -> None:
    """Buckets are ranges of users; numbers in the order of the ids, in place of ids, change nothing either."""
    whole = _frame(rows)
    bucket = dict(zip("suvwxyz", sorted(bucket_of), strict=True))
    parts = [whole.filter(pl.col("user_id").replace_strict(bucket, return_dtype=pl.Int64) == n) for n in range(3)]
    config = SplitConfig("time", 0.3, 0.2) if by_time else LEAVE_ONE_OUT
    order = "time" if by_time else "position"
    try:
        expected = _split(whole, config, order, most)
    except InputError as error:
        with pytest.raises(InputError, match=re.escape(str(error))):
            split_downstream(parts, config, order=order, max_test_users=most, seed=0)
        return
    found = split_downstream(parts, config, order=order, max_test_users=most, seed=0)
    assert (found.cuts, found.steps) == (expected.cuts, expected.steps)
    assert _parts(found, *parts) == _parts(expected, whole)
    names = pl.Enum(["A", "B"])
    number = pl.col("user_id").replace_strict({user: n for n, user in enumerate("suvwxyz")}, return_dtype=pl.Int32)
    coded = [part.with_columns(number, pl.col("domain").cast(names)) for part in parts]
    again = split_downstream(coded, config, order=order, max_test_users=most, seed=0)
    assert again.steps == expected.steps
    marks = [
        [split.of(n, part[n])["split"].to_list() for n in range(3)] for split, part in ((found, parts), (again, coded))
    ]
    assert marks[0] == marks[1]


def test_test_users_are_drawn_by_the_seed_and_capped_in_each_split() -> None:
    rows = [(f"u{u:02}", "A", f"i{t}", 10 * t + u % 7) for u in range(40) for t in range(10)]
    draws = [_split(_frame(rows), SplitConfig("time", 0.2, 0.2), most=6, seed=seed) for seed in (0, 0, 1)]
    frame = _frame(rows)
    users = [
        {part: {row[0] for row, p in _parts(draw, frame).items() if p == part} for part in ("validation", "test")}
        for draw in draws
    ]
    assert users[0] == users[1] != users[2]
    assert all(len(u["validation"]) == len(u["test"]) == 6 for u in users)
    step = next(step for step in draws[0].steps if step.name == "test users of A")
    assert (step.rows_in, step.rows_out, step.refused["not drawn"]) == (40, 6, 34)
    drawn, whole = _parts(draws[0], frame), _parts(_split(frame, SplitConfig("time", 0.2, 0.2)), frame)
    assert [r for r, p in drawn.items() if p == "train"] == [r for r, p in whole.items() if p == "train"]


def cuts_of(portions: list[np.ndarray]) -> TimeCuts:
    return time_cuts(portions, SplitConfig("time", 0.1, 0.1))


@given(logs())
def test_time_cuts_are_the_quantiles(rows: list[Any]) -> None:
    times = np.array([row[3] for row in rows])
    assert cuts_of([times[:7], times[7:9], times[9:]]) == (cuts := cuts_of([times]))
    assert (times < cuts.validation).mean() <= 0.8 <= (times <= cuts.validation).mean() + 1e-9
    assert (times < cuts.test).mean() <= 0.9 <= (times <= cuts.test).mean() + 1e-9


def test_pretraining_ends_before_the_validation_cut() -> None:
    downstream = [("u", "A", f"i{t}", t) for t in range(10)]
    split = _split(_frame(downstream), SplitConfig("time", 0.2, 0.2))
    other = _frame([("u", "B", "p", 5), ("u", "B", "q", 6), ("v", "B", "r", 9)])
    kept = cpt_events(other, split.of(0, _frame(downstream)), split.cuts)
    assert split.cuts == TimeCuts(6, 8)
    assert kept["item_id"].to_list() == ["p"]
    assert cpt_step(3, 1, split.cuts).refused == {"at or after the validation cut": 2}


def test_leave_one_out_keeps_a_held_out_users_later_events_out_of_pretraining() -> None:
    downstream = [("u", "A", f"i{t}", t) for t in range(5)] + [("u", "C", f"i{t}", t) for t in (0, 1, 2)]
    downstream += [("w", "A", "i0", 0), ("w", "A", "i1", 9)]  # too short to be held out: no cut for w
    other = _frame([("u", "B", "p", 0), ("u", "B", "q", 1), ("v", "B", "r", 7), ("w", "B", "s", 9)])
    marked = _split(_frame(downstream), LEAVE_ONE_OUT).of(0, _frame(downstream))
    kept = cpt_events(other, marked, None)
    assert kept["item_id"].to_list() == ["p", "r", "s"]  # u validates at 3 in A and at 1 in C
    unknown = _frame(downstream, clock=False)
    marked = _split(unknown, LEAVE_ONE_OUT).of(0, unknown)
    kept = cpt_events(other.with_columns(clock=pl.lit(None, pl.Int64)), marked, None)
    assert kept["item_id"].to_list() == ["p", "q", "r", "s"]  # no order across domains is known


def test_a_time_split_needs_times() -> None:
    with pytest.raises(InputError, match="choose `policy: leave_one_out`"):
        _split(_frame([("u", "A", "i", 0)]), SplitConfig(), "position")


def test_a_domain_without_an_example_is_named() -> None:
    rows = [("u", "A", f"i{t}", t) for t in range(9)] + [("v", "B", "i", 1), ("v", "B", "j", 2)]
    with pytest.raises(InputError, match=r"domain 'B': the split leaves no validation event"):
        _split(_frame(rows), LEAVE_ONE_OUT)


@pytest.mark.parametrize("policy", ["random", "Randomly"])
def test_random_order_is_refused(policy: str) -> None:
    with pytest.raises(InputError, match="random order is refused"):
        SplitConfig(policy=policy)


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="above 0 and their sum below 1"):
        SplitConfig("time", *shares)


def test_a_keyed_generator_depends_on_every_part_of_its_key() -> None:
    streams = [keyed_rng(*key).integers(0, 2**62) for key in ((0, "a"), (1, "a"), (0, "b"), ("0a",))]
    assert len(set(streams)) == 4
    assert keyed_rng(0, "a").integers(0, 2**62) == streams[0]
