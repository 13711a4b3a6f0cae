"""A small catalogue of two domains, and a recommender over it."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.ranking.recommender import Recommender

TITLES = {  # some titles of Garden are shared; lengths vary
    "Garden": [
        "red lamp",
        "blue steel chair for the kitchen, pack of 12",
        "green mug",
        "red lamp",
        "café table in dark wooden set",
        "glove",
        "little ball with light",
        "red lamp",
        "猫 doll",
        "big cotton folder of paper and ink for the desk printer",
        "brush",
        "paint brush",
    ],
    "Games": ["robot puzzle", "red lamp", "tennis ball"],
}


@pytest.fixture(scope="session")
def items() -> pa.Table:
    rows = [
        {"item_id": f"{domain[:2]}{number}", "domain": domain, "title": title, "full_title": f"{title} (full)"}
        for domain, titles in TITLES.items()
        for number, title in enumerate(titles)
    ]
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="session")
def record() -> ModelRecord:
    return ModelRecord(
        stage="sft",
        base="tiny",
        template_version="1",
        max_title_tokens=24,
        history_length=4,
        domain="Garden",
        corpus="corpus",
        corpus_revision=None,
        corpus_hash="0",
        schedule={},
        tokens=0,
        seed=0,
        parents=[],
    )


@pytest.fixture(scope="session")
def make_recommender(
    make_tiny_model: Callable[..., Any], items: pa.Table, record: ModelRecord
) -> Callable[..., Recommender]:
    """`make_recommender(tokenizer, kind="qwen3", **config)`, with a model that is sure of what it predicts."""

    def make(tokenizer: Any, kind: str = "qwen3", **config: Any) -> Recommender:
        model = make_tiny_model(kind, tokenizer, **config)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.25)
        return Recommender(model, tokenizer, record, items)

    return make
