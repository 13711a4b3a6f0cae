"""Pre-training documents against a row-by-row twin, on any users and any partition of them."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.sequences import CATALOGUE, EVENTS, SEQUENCES, SequencePlan, cpt_sequences
from cprec_hf.corpus.template import load_template
from cprec_hf.corpus.windows import greedy_windows, row_order, run_bounds
from cprec_hf.errors import InputError

DOMAINS = ["Books", "Games", "Café & Bar"]
CLOCKS = st.integers(0, 9)
HEADERS = {None: 7, "Books": 5, "Games": 4, "Café & Bar": 6}
ITEMS = [
    {"domain": domain, "item_id": f"i{item}", "title": f"title {item}", "tokens": 2 + item % 3}
    for domain in sorted(DOMAINS)
    for item in range(6)
]


def _plan(
    window: int = 20, kinds: tuple[str, ...] = ("domain", "all_domain"), times_known: bool = True
) -> SequencePlan:
    return SequencePlan("1", kinds, window, HEADERS, times_known, pa.Table.from_pylist(ITEMS, schema=CATALOGUE))


@st.composite
def events(draw: st.DrawFn, clocks: st.SearchStrategy = CLOCKS) -> list[dict[str, Any]]:
    row = st.tuples(st.sampled_from("uvwxy"), st.sampled_from(DOMAINS), st.integers(0, 5), st.integers(0, 9), clocks)
    rows = draw(st.lists(row, max_size=60, unique_by=lambda r: r[:4]))
    return [
        {
            "user_id": user, "domain": domain, "item_id": f"i{item}", "title": f"title {item}", "tokens": 2 + item % 3,
            "timestamp": time, "clock": clock,
        }
        for user, domain, item, time, clock in rows
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    number = {(item["domain"], item["item_id"]): row for row, item in enumerate(ITEMS)}
    return pa.Table.from_pylist([{**r, "item": number[r["domain"], r["item_id"]]} for r in rows], schema=EVENTS)


def _row_by_row(rows: list[dict[str, Any]], plan: SequencePlan) -> list[dict[str, Any]]:
    """The same documents, one event at a time."""
    template, out = load_template("1"), []
    by_domain, by_user = defaultdict(list), defaultdict(list)
    for row in rows:
        by_domain[row["user_id"], row["domain"]].append(row)
        if row["clock"] is not None:
            by_user[row["user_id"]].append(row)
    groups = []
    for (user, domain), mine in sorted(by_domain.items()):
        groups.append((user, "domain", domain, sorted(mine, key=lambda r: (r["timestamp"], r["item_id"]))))
    for user, mine in sorted(by_user.items()):
        if len({r["domain"] for r in mine}) >= 2:
            ordered = sorted(mine, key=lambda r: (r["clock"], r["domain"], r["item_id"]))
            groups.append((user, "all_domain", None, ordered))
    groups.sort(key=lambda g: (g[0], g[1] == "all_domain"))
    for user, kind, domain, mine in groups:
        if kind not in plan.kinds:
            continue
        window, used = [], HEADERS[domain]
        for event in [*mine, None]:
            if event is None or used + event["tokens"] > plan.window_tokens:
                if len(window) >= 2:
                    out.append(
                        {
                            "text": template.prompt(domain, [r["title"] for r in window]), "kind": kind,
                            "domain": domain, "user_id": user, "item_ids": [r["item_id"] for r in window],
                            "item_domains": [r["domain"] for r in window], "n_tokens": used,
                            "last_timestamp": window[-1]["timestamp"] if plan.times_known else None,
                        }
                    )  # fmt: skip
                window, used = [], HEADERS[domain]
            if event is not None:
                window.append(event)
                used += event["tokens"]
    return out


@given(events(), st.sampled_from([15, 20, 60]), st.booleans())
def test_documents_equal_those_of_a_row_loop(rows: list[dict[str, Any]], window: int, times_known: bool) -> None:
    plan = _plan(window, times_known=times_known)
    table = cpt_sequences(_table(rows), plan)
    assert table.schema == SEQUENCES
    assert table.to_pylist() == _row_by_row(rows, plan)


@given(events(clocks=st.none() | CLOCKS))
def test_events_whose_order_across_domains_is_unknown_stay_out_of_mixed_documents(rows: list[dict[str, Any]]) -> None:
    assert cpt_sequences(_table(rows), _plan()).to_pylist() == _row_by_row(rows, _plan())


@given(events(), st.lists(st.integers(0, 2), min_size=5, max_size=5))
@settings(max_examples=40)
def test_any_partition_of_the_users_gives_the_same_rows(rows: list[dict[str, Any]], shard_of: list[int]) -> None:
    shard = dict(zip("uvwxy", shard_of, strict=True))
    parts = [cpt_sequences(_table([r for r in rows if shard[r["user_id"]] == s]), _plan()) for s in range(3)]
    whole = cpt_sequences(_table(rows), _plan()).to_pylist()
    key = lambda row: row["user_id"]  # noqa: E731  (stable: documents of one user keep their order)
    assert sorted(pa.concat_tables(parts).to_pylist(), key=key) == whole


@given(events(), st.randoms())
@settings(max_examples=40)
def test_the_order_of_the_rows_that_come_in_does_not_matter(rows: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert cpt_sequences(_table(shuffled), _plan()).equals(cpt_sequences(_table(rows), _plan()))


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(
            st.tuples(*[st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)) for _ in range(n)]), max_size=30
        )
    )
)
def test_rows_are_ordered_as_python_orders_tuples_and_ties_stay(rows: list[tuple[int, ...]]) -> None:
    keys = [np.array(key, dtype=np.int64) for key in zip(*rows, strict=True)] or [np.zeros(0, dtype=np.int64)]
    assert row_order(*keys).tolist() == sorted(range(len(rows)), key=lambda i: rows[i])


@pytest.mark.parametrize("widths", [(50, 40), (50, 2**52), (300, 2**52), (2**40, 2**40), (1, 5_000)])
@pytest.mark.parametrize("repeated", [1, 3])
def test_thousands_of_rows_are_ordered_and_ties_stay(widths: tuple[int, ...], repeated: int) -> None:
    rng = np.random.default_rng(len(widths) * repeated)
    keys = [np.repeat(rng.integers(0, width, 2_000), repeated) for width in widths]
    shuffled = rng.permutation(2_000 * repeated)
    keys = [key[shuffled] for key in keys]
    rows = list(zip(*(key.tolist() for key in keys), strict=True))
    assert row_order(*keys).tolist() == sorted(range(len(rows)), key=lambda i: rows[i])
    in_order = [np.array(key) for key in zip(*sorted(rows), strict=True)]
    assert row_order(*in_order).tolist() == list(range(len(rows)))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=20))
def test_runs_begin_where_a_key_changes(rows: list[tuple[int, int]]) -> None:
    keys = [np.array([row[i] for row in rows], dtype=np.int64) for i in range(2)]
    begins = [i for i in range(len(rows)) if i == 0 or rows[i] != rows[i - 1]]
    assert run_bounds(*keys).tolist() == [*begins, len(rows)]


def test_ids_in_a_dictionary_read_as_the_ids_themselves() -> None:
    rows = [(user, item, 3, 4) for user in ["v", "u", "w"] for item in (1, 7, 13)]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=EVENTS)
    coded = table.set_column(0, "user_id", table["user_id"].dictionary_encode())
    assert cpt_sequences(coded, _plan()).equals(cpt_sequences(table, _plan()))


@given(events(), st.integers(15, 40))
def test_no_event_is_lost_or_doubled_but_lone_ones(rows: list[dict[str, Any]], window: int) -> None:
    documents = cpt_sequences(_table(rows), _plan(window, ("domain",))).to_pylist()
    assert all(row["n_tokens"] <= window and len(row["item_ids"]) >= 2 for row in documents)
    seen = [(row["user_id"], row["domain"], item) for row in documents for item in row["item_ids"]]
    given_ = [(row["user_id"], row["domain"], row["item_id"]) for row in rows]
    groups = {key[:2] for key in given_}
    for group in groups:  # only the last event of a group can be missing
        inside, expected = sum(s[:2] == group for s in seen), sum(g[:2] == group for g in given_)
        assert expected - inside in (0, 1)
    assert not set(seen) - set(given_)


@given(
    st.lists(st.lists(st.integers(1, 5), max_size=12), max_size=6), st.integers(5, 12), st.none() | st.integers(1, 4)
)
def test_greedy_windows_cover_every_item_once_and_none_could_begin_earlier(
    groups: list[list[int]], budget: int, most: int | None
) -> None:
    tokens = np.array([t for group in groups for t in group], dtype=np.int64)
    bounds = np.cumsum([0, *map(len, groups)])
    starts, ends = greedy_windows(tokens, bounds, np.full(len(groups), budget), most)
    assert np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)] or [[]]).tolist() == list(
        range(len(tokens))
    )
    for start, end in zip(starts, ends, strict=True):
        assert tokens[start:end].sum() <= budget and (most is None or end - start <= most)
        full = most is not None and end - start == most
        assert full or end in bounds or tokens[start : end + 1].sum() > budget


def test_an_item_that_fits_no_window_is_refused_with_its_numbers() -> None:
    with pytest.raises(InputError, match=r"13 tokens does not fit a window with room for 12"):
        greedy_windows(np.array([3, 13]), np.array([0, 2]), np.array([12]))
