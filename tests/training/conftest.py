"""A small corpus written by hand, column by column, and a tiny base model: what every stage's test begins from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import load_template
from cprec_hf.hub.loopback import LoopbackHub

TEMPLATE = load_template("1")
WINDOW = 160
WORDS = ["red", "blue", "green", "dark", "light", "little", "big", "wooden", "steel", "cotton"]
NOUNS = {"Books": ["paper", "folder"], "Toys": ["puzzle", "robot"], "Tools": ["brush", "sensor"]}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: Any) -> Path:
    """Pre-training on Books and Toys, 48 documents of both kinds; Tools to fine-tune on; windows of 160 tokens."""
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    rng = np.random.default_rng(0)
    titles = {domain: [f"{w} {n}" for w in WORDS for n in nouns] for domain, nouns in NOUNS.items()}
    items = [
        {"item_id": f"{domain}-{i}", "domain": domain, "title": title, "full_title": title}
        | {"text": TEMPLATE.item_document(domain, title, "with paper and ink")}
        for domain, names in titles.items()
        for i, title in enumerate(names)
    ]
    encoder = Encoder(byte_level_tokenizer)

    def document(domain: str | None, n: int) -> dict[str, Any]:
        names = titles[domain] if domain else titles["Books"] + titles["Toys"]
        text = TEMPLATE.prompt(domain, rng.choice(names, n, replace=False).tolist())
        return {"text": text, "kind": "domain" if domain else "all_domain", "domain": domain}

    documents = [document(domain, int(n)) for domain in ("Books", "Toys", None) for n in rng.integers(2, 6, 16)]
    _write(folder / "cpt" / "train.parquet", documents)
    _write(folder / "cpt" / "validation.parquet", [document(d, 3) for d in ("Books", "Toys", None)])
    assert encoder.documents([d["text"] for d in documents]).lengths.max() <= WINDOW

    def example(n: int) -> dict[str, Any]:
        drawn = rng.choice(len(titles["Tools"]), n + 10, replace=False)
        history, candidates = drawn[: n - 1], rng.permutation(drawn[n - 1 :])
        names = [titles["Tools"][i] for i in history]
        return {
            "prompt": TEMPLATE.prompt("Tools", names),
            "completion": TEMPLATE.line(titles["Tools"][drawn[n - 1]]),
            "user_id": f"u{rng.integers(1 << 30)}",
            "history": [f"Tools-{i}" for i in history],
            "target": f"Tools-{drawn[n - 1]}",
            "candidates": [f"Tools-{i}" for i in candidates],
            "timestamp": 0,
        }

    for split, n in (("train", 30), ("validation", 8), ("test", 8)):
        _write(folder / "sft-tools" / f"{split}.parquet", [example(int(k)) for k in rng.integers(3, 6, n)])
    _write(folder / "items" / "train.parquet", items)
    byte_level_tokenizer.save_pretrained(folder / "tokenizer")
    facts = {
        "format": 1,
        "name": "by-hand",
        "template": {"version": "1", "max_title_tokens": 8, "history_length": 6, "window_tokens": WINDOW}
        | {"candidate_list_in_prompt": False},
        "tokenizer": "tokenizer",
        "about": {"redistributable": True, "licence": "CC BY 4.0"},
        "domains": {d: {"slug": d.lower(), "role": "downstream" if d == "Tools" else "cpt"} for d in NOUNS},
        "content_sha256": "0" * 64,
        "counts": {"cpt": {}, "sft-tools": {}, "items": {}},
    }
    (folder / "cprec-corpus.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any, byte_level_tokenizer: Any) -> Path:
    """A tiny Qwen3 with random weights, as if from the Hub: no `cprec.json`."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(byte_level_tokenizer).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def flags(flags_in: Callable[..., Any], tmp_path: Path) -> Callable[..., list[str]]:
    """`flags("name", max_steps=4)`: the command line of a small fast run that writes to `tmp_path / name`."""
    return functools.partial(flags_in, tmp_path)


@pytest.fixture(scope="session")
def flags_in(corpus: Path, base_model: Path) -> Callable[..., list[str]]:
    """`flags_in(folder, "name", max_steps=4)`, for runs that several tests share."""

    def make(folder: Path, name: str, **values: Any) -> list[str]:
        values = {
            "corpus": corpus,
            "model_name_or_path": base_model,
            "output_dir": folder / name,
            "max_steps": 4,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.01,
            "logging_steps": 1,
            "seed": 1,
        } | values
        return [part for key, value in values.items() if value is not None for part in (f"--{key}", _text(value))]

    return make


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub that this process and those it starts know, and an empty cache."""
    with LoopbackHub(tmp_path / "hub") as hub:
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))  # read from the environment at import
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    """Its client."""
    return HfApi(endpoint=hub.url, token=hub.token)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, bool)) else str(value)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
