from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors import Account, Behaviors, FilterConfig, apply_filters
from cprec_hf.errors import InputError

Event = tuple[str, str, str]
EVENTS = st.lists(
    st.tuples(st.sampled_from("AB"), st.sampled_from("uvwxyz"), st.sampled_from("123456")), min_size=1, max_size=60
)


def as_behaviors(events: list[Event], behaviors_of: Callable[..., Behaviors]) -> Behaviors:
    rows = [
        {"domain": d, "user_id": u, "item_id": i, "timestamp": n, "rating": None} for n, (d, u, i) in enumerate(events)
    ]
    items = [{"domain": d, "item_id": i, "title": f"{d}{i}"} for d in "AB" for i in "1234567"]
    return behaviors_of(rows, items)


def pairs(behaviors: Behaviors) -> list[Event]:
    return sorted(behaviors.interactions.select("domain", "user_id", "item_id").collect().rows())


def k_core(events: list[Event], least_user: int, least_item: int) -> list[Event]:
    """Drop one offending user or item at a time until there is none: the core is the same in whatever order."""
    while True:
        users, items = Counter(e[:2] for e in events), Counter((e[0], e[2]) for e in events)
        bad_users = [u for u, n in users.items() if n < least_user]
        bad_items = [i for i, n in items.items() if n < least_item]
        if bad_users:
            events = [e for e in events if e[:2] != bad_users[0]]
        elif bad_items:
            events = [e for e in events if (e[0], e[2]) != bad_items[0]]
        else:
            return sorted(events)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(EVENTS, st.integers(0, 4), st.integers(0, 4))
def test_the_core_is_the_core(
    behaviors_of: Callable[..., Behaviors], events: list[Event], least_user: int, least_item: int
) -> None:
    behaviors = as_behaviors(events, behaviors_of)
    expected = k_core(events, least_user, least_item)
    config = FilterConfig(least_user, least_item)
    if not expected:
        with pytest.raises(InputError, match="the filters leave no interaction"):
            apply_filters(behaviors, config)
        return
    filtered = apply_filters(behaviors, config).validate()
    assert pairs(filtered) == expected
    kept_items = set(filtered.items.select("domain", "item_id").collect().rows())
    assert kept_items == ({(e[0], e[2]) for e in expected} if least_item else {(d, i) for d in "AB" for i in "1234567"})
    for step in filtered.account.steps:
        assert step.rows_in - step.rows_out == sum(step.refused.values())
    assert [s.rows_out for s in filtered.account.steps if s.name == "interactions: filter"] in ([], [len(expected)])


def test_the_core_needs_more_than_one_pass_and_counts_each_row_once(behaviors_of: Callable[..., Behaviors]) -> None:
    # v has one event; without it item 2 has one, without which u has two.
    events = [
        ("A", "v", "2"),
        ("A", "u", "2"),
        *[("A", x, i) for x in "uwx" for i in "13"],
        *[("A", x, "4") for x in "wx"],
    ]
    behaviors = as_behaviors(events, behaviors_of)
    core = apply_filters(behaviors, FilterConfig(3, 2))
    assert pairs(core) == sorted(("A", x, i) for x in "wx" for i in "134")
    assert core.account.steps[0].refused == {"user with fewer than 3 in the domain": 3, "item with fewer than 2": 1}
    once = apply_filters(behaviors, FilterConfig(3, 2, core=False))
    assert pairs(once) == sorted(e for e in events if e[1] != "v")
    assert once.account.steps[0].refused == {"user with fewer than 3 in the domain": 1}


def test_counts_are_within_a_domain(behaviors_of: Callable[..., Behaviors]) -> None:
    events = [("A", "u", "1"), ("A", "u", "2"), ("B", "u", "1"), ("B", "v", "1"), ("B", "v", "2")]
    kept = apply_filters(as_behaviors(events, behaviors_of), FilterConfig(min_user_interactions=2))
    assert pairs(kept) == [("A", "u", "1"), ("A", "u", "2"), ("B", "v", "1"), ("B", "v", "2")]


def test_users_with_too_many_events_leave_whole_before_the_minima(behaviors_of: Callable[..., Behaviors]) -> None:
    events = [*[("A", "robot", i) for i in "1234"], ("A", "u", "1"), ("A", "u", "2"), ("A", "v", "1"), ("A", "v", "2")]
    kept = apply_filters(as_behaviors(events, behaviors_of), FilterConfig(2, 2, max_user_interactions=3))
    assert pairs(kept) == [("A", "u", "1"), ("A", "u", "2"), ("A", "v", "1"), ("A", "v", "2")]
    assert kept.account.to_dicts() == [
        {
            "name": "interactions: filter",
            "rows_in": 8,
            "rows_out": 4,
            "refused": {"user with more than 3 in the domain": 4},
        },
        {"name": "items: filter", "rows_in": 14, "rows_out": 2, "refused": {"item with fewer than 2": 12}},
    ]


def test_rows_of_the_same_user_and_item_stay_or_leave_with_their_columns(
    behaviors_of: Callable[..., Behaviors],
) -> None:
    events = [("A", "u", "1"), ("A", "u", "1"), ("A", "v", "2")]
    behaviors = as_behaviors(events, behaviors_of)
    kept = apply_filters(behaviors, FilterConfig(min_user_interactions=2)).interactions.collect()
    assert kept.sort("timestamp").equals(behaviors.interactions.filter(pl.col("user_id") == "u").collect())


def test_no_filter_is_no_step_and_the_given_account_is_left_alone(behaviors_of: Callable[..., Behaviors]) -> None:
    behaviors = as_behaviors([("A", "u", "1")], behaviors_of)
    assert apply_filters(behaviors, FilterConfig()) is behaviors
    apply_filters(behaviors, FilterConfig(1, 1))
    assert behaviors.account == Account()


@pytest.mark.parametrize(
    "config",
    [
        {"min_user_interactions": -1},
        {"max_user_interactions": 0},
        {"min_user_interactions": 5, "max_user_interactions": 4},
    ],
)
def test_bounds_nobody_can_meet_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="interactions`"):
        FilterConfig(**config)
