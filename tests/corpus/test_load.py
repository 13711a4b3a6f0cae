"""A corpus folder is read back config by config, with its facts and the tokenizer they name."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.load import corpus_tokenizer, load_corpus, load_facts
from cprec_hf.errors import InputError

FACTS = {"format": 1, "name": "toy", "tokenizer": "tokenizer", "counts": {"cpt": {"train": 2}, "items": {"train": 1}}}


@pytest.fixture
def corpus(tmp_path: Path, byte_level_tokenizer: Any) -> Path:
    folder = tmp_path / "toy"
    for config, split, texts in [
        ("cpt", "train", ["a\n", "b\n"]),
        ("cpt", "validation", ["c\n"]),
        ("items", "train", ["x\n"]),
    ]:
        (folder / config).mkdir(parents=True, exist_ok=True)
        table = pa.table({"text": texts, "item_ids": pa.array([[t[0]] for t in texts], pa.list_(pa.string()))})
        pq.write_table(table, folder / config / f"{split}.parquet")
    (folder / "cprec-corpus.json").write_text(json.dumps(FACTS))
    byte_level_tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def test_configs_and_splits(corpus: Path) -> None:
    cpt = load_corpus(corpus, "cpt")
    assert {split: rows["text"][:] for split, rows in cpt.items()} == {"train": ["a\n", "b\n"], "validation": ["c\n"]}
    assert cpt["train"]["item_ids"][:] == [["a"], ["b"]]
    assert list(load_corpus(str(corpus), "items")) == ["train"]
    assert load_facts(corpus) == FACTS


def test_a_rebuilt_corpus_is_not_read_from_an_old_cache(corpus: Path) -> None:
    load_corpus(corpus, "items")
    pq.write_table(pa.table({"text": ["new\n"]}), corpus / "items" / "train.parquet")
    assert load_corpus(corpus, "items")["train"]["text"][:] == ["new\n"]


def test_unknown_config_and_no_corpus(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no config 'sft-lamps'; it has cpt, items"):
        load_corpus(corpus, "sft-lamps")
    with pytest.raises(InputError, match=r"cprec-corpus\.json"):
        load_corpus(tmp_path, "cpt")
    (corpus / "cprec-corpus.json").write_text('{"format": 9}')
    with pytest.raises(InputError, match="format 9"):
        load_facts(corpus)


def test_tokenizer_of_the_corpus_or_by_name(corpus: Path, tmp_path: Path, byte_level_tokenizer: Any) -> None:
    ids = byte_level_tokenizer("red lamp!\n")["input_ids"]
    assert corpus_tokenizer(corpus)("red lamp!\n")["input_ids"] == ids
    (corpus / "tokenizer").rename(tmp_path / "elsewhere")
    (corpus / "cprec-corpus.json").write_text(json.dumps(FACTS | {"tokenizer": str(tmp_path / "elsewhere")}))
    assert corpus_tokenizer(corpus)("red lamp!\n")["input_ids"] == ids
    (corpus / "cprec-corpus.json").write_text(json.dumps(FACTS | {"tokenizer": str(tmp_path / "nowhere")}))
    with pytest.raises(InputError, match=r"its tokenizer .*nowhere"):
        corpus_tokenizer(corpus)
