import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from cprec_hf.behaviors import Behaviors
from cprec_hf.errors import InputError

Rows = list[dict[str, Any]]


@pytest.fixture
def clean_items(items: Rows) -> Rows:
    items[1]["title"] = "Emma & co"
    return items


def test_valid_behaviors_validate_to_themselves(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors]
) -> None:
    valid = behaviors_of(events, clean_items)
    assert valid.validate() is valid


BROKEN: list[tuple[str, int, dict[str, Any], str]] = [
    ("events", 1, {"user_id": None}, "1 interactions without a user_id"),
    ("events", 1, {"timestamp": None}, "1 interactions without a user_id, item_id, domain or timestamp"),
    ("events", 1, {"timestamp": -1}, "1 interactions with a negative timestamp"),
    ("events", 1, {"timestamp": 1_600_000_000_000}, "1 interactions whose timestamp is not in seconds"),
    ("events", 1, {"item_id": "nowhere"}, "1 interactions whose item is not in the catalogue.*nowhere"),
    ("events", 1, {"domain": "Films"}, "1 domains with interactions but without items.*Films"),
    (
        "events",
        1,
        {"item_id": "007", "timestamp": 1_600_000_000},
        "1 interactions that stand in the log more than once",
    ),
    ("items", 1, {"title": ""}, "1 items whose title is missing or not cleaned"),
    ("items", 1, {"title": None}, "1 items whose title is missing or not cleaned"),
    ("items", 1, {"title": "two\nlines"}, "1 items whose title is missing or not cleaned.*two"),
    ("items", 1, {"item_id": "007"}, "1 items that stand in the catalogue more than once.*007"),
    ("items", 1, {"item_id": ""}, "1 items without an item_id or a domain"),
    ("items", 2, {"domain": "Games\n"}, "1 domain names that are not one clean line"),
]


@pytest.mark.parametrize(("table", "row", "change", "message"), BROKEN)
def test_each_broken_rule_is_named_with_its_row(
    table: str,
    row: int,
    change: dict[str, Any],
    message: str,
    events: Rows,
    clean_items: Rows,
    behaviors_of: Callable[..., Behaviors],
) -> None:
    (events if table == "events" else clean_items)[row].update(change)
    with pytest.raises(InputError, match=f"toy: {message}"):
        behaviors_of(events, clean_items).validate()


def test_domains_without_items_are_counted_as_domains(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors]
) -> None:
    more = [{**row, "user_id": f"v{i}", "domain": "Films"} for i in range(3) for row in events[:1]]
    with pytest.raises(InputError, match="toy: 1 domains with interactions but without items"):
        behaviors_of(events + more, clean_items).validate()


def test_positions_are_not_held_to_be_times(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors]
) -> None:
    events[1]["timestamp"] = 1_600_000_000_000
    behaviors_of(events, clean_items, order="position").validate()


def test_columns_and_their_types_are_checked(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors]
) -> None:
    behaviors = behaviors_of(events, clean_items)
    wrong = behaviors.interactions.with_columns(pl.col("timestamp").cast(pl.Float64))
    with pytest.raises(InputError, match="column `timestamp` of interactions is Float64; expected Int64"):
        Behaviors(wrong, behaviors.items, behaviors.about, behaviors.account).validate()
    with pytest.raises(InputError, match="column `title` of items is not among item_id, domain, brand"):
        Behaviors(behaviors.interactions, behaviors.items.drop("title"), behaviors.about, behaviors.account).validate()
    negative = behaviors.interactions.with_columns(all_domain_position=pl.lit(-1, pl.Int64))
    with pytest.raises(InputError, match="4 interactions with a negative all_domain_position"):
        Behaviors(negative, behaviors.items, behaviors.about, behaviors.account).validate()


def test_saved_behaviors_load_again_sorted_by_key(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors], tmp_path: Path
) -> None:
    behaviors = behaviors_of(events[::-1], clean_items)
    behaviors.account.add("read", 4, 4)
    loaded = Behaviors.load(behaviors.save(tmp_path / "toy"))
    assert loaded.about == behaviors.about and loaded.account == behaviors.account
    key = ["domain", "user_id", "timestamp", "item_id"]
    assert_frame_equal(loaded.interactions.collect(), behaviors.interactions.sort(key).collect())
    assert_frame_equal(loaded.items.collect(), behaviors.items.sort("domain", "item_id").collect())
    again = Behaviors.load(behaviors_of(events, clean_items).save(tmp_path / "again"))
    assert (tmp_path / "again/interactions.parquet").read_bytes() == (
        tmp_path / "toy/interactions.parquet"
    ).read_bytes(), "the order rows came in must not show in the file"
    again.save(tmp_path / "again", overwrite=True)
    assert_frame_equal(Behaviors.load(tmp_path / "again").items.collect(), loaded.items.collect())


def test_nothing_is_overwritten_or_left_half_written(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors], tmp_path: Path
) -> None:
    behaviors_of(events, clean_items).save(tmp_path / "toy")
    before = (tmp_path / "toy" / "interactions.parquet").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        behaviors_of(events, clean_items).save(tmp_path / "toy")
    failing = behaviors_of(events, clean_items)
    bad = failing.items.with_columns(price=pl.col("title").cast(pl.Int64))
    with pytest.raises(pl.exceptions.PolarsError):
        Behaviors(failing.interactions, bad, failing.about, failing.account).save(tmp_path / "toy", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert (tmp_path / "toy" / "interactions.parquet").read_bytes() == before


def test_a_folder_that_is_no_saved_behaviors_is_an_input_error(
    events: Rows, clean_items: Rows, behaviors_of: Callable[..., Behaviors], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no about\.json in this folder"):
        Behaviors.load(tmp_path)
    folder = behaviors_of(events, clean_items).save(tmp_path / "toy")
    (folder / "about.json").write_text(json.dumps({"about": {"name": "x"}, "account": []}))
    with pytest.raises(InputError, match=r"about\.json: not written by Behaviors\.save"):
        Behaviors.load(folder)
