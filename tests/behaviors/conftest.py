"""Small tables of our own, written in every kind of file, and where the real data lies."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cprec_hf.behaviors import About, Account, Behaviors

EVENTS = [
    {"user_id": "u1", "item_id": "007", "domain": "Books", "timestamp": 1_600_000_000, "rating": 5.0},
    {"user_id": "u1", "item_id": "b", "domain": "Books", "timestamp": 1_600_000_100, "rating": None},
    {"user_id": "u2", "item_id": "b", "domain": "Books", "timestamp": 1_600_000_200, "rating": 3.5},
    {"user_id": "u2", "item_id": "007", "domain": "Games", "timestamp": 1_600_000_300, "rating": 1.0},
]
ITEMS = [
    {"item_id": "007", "domain": "Books", "title": "Dune", "brand": "Ace"},
    {"item_id": "b", "domain": "Books", "title": "Emma &amp; co", "brand": None},
    {"item_id": "007", "domain": "Games", "title": "Go", "brand": "Stone"},
]


@pytest.fixture(scope="session")
def real_data(shared: Path) -> Path:
    """The folder of real data."""
    return shared / "data"


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """Four events of two users in two domains, fresh for each test to change."""
    return [dict(row) for row in EVENTS]


@pytest.fixture
def items() -> list[dict[str, Any]]:
    """The three items of those events, with one attribute."""
    return [dict(row) for row in ITEMS]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(rows, name)`: rows in a file whose kind its name says."""

    def write_rows(rows: list[dict[str, Any]], name: str) -> Path:
        path = tmp_path / name
        frame = pl.DataFrame(rows, infer_schema_length=None)
        text = {"csv": frame.write_csv, "tsv": lambda: frame.write_csv(separator="\t")}
        if name.endswith(".parquet"):
            frame.write_parquet(path)
            return path
        kind = name.removesuffix(".gz").rpartition(".")[2]
        content = text[kind]() if kind in text else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return path

    return write_rows


@pytest.fixture
def behaviors_of() -> Callable[..., Behaviors]:
    """`behaviors_of(events, items, order=...)`: rows as `Behaviors`, types given, nothing checked."""

    def make(events: list[dict[str, Any]], items: list[dict[str, Any]], *, order: Any = "time") -> Behaviors:
        return Behaviors(
            pl.LazyFrame(events, schema_overrides={"rating": pl.Float32}),
            pl.LazyFrame(items),
            About("toy", "CC0-1.0", "nobody", order),
            Account(),
        )

    return make
