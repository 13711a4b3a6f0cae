"""Histories read from every kind of file are the rows that were written, shard by shard, and bad ones are named."""

import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.behaviors.sources.histories import Histories
from cprec_hf.errors import InputError

ROWS = [("u1", ["a", "007"]), ("u2", []), ("ü 3", ["é"]), ("u1", ["a", "a", "b"]), ("5", ["x" * 50])]


def write(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    """The rows, in the kind of file that the path ends in; lists in CSV with blanks, in TSV as JSON."""
    if path.suffix == ".parquet":
        schema = pa.schema({"user_id": pa.string(), "history": pa.list_(pa.string())})
        pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema), path)
    elif ".jsonl" in path.name:
        text = "".join(json.dumps({"user_id": user, "history": items}) + "\n" for user, items in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(["user_id", "history"])
            writer.writerows([u, json.dumps(h) if path.suffix == ".tsv" else " ".join(h)] for u, h in rows)
    return path


def read(found: Histories, size: int = 100, wanted: Any = range(100)) -> list[tuple[Any, Any]]:
    tables = [table for _, table in found.shards(size, wanted)]
    return [(row["user_id"], row["history"]) for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "csv", "tsv"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"h.{kind}", ROWS)
    found = Histories.find(str(path), {}, "x")
    assert found.count() == len(ROWS) and read(found) == ROWS
    assert found.sha256() == [hashlib.sha256(path.read_bytes()).hexdigest()]


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=3),
    size=st.integers(1, 9),
    wanted=st.sets(st.integers(0, 9)),
)
def test_a_shard_is_its_slice_of_the_rows(
    sizes: list[int], size: int, wanted: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows = [(f"u{i}", [f"i{j}" for j in range(i % 4)]) for i in range(sum(sizes))]
    kinds, begin = ("parquet", "csv", "jsonl"), 0
    for i, n in enumerate(sizes):
        write(folder / f"{i}.{kinds[i] if n else 'csv'}", rows[begin : begin + n])
        begin += n
    found = Histories.find(str(folder / "*"), {}, "x")
    assert found.count() == len(rows)
    shards = {number: [(r["user_id"], r["history"]) for r in t.to_pylist()] for number, t in found.shards(size, wanted)}
    assert shards == {n: rows[n * size : (n + 1) * size] for n in sorted(wanted) if n * size < len(rows)}
    assert list(shards) == sorted(shards)


def test_what_is_missing_and_what_is_empty(tmp_path: Path) -> None:
    lines = '{"user_id": 7, "history": [7, null, "b"]}\n{"user_id": null, "history": []}\n{"user_id": "u"}\n'
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.csv").write_text('user_id,history\n,a\nu,\nv,""\nw,  a   b \nx,"[""a b""]"\n')
    found = Histories.find([str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv")], {}, "x")
    json_rows = [("7", ["7", None, "b"]), (None, []), ("u", None)]
    assert read(found) == [*json_rows, (None, ["a"]), ("u", []), ("v", []), ("w", ["a", "b"]), ("x", ["a b"])]


def test_other_names_and_types_of_columns(tmp_path: Path) -> None:
    pl.DataFrame({"who": [1, 2], "took": [[3, 4], None], "history": [1.5, 2.5]}).write_parquet(tmp_path / "a.parquet")
    names = {"user_id": "who", "history": "took"}
    assert read(Histories.find(str(tmp_path / "a.parquet"), names, "x")) == [("1", ["3", "4"]), ("2", None)]
    for columns, said in (
        ({"user_id": "who", "history": "history"}, "`history` holds Float64; a history is a list of item ids"),
        ({"user_id": "took", "history": "took"}, "`took` holds List.Int64., which are no ids"),
        ({}, "no column `user_id`"),
        ({"user": "who"}, "unknown key `user`; did you mean `user_id`"),
    ):
        with pytest.raises(InputError, match=said):
            Histories.find(str(tmp_path / "a.parquet"), columns, "x")


def test_what_cannot_be_read_is_named_when_it_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,history\nu1,a b\nu2,\"['a', 'b']\"\n")
    with pytest.raises(InputError, match=r"a\.csv, row 2: history is \"\['a', 'b'\]\", which is no JSON array"):
        Histories.find(str(tmp_path / "a.csv"), {}, "x").count()
    (tmp_path / "b.csv").write_text("user_id,history\nu1,a,b\n")
    with pytest.raises(InputError, match=r"b\.csv, line 2: 3 fields under a header of 2"):
        Histories.find(str(tmp_path / "b.csv"), {}, "x").count()
    whole = write(tmp_path / "c.parquet", ROWS).read_bytes()
    (tmp_path / "c.parquet").write_bytes(whole[:-10])
    with pytest.raises(InputError, match=r"c\.parquet: cannot be read"):
        Histories.find(str(tmp_path / "c.parquet"), {}, "x")
