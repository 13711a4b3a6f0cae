"""Several sources as one: rows, users, order and accounts of each stand in the whole as they were."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.behaviors import Behaviors, read_source
from cprec_hf.behaviors.sources.log import counting_later
from cprec_hf.errors import InputError

Rows = list[dict[str, Any]]


@pytest.fixture
def table(write: Callable[..., Path], events: Rows, items: Rows) -> Callable[..., dict[str, Any]]:
    """`table(name, domains, order)`: a source of kind `table` with the two domains named so, in its own files."""

    def make(name: str, domains: dict[str, str], order: str = "time", clock: bool = False) -> dict[str, Any]:
        logs = [{**row, "domain": domains[row["domain"]]} for row in events]
        if order == "position":
            logs = [
                {**row, "timestamp": n, **({"all_domain_position": n * 2} if clock else {})}
                for n, row in enumerate(logs)
            ]
        things = [{**row, "domain": domains[row["domain"]], name: "x"} for row in items]
        about = {"name": name, "licence": f"of {name}", "citation": "one for all", "order": order}
        files = {"interactions": write(logs, f"{name}.csv"), "items": write(things, f"{name}-items.csv")}
        return {"kind": "table", **about, **{key: str(path) for key, path in files.items()}}

    return make


def read(sources: list[dict[str, Any]], **keys: Any) -> Behaviors:
    return read_source({"kind": "several", "sources": sources, **keys}, "r.yaml").validate()


FIRST, SECOND = {"Books": "Books", "Games": "Games"}, {"Books": "Food", "Games": "Cartoon"}


def rows(behaviors: Behaviors, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(behaviors.interactions.select("user_id", "domain", "item_id", *columns).collect().rows())


def expected(user: str, domains: dict[str, str], times: list[Any]) -> list[tuple[Any, ...]]:
    log = [("u1", "Books", "007"), ("u1", "Books", "b"), ("u2", "Books", "b"), ("u2", "Games", "007")]
    return [(user + u, domains[d], i, *t) for (u, d, i), t in zip(log, times, strict=True)]


TIMES = [(1_600_000_000 + 100 * n,) for n in range(4)]


def test_sources_with_times_stand_side_by_side(table: Callable[..., dict[str, Any]]) -> None:
    behaviors = read([table("one", FIRST), table("two", SECOND)])
    assert rows(behaviors, "timestamp") == sorted(expected("1/", FIRST, TIMES) + expected("2/", SECOND, TIMES))
    about = behaviors.about
    assert (about.name, about.licence, about.citation) == ("one; two", "of one; of two", "one for all")
    assert about.order == "time" and not about.redistributable
    items = behaviors.items.collect()
    assert items.columns == ["item_id", "domain", "title", "brand", "one", "two"]
    assert items.filter(domain="Food").select("item_id", "title", "one", "two").sort("item_id").rows() == [
        ("007", "Dune", None, "x"), ("b", "Emma & co", None, "x")
    ]  # fmt: skip
    assert [(step.name, step.rows_in, step.rows_out) for step in behaviors.account.steps] == [
        ("one: items: read", 3, 3), ("one: interactions: read", 4, 4),
        ("two: items: read", 3, 3), ("two: interactions: read", 4, 4),
    ]  # fmt: skip
    with counting_later():  # as a build reads; the counts of several sources are made at once all the same
        assert read([table("one", FIRST), table("two", SECOND)]).account == behaviors.account
    together = read([table("one", FIRST), table("two", SECOND)], shared_users=True)
    assert rows(together, "timestamp") == sorted(expected("", FIRST, TIMES) + expected("", SECOND, TIMES))


def test_one_source_without_times_makes_an_order_of_all_and_loses_none(table: Callable[..., dict[str, Any]]) -> None:
    for clock in (False, True):
        behaviors = read([table("one", FIRST), table("two", SECOND, "position", clock)])
        assert behaviors.about.order == "position"
        times = [(t, t) for (t,) in TIMES]
        places = [(n, n * 2 if clock else None) for n in range(4)]
        found = behaviors.interactions.select("user_id", "domain", "item_id", "timestamp", "all_domain_position")
        assert sorted(found.collect().rows(), key=str) == sorted(
            expected("1/", FIRST, times) + expected("2/", SECOND, places), key=str
        )


def test_what_cannot_be_put_together_is_refused(table: Callable[..., dict[str, Any]]) -> None:
    one, two = table("one", FIRST), table("two", SECOND, "position")
    with pytest.raises(InputError, match=r"r\.yaml: both one and same have a domain 'Books'; rename it in one"):
        read([one, table("same", FIRST)])
    with pytest.raises(InputError, match="`shared_users` is true, but two knows no times"):
        read([one, two], shared_users=True)
    with pytest.raises(InputError, match=r"r\.yaml: `sources` names fewer than two"):
        read([one])
    with pytest.raises(InputError, match=r"r\.yaml: `sources\[1\]`: unknown key `nam`; did you mean `name`"):
        read([{**one, "interactions": "nowhere.csv"}, {**two, "nam": "x"}])
