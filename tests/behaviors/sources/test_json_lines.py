"""JSON Lines in blocks: the rows are those of `json.loads` a line, wherever the blocks end and the file does."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors.sources import json_lines
from cprec_hf.behaviors.sources.files import Table, said_plainly
from cprec_hf.behaviors.sources.json_lines import DAMAGED, TRUNCATED, keys_of, scan_json_lines
from cprec_hf.errors import InputError

BOM = b"\xef\xbb\xbf"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXT | st.none(), max_size=3), max_size=12)


def written(folder: Path, content: bytes, name: str = "a.jsonl.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@settings(max_examples=40)
@given(
    rows=ROWS, size=st.integers(1, 40), marked=st.booleans(), ended=st.booleans(),
    name=st.sampled_from(["a.jsonl.gz", "a.ndjson", "a.json"]),
)  # fmt: skip
def test_rows_are_those_of_a_loop_over_lines(
    rows: list[dict[str, Any]], size: int, marked: bool, ended: bool, name: str, tmp_path: Path
) -> None:
    lines = [json.dumps(row, ensure_ascii=size % 2 == 0) for row in rows]
    content = (BOM if marked else b"") + "\n".join(lines).encode() + (b"\n\n" if ended and lines else b"")
    path = written(tmp_path, content, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "BLOCK_BYTES", size)
        found = scan_json_lines(path, ["b", "a"]).collect(engine="streaming")
        first = scan_json_lines(path, ["b", "a"]).head(3).select("a").collect(engine="streaming")
        count = scan_json_lines(path, ["a"]).select(pl.len()).collect(engine="streaming").item()
        keys = keys_of(path)
    assert found.rows() == [(row.get("b"), row.get("a"), None) for row in rows]
    assert found.columns == ["b", "a", DAMAGED]
    assert first["a"].to_list() == [row.get("a") for row in rows[:3]]
    assert count == len(rows)
    assert set(keys) == {key for row in rows for key in row}


@given(cut=st.integers(1, 60), name=st.sampled_from(["a.jsonl.gz", "a.jsonl"]), literal=st.booleans())
def test_a_last_line_that_was_cut_off_is_a_row_that_says_so(cut: int, name: str, literal: bool, tmp_path: Path) -> None:
    row = {"a": "café 好", "b": "x" * 30}
    line = (repr(row) if literal else json.dumps(row, ensure_ascii=False)).encode()
    content = line + b"\n" + line[: min(cut, len(line) - 1)]
    found = scan_json_lines(written(tmp_path, content, name), ["a"]).collect(engine="streaming")
    assert found.rows() == [("café 好", None), (None, TRUNCATED)]


def test_a_filter_and_a_selection_see_the_same_rows(tmp_path: Path) -> None:
    path = written(tmp_path, b"".join(b'{"a": "%d", "b": "x"}\n' % i for i in range(50)) + b'{"a": "1')
    table = Table((path,), {"item_id": "a"})
    found = table.scan().filter(pl.col("item_id") >= "48").collect()["item_id"].to_list()
    assert found == [text for text in map(str, range(50)) if text >= "48"]
    assert table.scan(damaged=True).filter(pl.col(DAMAGED).is_not_null()).collect().rows() == [(None, TRUNCATED)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n{"a": 2}\n', "line 2: not JSON: b'"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n{"a": 2}\n', "line 2: bytes that are not UTF-8 near"),
        (b"{'a': 1}\n{'a': open('x')}\n{'a': 2}\n", "line 2: not JSON: b.{'a': open"),
        (BOM + b"[1]\n", "line 1: not a JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_bad_line_inside_is_an_error_that_names_it(content: bytes, message: str, name: str, tmp_path: Path) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(InputError, match=f"{name}, {message}"), said_plainly(path):
        Table((path,), {"item_id": "a"}).scan().collect(engine="streaming")


@pytest.mark.parametrize("threads", [1, 2])
def test_gzip_that_was_cut_off_or_damaged_is_an_error(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl, "thread_pool_size", lambda: threads)
    path = written(tmp_path, b'{"a": "1"}\n' * 1000)
    whole = path.read_bytes()
    for content, message in [
        (whole[:-9], r"after line \d*,?\d+: the gzip stream ends before its end mark"),
        (whole[: len(whole) // 2], "after line .*: the gzip stream ends before its end mark"),
        (whole[:20] + bytes(20) + whole[40:], "after line .*: "),
        (b"not gzip at all", "after line 0: "),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"a.jsonl.gz, {message}"), said_plainly(path):
            Table((path,), {"item_id": "a"}).scan().collect(engine="streaming")


def test_only_a_block_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", 1 << 12)
    path = written(tmp_path, b'{"a": "1"}\n' * 20_000)
    sizes = [frame.height for frame in scan_json_lines(path, ["a"]).collect_batches(chunk_size=500)]
    assert sum(sizes) == 20_000 and max(sizes) <= 500
    blocks = [len(block) for block, _ in json_lines._blocks(path)]
    assert sum(blocks) == 20_000 * 11 and max(blocks) <= (1 << 12) + 11
