"""The files of a corpus: shards in order, bytes that follow from the rows alone."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus import files
from cprec_hf.corpus.files import SplitWriter, config_files, count_rows, iter_rows, split_files, split_of

SCHEMA = pa.schema([("n", pa.int64())])


def _write(folder: Path, portions: list[int], split: str = "train") -> None:
    folder.mkdir(parents=True)
    writer, first = SplitWriter(folder, split, SCHEMA), 0
    for n in portions:
        writer.write(pa.table({"n": pa.array(range(first, first + n), pa.int64())}))
        first += n
    assert writer.rows == first
    writer.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROW_GROUP", 4)
    monkeypatch.setattr(files, "SHARD_ROWS", 8)


@pytest.mark.usefixtures("small")
def test_shards_are_named_as_on_the_hub_and_hold_the_rows_in_order(tmp_path: Path) -> None:
    _write(tmp_path / "cpt", [3, 0, 7, 9, 1])
    assert [path.name for path in split_files(tmp_path, "cpt")["train"]] == [
        f"train-{shard:05d}-of-00003.parquet" for shard in range(3)
    ]
    assert [path.name for path in (tmp_path / "cpt").iterdir() if path.suffix != ".parquet"] == []
    paths = split_files(tmp_path, "cpt")["train"]
    assert [pq.read_metadata(path).num_rows for path in paths] == [8, 8, 4]
    groups = [
        pq.read_metadata(path).row_group(g).num_rows for path in paths for g in range(-(-count_rows([path]) // 4))
    ]
    assert groups == [4] * 5 and count_rows(paths) == 20
    assert [n for batch in iter_rows(paths, 3) for n in batch["n"].to_pylist()] == list(range(20))


@pytest.mark.usefixtures("small")
@given(st.lists(st.integers(0, 9), max_size=6), st.lists(st.integers(0, 9), max_size=6))
@settings(max_examples=25)
def test_bytes_depend_on_the_rows_and_not_on_the_portions(
    tmp_path_factory: pytest.TempPathFactory, one: list[int], other: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("portions")
    other = [*other, max(sum(one) - sum(other), 0)]
    one = [*one, max(sum(other) - sum(one), 0)]
    _write(folder / "one" / "cpt", one)
    _write(folder / "other" / "cpt", other)
    found = [{p.name: p.read_bytes() for p in (folder / name / "cpt").iterdir()} for name in ("one", "other")]
    assert found[0] == found[1]
    assert (found[0] == {}) == (sum(one) == 0)


def test_splits_come_in_the_order_they_are_read_in_and_configs_by_name(tmp_path: Path) -> None:
    for split in ("test", "train", "validation", "train_1pct"):
        _write(tmp_path / split, [1], split)
        (tmp_path / "sft-music").mkdir(exist_ok=True)
        (tmp_path / split / f"{split}.parquet").rename(tmp_path / "sft-music" / f"{split}.parquet")
        (tmp_path / split).rmdir()
    _write(tmp_path / "cpt", [2])
    assert {config: list(splits) for config, splits in config_files(tmp_path).items()} == {
        "cpt": ["train"], "sft-music": ["train", "validation", "test", "train_1pct"]
    }  # fmt: skip
    assert split_of(Path("a/train-00001-of-00002.parquet")) == "train"
    assert split_of(Path("a/train-1.parquet")) == "train-1"
