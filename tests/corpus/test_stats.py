"""The figures of a corpus against counts taken row by row."""

import statistics
from pathlib import Path

import polars as pl
import pytest

from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.stats import corpus_stats
from cprec_hf.errors import InputError


def test_figures_equal_counts_taken_row_by_row(corpus: Path) -> None:
    stats = corpus_stats(corpus)
    found = {(row["config"], row["split"]): row for row in stats.configs}
    assert len(found) == 8 and stats.name == "small" and stats.tokens == load_facts(corpus)["tokens"]

    rows = pl.read_parquet(corpus / "cpt" / "train.parquet").to_dicts()
    documents = found["cpt", "train"]
    assert documents["rows"] == len(rows) and documents["users"] == len({row["user_id"] for row in rows})
    keys = {key for row in rows for key in zip(row["item_domains"], row["item_ids"], strict=True)}
    assert documents["items"] == len(keys)
    lengths = [len(row["item_ids"]) for row in rows]
    assert documents["row_items_median"] in (statistics.median_low(lengths), statistics.median_high(lengths))
    assert sum(length < documents["row_items_p95"] for length in lengths) <= 0.95 * len(rows) + 1

    rows = pl.read_parquet(corpus / "sft-music" / "test.parquet").to_dicts()
    tests = found["sft-music", "test"]
    assert tests["items"] == len({item for row in rows for item in [*row["history"], row["target"]]})
    characters = [len(row["prompt"] + row["completion"]) for row in rows]
    assert tests["characters_median"] in (statistics.median_low(characters), statistics.median_high(characters))
    items = found["items", "train"]
    assert (items["rows"], items["items"], items["users"], items["row_items_p95"]) == (360, 360, None, None)


def test_printed_as_a_table_of_every_file(corpus: Path) -> None:
    text = str(corpus_stats(corpus))
    assert text.count("\n| sft-music |") == 5 and "| items | train | 360 | - | 360 | - |" in text
    assert f"all_domain {load_facts(corpus)['tokens']['all_domain']:,}" in text


def test_no_corpus_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file cprec-corpus\.json"):
        corpus_stats(tmp_path)
