"""The bring-your-own reader, from files to `Behaviors`: what it makes of good rows and of every kind of bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cprec_hf.behaviors import Behaviors, read_source
from cprec_hf.errors import InputError

Rows = list[dict[str, Any]]
Read = Callable[..., Behaviors]


@pytest.fixture
def read(write: Callable[..., Path]) -> Read:
    """`read(events, items, kind="parquet", **keys)`: write both tables, read them through `read_source`, validate."""

    def from_rows(events: Rows, items: Rows, kind: str = "parquet", **keys: Any) -> Behaviors:
        files = {
            "interactions": str(write(events, f"events.{kind}")),
            "items": str(write(items, f"items.{kind}")),
        }
        about = {"name": "shop", "licence": "private", "citation": "none"}
        return read_source({"kind": "table", **about, **files, **keys}, "shop.yaml").validate()

    return from_rows


def read_files(interactions: Path, items: Path) -> Behaviors:
    files = {"interactions": str(interactions), "items": str(items)}
    return read_source({"kind": "table", "name": "shop", "licence": "x", "citation": "x", **files}, "shop.yaml")


def rows(behaviors: Behaviors) -> list[tuple[Any, ...]]:
    return sorted(behaviors.interactions.select("user_id", "domain", "item_id", "timestamp", "rating").collect().rows())


GOOD = [
    ("u1", "Books", "007", 1_600_000_000, 5.0),
    ("u1", "Books", "b", 1_600_000_100, None),
    ("u2", "Books", "b", 1_600_000_200, 3.5),
    ("u2", "Games", "007", 1_600_000_300, 1.0),
]


def steps(behaviors: Behaviors) -> dict[str, tuple[int, int, dict[str, int]]]:
    return {step.name: (step.rows_in, step.rows_out, step.refused) for step in behaviors.account.steps}


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "csv.gz"])
def test_good_rows_come_through_unchanged_from_every_kind_of_file(
    kind: str, read: Read, events: Rows, items: Rows
) -> None:
    behaviors = read(events, items, kind, redistributable=True)
    assert rows(behaviors) == GOOD
    assert sorted(behaviors.items.collect().rows(), key=str) == [
        ("007", "Books", "Dune", "Ace"),
        ("007", "Games", "Go", "Stone"),
        ("b", "Books", "Emma & co", None),
    ]
    assert behaviors.items.collect_schema().names() == ["item_id", "domain", "title", "brand"]
    assert steps(behaviors) == {"items: read": (3, 3, {}), "interactions: read": (4, 4, {})}
    assert (behaviors.about.name, behaviors.about.order, behaviors.about.redistributable) == ("shop", "time", True)


def test_columns_are_mapped_and_items_may_name_theirs_otherwise(read: Read, events: Rows, items: Rows) -> None:
    names = {"user_id": "reviewer", "item_id": "asin", "timestamp": "when", "rating": "stars", "domain": "category"}
    theirs = [{names[key]: value for key, value in row.items()} for row in events]
    catalogue = [
        {"id": r["item_id"], "category": r["domain"], "name": r["title"], "title": "no", "text": r["brand"]}
        for r in items
    ]
    behaviors = read(
        theirs, catalogue, columns=names, item_columns={"item_id": "id", "title": "name", "description": "text"}
    )
    assert rows(behaviors) == GOOD
    found = behaviors.items.collect().sort("title")
    assert found.columns == ["item_id", "domain", "title", "description"]
    assert found["title"].to_list() == ["Dune", "Emma & co", "Go"]
    assert found["description"].to_list() == ["Ace", None, "Stone"]


def test_a_constant_domain_stands_in_for_the_column_that_is_not_there(read: Read, events: Rows, items: Rows) -> None:
    def without(given: Rows) -> Rows:
        return [{k: v for k, v in row.items() if k != "domain"} for row in given if row["domain"] == "Books"]

    assert rows(read(without(events), without(items), domain="Books")) == GOOD[:3]
    assert rows(read(without(events), items[:2], domain="Books")) == GOOD[:3]
    assert rows(read(events, items, domain="Films")) == GOOD, "a file that has the column keeps it"
    with pytest.raises(InputError, match=r"events\.parquet has no column `domain`"):
        read(without(events), without(items))


def test_only_the_domains_asked_for(read: Read, events: Rows, items: Rows) -> None:
    behaviors = read(events, items, domains=["Books"])
    assert rows(behaviors) == GOOD[:3]
    assert steps(behaviors) == {
        "items: read": (3, 2, {"domain not asked for": 1}),
        "interactions: read": (4, 3, {"domain not asked for": 1}),
    }
    with pytest.raises(InputError, match="no interaction in the domain 'Book'; did you mean 'Books'"):
        read(events, items, domains=["Book"])
    with pytest.raises(InputError, match="`domains` is an empty list"):
        read(events, items, domains=[])


def test_an_order_without_a_time(read: Read, events: Rows, items: Rows) -> None:
    ordered = [
        {**{k: v for k, v in row.items() if k != "timestamp"}, "position": n, "all_domain_position": n if n else None}
        for n, row in enumerate(events)
    ]
    behaviors = read(ordered, items, order="position", columns={"timestamp": "position"})
    assert behaviors.about.order == "position"
    found = behaviors.interactions.collect().sort("timestamp")
    assert found["timestamp"].to_list() == [0, 1, 2, 3]
    assert found["all_domain_position"].to_list() == [None, 1, 2, 3]
    assert found.schema["all_domain_position"] == pl.Int64
    with pytest.raises(InputError, match="positions have no unit"):
        read(ordered, items, order="position", columns={"timestamp": "position"}, timestamp_unit="ms")


def test_missing_columns_are_named_with_their_file_the_columns_there_and_the_nearest(
    read: Read, events: Rows, items: Rows
) -> None:
    theirs = [{**row, "timestmp": row["timestamp"]} for row in events]
    for row in theirs:
        del row["timestamp"]
    with pytest.raises(
        InputError,
        match=r"shop\.yaml: .*events\.parquet has no column `timestamp`.*did you mean `timestmp`\? "
        r"Its columns: user_id, item_id, domain, rating, timestmp.*`timestamp: timestmp`",
    ):
        read(theirs, items)
    with pytest.raises(InputError, match=r"items\.parquet has no column `name` \(for title\)"):
        read(events, items, columns={"title": "name"})
    with pytest.raises(InputError, match=r"events\.parquet has no column `stars` \(for rating\)"):
        read(events, items, columns={"rating": "stars"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"timestamp_units": "ms"}, r"shop\.yaml: unknown key `timestamp_units`; did you mean `timestamp_unit`\?"),
        ({"timestamp_unit": "hours"}, r"shop\.yaml: `timestamp_unit` is 'hours'; choose one of s, ms, us, ns, iso"),
        ({"columns": {"user": "u"}}, r"shop\.yaml: `columns`: unknown key `user`; did you mean `user_id`\?"),
        ({"order": "random"}, "`order` is 'random'; choose one of time, position"),
        ({"interactions": "nowhere.csv"}, r"shop\.yaml: no file nowhere\.csv"),
    ],
)
def test_a_wrong_recipe_is_refused(keys: dict[str, Any], message: str, read: Read, events: Rows, items: Rows) -> None:
    with pytest.raises(InputError, match=message):
        read(events, items, **keys)


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": None}, "no user id"),
    ({"user_id": ""}, "no user id"),
    ({"item_id": None}, "no item id"),
    ({"domain": None}, "no domain"),
    ({"timestamp": None}, "no timestamp"),
    ({"timestamp": -5}, "negative timestamp"),
    ({"item_id": "nowhere"}, "item not in the catalogue"),
    ({"item_id": "untitled"}, "item without a usable title"),
    ({}, "duplicate event"),
]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(("change", "reason"), BAD_EVENTS)
def test_an_event_that_cannot_be_used_is_refused_and_counted(
    change: dict[str, Any], reason: str, kind: str, read: Read, events: Rows, items: Rows
) -> None:
    items.append({"item_id": "untitled", "domain": "Books", "title": " \n&nbsp;", "brand": "Ace"})
    behaviors = read([*events, {**events[0], **change}], items, kind)
    assert rows(behaviors) == GOOD
    assert steps(behaviors) == {"items: read": (4, 3, {"no title": 1}), "interactions: read": (5, 4, {reason: 1})}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_reason_at_once_each_row_under_its_first(kind: str, read: Read, events: Rows, items: Rows) -> None:
    bad = [{**events[0], **change} for change, _ in BAD_EVENTS] + [dict.fromkeys(events[0])]
    items.append({"item_id": "untitled", "domain": "Books", "title": None, "brand": None})
    behaviors = read(bad + events, items, kind)
    assert rows(behaviors) == GOOD
    expected: dict[str, int] = {"no user id": 1}
    for _, reason in BAD_EVENTS:
        expected[reason] = expected.get(reason, 0) + 1
    assert steps(behaviors)["interactions: read"] == (14, 4, expected)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_that_is_no_number_is_refused_and_counted(kind: str, read: Read, events: Rows, items: Rows) -> None:
    bad = [{**events[0], "timestamp": "soon"}, {**events[0], "user_id": "v", "rating": "good"}]
    behaviors = read(events + bad, items, kind)
    assert rows(behaviors) == GOOD
    assert steps(behaviors)["interactions: read"] == (6, 4, {"unreadable timestamp": 1, "unreadable rating": 1})
    positions = [
        {**row, "all_domain_position": place} for row, place in zip(events, ["1", "", "-1", "first"], strict=True)
    ]
    kept = read(positions, items, kind)
    assert rows(kept) == GOOD[:2]
    reasons = {"unreadable position across domains": 1, "negative position across domains": 1}
    assert steps(kept)["interactions: read"] == (4, 2, reasons)


def test_items_that_cannot_be_used_are_refused_and_counted(read: Read, events: Rows, items: Rows) -> None:
    bad = [
        {**items[0], "title": "Dune, again"},
        {**items[0], "item_id": None},
        {**items[0], "domain": ""},
        {**items[0], "item_id": "c", "title": None},
        {**items[0], "item_id": "d", "title": "\u200b"},
    ]
    behaviors = read(events, items + bad, "jsonl")
    reasons = {"no title": 2, "no item id": 1, "no domain": 1, "same item twice": 1}
    assert steps(behaviors)["items: read"] == (8, 3, reasons)
    assert sorted(behaviors.items.collect()["title"]) == ["Dune", "Emma & co", "Go"]


def test_an_item_listed_without_a_title_and_then_with_one_has_one(read: Read, events: Rows, items: Rows) -> None:
    behaviors = read(events, [{**items[0], "title": ""}, *items])
    assert rows(behaviors) == GOOD
    assert steps(behaviors)["items: read"] == (4, 3, {"no title": 1})


def test_titles_may_stand_in_the_interactions(write: Callable[..., Path], events: Rows, items: Rows) -> None:
    titles = {(row["domain"], row["item_id"]): row["title"] for row in items}
    both = [{**row, "title": titles[row["domain"], row["item_id"]]} for row in events]
    path = write(both, "both.parquet")
    behaviors = read_files(path, path).validate()
    assert rows(behaviors) == GOOD
    assert steps(behaviors)["items: read"] == (4, 3, {"same item twice": 1})


def test_bytes_that_are_not_utf8_in_a_csv(tmp_path: Path) -> None:
    latin = "item_id,domain,title,brand\n007,Books,Dune,Ac\xe9\nb,Books,Caf\xe9,\n007,Games,Go,Stone\n".encode(
        "latin-1"
    )
    (tmp_path / "latin.csv").write_bytes(latin)
    log = "user_id,item_id,domain,timestamp\nu1,007,Books,1\nu\xe9,007,Books,2\nu2,b,Books,3\nu2,007,Games,4\n"
    (tmp_path / "log.csv").write_bytes(log.encode("latin-1"))
    behaviors = read_files(tmp_path / "log.csv", tmp_path / "latin.csv").validate()
    assert steps(behaviors) == {
        "items: read": (3, 2, {"title that is not UTF-8": 1}),
        "interactions: read": (4, 2, {"item without a usable title": 1, "id that is not UTF-8": 1}),
    }
    assert [row[:3] for row in rows(behaviors)] == [("u1", "Books", "007"), ("u2", "Games", "007")]


def test_bytes_that_are_not_utf8_in_json_lines_are_an_error_that_names_the_line(
    write: Callable[..., Path], events: Rows, items: Rows
) -> None:
    path = write(items, "latin.jsonl")
    path.write_bytes(path.read_bytes().replace(b"Emma", b"Caf\xe9"))
    with pytest.raises(InputError, match=r"latin\.jsonl, line 2: bytes that are not UTF-8"):
        read_files(write(events, "events.jsonl"), path)


def test_a_stray_comma_in_a_csv_is_an_error_and_shifts_no_values(
    write: Callable[..., Path], events: Rows, items: Rows
) -> None:
    path = write(items, "items.csv")
    path.write_text(path.read_text().replace("Dune", "Dune, Messiah"))
    with pytest.raises(InputError, match=r"items\.csv, line 2: 5 fields under a header of 4: .*Messiah"):
        read_files(write(events, "events.csv"), path)


def test_titles_with_markup_come_out_as_one_line_of_text(read: Read, events: Rows, items: Rows) -> None:
    hostile = "{{ x }}\n---\nkey: <b>&lt;i&gt;\x07</b>\u2028An item in Books:\r\n"
    behaviors = read(events, [{**row, "title": hostile} for row in items])
    assert set(behaviors.items.collect()["title"]) == {"{{ x }} --- key: <b><i> </b> An item in Books:"}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize(("unit", "factor"), [("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_another_unit_than_seconds_must_be_said_and_is_read_then(
    unit: str, factor: int, kind: str, read: Read, events: Rows, items: Rows
) -> None:
    finer = [{**row, "timestamp": row["timestamp"] * factor + 999} for row in events]
    with pytest.raises(
        InputError,
        match=rf"events\.{kind}, row 1: timestamp is '?{finer[0]['timestamp']}'?, which is not in `s`; "
        f"add `timestamp_unit: {unit}` to the recipe",
    ):
        read(finer, items, kind)
    assert rows(read(finer, items, kind, timestamp_unit=unit)) == GOOD


def test_one_row_in_milliseconds_is_found_and_seconds_are_not_taken_for_milliseconds(
    read: Read, events: Rows, items: Rows
) -> None:
    mixed = [{**row, "timestamp": row["timestamp"] * (1_000 if n == 2 else 1)} for n, row in enumerate(events)]
    with pytest.raises(InputError, match=r"events\.parquet, row 3: timestamp is 1600000200000, which is not in `s`"):
        read(mixed, items)
    with pytest.raises(
        InputError, match=r"row 4: timestamp is 1600000300, which is not in `ms`; .*`timestamp_unit: s`"
    ):
        read(events, items, timestamp_unit="ms")


def test_iso_dates_must_be_said_and_are_read_then(read: Read, events: Rows, items: Rows) -> None:
    dated = [{**row, "timestamp": f"2020-09-13T12:2{n}:40Z"} for n, row in enumerate(events)]
    with pytest.raises(
        InputError, match=r"row 1: timestamp is '2020-09-13T12:20:40Z', an ISO date .*`timestamp_unit: iso`"
    ):
        read(dated, items, "csv")
    found = rows(read(dated, items, "csv", timestamp_unit="iso"))
    assert sorted(row[3] for row in found) == [1_599_999_640 + 60 * n for n in range(4)]
    with pytest.raises(InputError, match=r"not one interaction can be used .*timestamp is '1600000000', read as `iso`"):
        read(events, items, "csv", timestamp_unit="iso")


def test_a_domain_without_items(read: Read, events: Rows, items: Rows) -> None:
    message = r"items\.parquet: not one item with a title in the domain 'Games', which has 1 interactions"
    with pytest.raises(InputError, match=message):
        read(events, items[:2])
    with pytest.raises(InputError, match=message):
        read(events, [*items[:2], {**items[2], "title": ""}])
    with pytest.raises(InputError, match=r"in the domain 'Games'.*did you mean 'games'"):
        read(events, [*items[:2], {**items[2], "domain": "games"}])
    assert rows(read(events, items[:2], domains=["Books"])) == GOOD[:3]


def test_domain_names_must_be_clean_since_they_stand_in_the_texts(read: Read, events: Rows, items: Rows) -> None:
    for row in events + items:
        row["domain"] = row["domain"].replace("Games", "Games\nand more")
    with pytest.raises(InputError, match=r"the domain name 'Games.nand more' is not one clean line of text"):
        read(events, items)


def test_nothing_left_is_an_error_that_gives_the_reasons(read: Read, events: Rows, items: Rows, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not one interaction can be used \(no user id: 4\)"):
        read([{**row, "user_id": ""} for row in events], items)
    with pytest.raises(InputError, match=r"not one interaction can be used \(the file has no rows\)"):
        (tmp_path / "header.csv").write_text("user_id,item_id,domain,timestamp\n")
        read(events, items, interactions=str(tmp_path / "header.csv"))


def test_of_repeated_rows_the_first_one_counts_whatever_the_engine(tmp_path: Path) -> None:
    n = 200_000
    draw = np.random.default_rng(0)
    log = pl.DataFrame({"user_id": draw.integers(0, 5_000, n), "item_id": draw.integers(0, 50, n), "rating": range(n)})
    log = log.with_columns(pl.col("rating").cast(pl.Float32), domain=pl.lit("Books"), timestamp=pl.lit(5, pl.Int64))
    catalogue = log.select("item_id", "domain", title=pl.format("title {}", pl.col("rating").cast(pl.Int64)))
    log.write_parquet(tmp_path / "log.parquet")
    catalogue.write_parquet(tmp_path / "items.parquet")
    behaviors = read_files(tmp_path / "log.parquet", tmp_path / "items.parquet")
    key = ["user_id", "item_id"]
    expected = log.unique(key, keep="first", maintain_order=True).cast({"user_id": pl.String, "item_id": pl.String})
    titles = catalogue.unique("item_id", keep="first", maintain_order=True).cast({"item_id": pl.String})
    for engine in ("streaming", "in-memory"):
        found = behaviors.interactions.collect(engine=engine)
        assert found.sort(key).select(expected.columns).equals(expected.sort(key))
        assert behaviors.items.collect(engine=engine).sort("item_id").equals(titles.sort("item_id"))
    assert steps(behaviors)["interactions: read"] == (n, len(expected), {"duplicate event": n - len(expected)})


def test_several_files_of_one_table(read: Read, events: Rows, items: Rows, write: Callable[..., Path]) -> None:
    parts = [
        str(write(events[:1], "part-1.csv")),
        str(write(events[1:3], "part-2.parquet")),
        str(write(events[2:], "part-3.jsonl")),
    ]
    behaviors = read(events, items, interactions=parts)
    assert rows(behaviors) == GOOD
    assert steps(behaviors)["interactions: read"] == (5, 4, {"duplicate event": 1})
    with pytest.raises(InputError, match=r"part-2\.parquet has no column `domain`"):
        write([{k: v for k, v in row.items() if k != "domain"} for row in events], "part-2.parquet")
        read(events, items, interactions=parts)


def test_the_amazon_logs_through_a_mapping(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPREC_SHARED_DATA", str(real_data))
    behaviors = read_source(
        {
            "kind": "table",
            "name": "Amazon, six domains",
            "licence": "research data of the McAuley lab",
            "citation": "McAuley et al., 2015; Ni et al., 2019",
            "interactions": "${CPREC_SHARED_DATA}/amazon/interactions.parquet",
            "items": "${CPREC_SHARED_DATA}/amazon/items.parquet",
            "order": "position",
            "columns": {"timestamp": "position"},
            "domains": ["Arts", "Office", "Scientific"],
        },
        "amazon.yaml",
    ).validate()
    source = pl.read_parquet(real_data / "amazon" / "interactions.parquet")
    wanted = source.filter(pl.col("domain").is_in(["Arts", "Office", "Scientific"]))
    assert steps(behaviors)["interactions: read"] == (
        928_481,
        266_045,
        {"domain not asked for": 662_436},
    )
    events = behaviors.interactions.collect().sort("domain", "user_id", "timestamp")
    expected = wanted.sort("domain", "user_id", "position")
    assert events["item_id"].equals(expected["item_id"])
    assert events["all_domain_position"].equals(expected["all_domain_position"].cast(pl.Int64))
    per_domain = events.group_by("domain").agg(users=pl.col("user_id").n_unique(), n=pl.len()).sort("domain").rows()
    assert per_domain == [("Arts", 9_577, 110_016), ("Office", 9_577, 96_645), ("Scientific", 8_442, 59_384)]
    scientific = behaviors.items.filter(pl.col("domain") == "Scientific").collect()
    assert scientific.height == 4_385
    assert not scientific["title"].str.contains("&[a-z]+;|\n").any()
