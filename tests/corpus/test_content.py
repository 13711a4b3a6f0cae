"""The content hash sees every value and nothing else."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.content import candidates_sha256, content_sha256, rows_sha256

ROWS = {
    "text": ["a", "", "ccc", None, "ü"],
    "ids": [["x", "y"], [], ["z"], ["", "q"], ["x"]],
    "n": [1, 2, None, 4, -5],
}
TABLE = pa.table(ROWS, schema=pa.schema([("text", pa.string()), ("ids", pa.list_(pa.string())), ("n", pa.int32())]))


def _hash(table: pa.Table, path: Path, **how: object) -> str:
    pq.write_table(table, path, **how)
    return rows_sha256([path])


def test_chunks_compression_and_width_of_types_leave_no_trace(tmp_path: Path) -> None:
    plain = _hash(TABLE, tmp_path / "plain.parquet")
    assert _hash(TABLE, tmp_path / "chunks.parquet", row_group_size=2, compression="gzip") == plain
    pl.DataFrame(pl.from_arrow(TABLE)).write_parquet(tmp_path / "polars.parquet")
    assert rows_sha256([tmp_path / "polars.parquet"]) == plain


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("text", 0, "b"), ("text", 1, None), ("text", 3, ""), ("ids", 0, ["y", "x"]), ("ids", 0, ["xy"]),
        ("ids", 0, ["x", "y", ""]), ("ids", 1, [""]), ("n", 0, 0), ("n", 2, 0),
    ],
)  # fmt: skip
def test_any_other_value_gives_another_hash(tmp_path: Path, column: str, row: int, value: object) -> None:
    values = list(ROWS[column])
    values[row] = value
    changed = TABLE.set_column(
        TABLE.schema.names.index(column), column, pa.array(values, TABLE.schema.field(column).type)
    )
    assert _hash(changed, tmp_path / "a.parquet") != _hash(TABLE, tmp_path / "b.parquet")


def test_the_order_of_rows_and_the_border_between_rows_count(tmp_path: Path) -> None:
    whole = _hash(TABLE, tmp_path / "a.parquet")
    assert _hash(TABLE.take([1, 0, 2, 3, 4]), tmp_path / "b.parquet") != whole
    joined = [["x", "y", "z"], [], [], ["", "q"], ["x"]]
    assert _hash(TABLE.set_column(1, "ids", pa.array(joined)), tmp_path / "c.parquet") != whole


def test_a_folder_s_hash_depends_on_where_its_rows_stand(tmp_path: Path) -> None:
    for folder, config in (("one", "cpt"), ("other", "items")):
        (tmp_path / folder / config).mkdir(parents=True)
        pq.write_table(TABLE, tmp_path / folder / config / "train.parquet")
    assert content_sha256(tmp_path / "one") != content_sha256(tmp_path / "other")
    (tmp_path / "one" / "README.md").write_text("not content")
    before = content_sha256(tmp_path / "one")
    (tmp_path / "one" / "README.md").unlink()
    assert content_sha256(tmp_path / "one") == before


def test_the_candidates_hash_ignores_training_rows(corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sft-music"
    folder.mkdir()
    for split in ("validation", "test"):
        pl.read_parquet(corpus / "sft-music" / f"{split}.parquet").write_parquet(folder / f"{split}.parquet")
    assert candidates_sha256(tmp_path) == candidates_sha256(corpus)
    pl.read_parquet(folder / "test.parquet").reverse().write_parquet(folder / "test.parquet")
    assert candidates_sha256(tmp_path) != candidates_sha256(corpus)
