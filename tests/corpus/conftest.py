"""A small corpus of a simulated marketplace, built once, and copies of it to spoil."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.recipes import from_mapping

SOURCE = {
    "kind": "marketplace", "domains": ["Books", "Games"], "unseen": ["Music"], "users": 60, "events_per_user": 20,
    "unseen_users": 150, "unseen_events_per_user": 8, "items_per_domain": 120,
}  # fmt: skip


@pytest.fixture(scope="session")
def make_config() -> Callable[..., CorpusConfig]:
    """`make_config(output, **keys)`: a recipe for the small marketplace, read as the command line reads it."""

    def make(output: Path, **keys: Any) -> CorpusConfig:
        recipe = {
            "source": SOURCE, "output": str(output), "name": "small", "tokenizer": {"vocab_size": 400},
            "downstream": ["Music"], "window_tokens": 128, "candidates": 10, "history_length": 5,
            "split": {"validation_share": 0.25, "test_share": 0.25}, "cpt_validation_share": 0.1,
        }  # fmt: skip
        return from_mapping(recipe | keys, CorpusConfig, "small")

    return make


@pytest.fixture(scope="session")
def corpus(make_config: Callable[..., CorpusConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus; read only."""
    from cprec_hf.corpus.build import build_corpus

    return build_corpus(make_config(tmp_path_factory.mktemp("corpus") / "small"))


@pytest.fixture
def spoil(corpus: Path, tmp_path: Path) -> Callable[..., Path]:
    """`spoil("cpt/train", change)`: a copy of the corpus in which `change` made the file's rows new ones."""

    def make(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
        copy = tmp_path / "copy"
        if not copy.exists():
            shutil.copytree(corpus, copy)
        rows = pl.read_parquet(copy / f"{name}.parquet")
        change(rows).write_parquet(copy / f"{name}.parquet")
        return copy

    return make
