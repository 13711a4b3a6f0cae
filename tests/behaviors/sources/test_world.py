"""The small world of the other readers, in your own files and in RecBole's."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cprec_hf.behaviors import read_source

ABOUT = {"licence": "none", "citation": "none", "domain": "Movies"}
ITEMS_READ = {"no title": 1, "same item twice": 1}
DIRT = {"item without a usable title": 1, "item not in the catalogue": 1, "duplicate event": 1}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the kind of file the name says: text with a byte order mark, JSON with its last line cut off."""
    frame = pl.DataFrame(rows)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
        return
    text = frame.write_csv(separator="\t" if ".tsv" in path.name else ",")
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows) + json.dumps(rows[0])[:-9]
    content = b"\xef\xbb\xbf" + text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "csv.gz", "jsonl.gz"])
def test_your_own_files_are_the_same_world(kind, tmp_path, world):
    events = [{"who": u, "what": i, "rating": r, "at": t * 1000 + 7} for u, i, t, r in world.events]
    items = [
        {"what": i, "name": world.titles[i], "category": ", ".join(world.genres[i]) or None}
        for i in [*world.titles, "2"]
    ]
    write(tmp_path / f"events.{kind}", events)
    write(tmp_path / f"items.{kind}", items)
    columns = {"user_id": "who", "item_id": "what", "timestamp": "at", "title": "name"}
    files = {"interactions": str(tmp_path / f"events.{kind}"), "items": str(tmp_path / f"items.{kind}")}
    source = {"kind": "table", "name": "mine", **ABOUT, **files, "columns": columns, "timestamp_unit": "ms"}
    behaviors = read_source(source, "r.yaml")
    world.check(behaviors, "Movies", ratings=True, categories=", ")
    cut = {"truncated last line": 1} if "jsonl" in kind else {}
    assert [step.refused for step in behaviors.account.steps] == [ITEMS_READ | cut, DIRT | cut]


def test_atomic_files_are_the_same_world(tmp_path, world):
    rows = [f"{u}\t{i}\t{r}\t{t}" for u, i, t, r in world.events]
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    (tmp_path / "w.inter").write_text("\n".join([header, *rows, "20\t3\t5"]))
    lines = [f"{i}\t{world.titles[i]}\t{' '.join(world.genres[i])}" for i in [*world.titles, "2"]]
    header = "item_id:token\tmovie_title:token_seq\tcategory:token_seq"
    (tmp_path / "w.item").write_text("\ufeff" + "\n".join([header, *lines]), encoding="utf-8")
    behaviors = read_source({"kind": "recbole", "folder": str(tmp_path), **ABOUT}, "r.yaml")
    world.check(behaviors, "Movies", ratings=True, categories=" ")
    assert [step.refused for step in behaviors.account.steps] == [ITEMS_READ, DIRT | {"no timestamp": 1}]
