import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from huggingface_hub import HfApi

from cprec_hf.behaviors.sources.files import Table, columns_of, find_files, said_plainly
from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub

ROWS = [{"id": "007", "when": "5", "what": 'a, "b"'}, {"id": "x", "when": "6", "what": "c"}]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "ndjson", "csv.gz", "jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, write: Callable[..., Path]) -> None:
    path = write(ROWS, f"table.{kind}")
    assert columns_of(path) == ["id", "when", "what"]
    table = Table((path,), {"item_id": "id", "timestamp": "when"}, {"domain": "Books"})
    plain = [{"item_id": row["id"], "timestamp": row["when"], "domain": "Books"} for row in ROWS]
    assert table.scan().collect().to_dicts() == plain
    whole = [{**row, "what": raw["what"]} for row, raw in zip(plain, ROWS, strict=True)]
    assert table.scan(attributes=True).collect().to_dicts() == whole


def test_text_files_keep_ids_as_they_are_spelled(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n\n007,1\n1e3,2\n true,3\n")
    (tmp_path / "a.jsonl").write_text(
        '{"id": "007", "n": 1}\n{"id": 7, "n": 2.5}\n\n{"id": {"a": [1]}, "n": "x"}\n{}\n'
    )
    ids = {
        kind: Table((tmp_path / f"a.{kind}",), {"id": "id"}).scan().collect()["id"].to_list()
        for kind in ("csv", "jsonl")
    }
    assert ids == {"csv": ["007", "1e3", " true"], "jsonl": ["007", "7", '{"a": [1]}', None]}


def test_files_of_one_table_may_order_their_columns_differently(write: Callable[..., Path]) -> None:
    first = write([{"id": "a", "title": "A", "brand": "x"}], "1.csv")
    second = write([{"title": "B", "id": "b", "size": 3}], "2.parquet")
    rows = Table((first, second), {"item_id": "id", "title": "title"}).scan(attributes=True).collect().to_dicts()
    assert rows == [
        {"item_id": "a", "title": "A", "brand": "x", "size": None},
        {"item_id": "b", "title": "B", "brand": None, "size": 3},
    ]


def test_the_first_wrong_row_is_named_with_its_file_and_value(write: Callable[..., Path]) -> None:
    paths = (write(ROWS, "1.csv"), write([*ROWS, {"id": "y", "when": "99", "what": ""}], "2.csv"))
    table = Table(paths, {"timestamp": "when"})
    assert table.first(pl.col("timestamp") == "99", "timestamp") == f"{paths[1]}, row 3: when is '99'"


def test_paths_globs_lists_and_variables(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(ROWS, f"part-{i}.csv") for i in (2, 1, 3)]
    (tmp_path / "part-4.csv").mkdir()
    monkeypatch.setenv("CPREC_TEST_FOLDER", str(tmp_path))
    assert find_files(str(tmp_path / "part-*.csv"), "r.yaml") == tuple(sorted(paths))
    assert find_files("${CPREC_TEST_FOLDER}/part-1.csv", "r.yaml") == (tmp_path / "part-1.csv",)
    assert find_files([str(paths[0]), str(paths[1])], "r.yaml") == tuple(paths[:2])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    assert find_files("part-1.csv", "r.yaml") == (Path("part-1.csv"),)
    monkeypatch.chdir(tmp_path / "inner")
    assert [path.name for path in find_files("../part-*.csv", "r.yaml")] == ["part-1.csv", "part-2.csv", "part-3.csv"]


def test_what_cannot_be_found_is_said(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CPREC_TEST_FOLDER", raising=False)
    cases = {
        str(tmp_path / "none.csv"): "r.yaml: no file .*none.csv",
        str(tmp_path / "*.csv"): "r.yaml: no file",
        str(tmp_path): "it is a folder: name its files, e.g. .*/\\*.parquet",
        "${CPREC_TEST_FOLDER}/a.csv": "the environment variable CPREC_TEST_FOLDER in .* is not set",
        str(
            write(ROWS, "table.csv").rename(tmp_path / "table.xlsx")
        ): "of no kind that is read here; they end in .parquet",
        "hf://spaces/a/b": "not of the form hf://datasets/USER/NAME/FILE",
    }
    for given, message in cases.items():
        with pytest.raises(InputError, match=message):
            find_files(given, "r.yaml")
    with pytest.raises(InputError, match="the list of files is empty"):
        find_files([], "r.yaml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": "a"}\n\n{"id": "caf\xe9"}\n', r"a\.jsonl, line 3: bytes that are not UTF-8 near .*caf"),
        ("a.jsonl", b'{"id": "a"}\nnot json\n', r"a\.jsonl, line 2: not JSON: b'not json"),
        ("a.jsonl", b'[{"id": "a"}]\n', r"a\.jsonl, line 1: not a JSON object"),
        ("a.jsonl.gz", gzip.compress(b'{"id": "a"}\n{"id": \n', mtime=0), r"a\.jsonl\.gz, line 2: not JSON"),
        ("a.csv", b"id,n\na,1\nb,2,3\n", r"a\.csv, line 3: 3 fields under a header of 2"),
        ("a.csv", b"", r"a\.csv, line 1: the file is empty"),
        ("a.parquet", b"PAR1 no PAR1", r"a\.parquet: cannot be read"),
    ],
)
def test_an_unreadable_file_is_named_with_its_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message), said_plainly(path):
        columns_of(path)
        table = Table((path,), {"id": "id"})
        pl.collect_all([table.scan(), *table.whole()])


def test_a_repo_of_the_hub_is_read_at_its_revision(write: Callable[..., Path], tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        repo = f"{hub.user}/logs"
        api.create_repo(repo, repo_type="dataset")
        first = api.upload_file(
            path_or_fileobj=write(ROWS[:1], "1.csv"), path_in_repo="data/1.csv", repo_id=repo, repo_type="dataset"
        )
        api.upload_file(
            path_or_fileobj=write(ROWS, "2.csv"), path_in_repo="data/2.csv", repo_id=repo, repo_type="dataset"
        )
        code = (
            "import sys; from cprec_hf.behaviors.sources.files import Table, find_files\n"
            "for path in sys.argv[1:]:\n"
            "    files = find_files(path, 'r.yaml')\n"
            "    rows = Table(files, {'item_id': 'id'}).scan().collect()\n"
            "    print(*[f.name for f in files], rows['item_id'].to_list())\n"
        )
        paths = [f"hf://datasets/{repo}/data/*.csv", f"hf://datasets/{repo}@{first.oid}/data/*.csv"]
        environment: dict[str, Any] = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home")}
        run = subprocess.run([sys.executable, "-c", code, *paths], env=environment, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["1.csv 2.csv ['007', '007', 'x']", "1.csv ['007']"], run.stderr


RANGES = """
import json, sys
from huggingface_hub.hf_file_system import HfFileSystemFile
from cprec_hf.behaviors.sources.files import Table, find_files
import polars as pl

fetched = []
fetch = HfFileSystemFile._fetch_range
def counted(self, start, end):
    fetched.append(end - start)
    return fetch(self, start, end)
HfFileSystemFile._fetch_range = counted

files = find_files(sys.argv[1], "r.yaml")
table = Table(files, {"item_id": "id"})
found = [str(file) for file in files]
rows = table.scan().collect(engine="streaming")["item_id"].to_list()
one = sum(fetched)
first = table.scan().head(3).collect(engine="streaming")["item_id"].to_list()
few = sum(fetched) - one
counted_rows = table.scan(damaged=True).select(pl.len()).collect(engine="streaming").item()
whole = table.scan(attributes=True).filter(pl.col("item_id") == 9_500).collect(engine="streaming")
print(json.dumps([found, rows, first, counted_rows, one, few, whole.columns, whole["blob"][0]]))
"""


def test_parquet_of_the_hub_is_read_by_ranges_of_the_columns_that_are_needed(hub_machine: Any, tmp_path: Path) -> None:
    (tmp_path / "repo" / "data").mkdir(parents=True)
    for part in range(2):
        ids = pl.Series("id", range(part * 8_000, part * 8_000 + 8_000))
        blobs = pl.Series("blob", [os.urandom(200).hex() for _ in ids])
        pl.DataFrame([ids, blobs]).write_parquet(tmp_path / f"repo/data/{part}.parquet", row_group_size=2_000)
    expected = pl.read_parquet(tmp_path / "repo/data/1.parquet").filter(pl.col("id") == 9_500)["blob"][0]
    repo, commit = hub_machine.push(tmp_path / "repo", "logs", "dataset")
    found, rows, first, n, one, few, columns, blob = hub_machine.run(
        RANGES, f"hf://datasets/{repo}@main/data/*.parquet"
    )
    assert found == [f"hf://datasets/{repo}@{commit}/data/{part}.parquet" for part in range(2)]
    assert rows == list(range(16_000)) and first == [0, 1, 2] and n == 16_000
    assert columns == ["item_id", "blob"] and blob == expected
    size = sum(path.stat().st_size for path in (tmp_path / "repo/data").iterdir())
    assert size > 3_000_000 and one < size / 10, "the other column stayed where it is"
    assert few < one / 2, "and so did the row groups after the first rows"
    assert not list(hub_machine.home.rglob("*.parquet"))
