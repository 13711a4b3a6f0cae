"""Titles embedded in batches are what the model says of each alone; whitened components against the SVD."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.ranking import embeddings
from cprec_hf.ranking.embeddings import title_embeddings, whitened

TITLES = ["red lamp", "little wooden chair for garden", "mug", "red lamp", "猫 café", "kitchen desk and cable of steel"]


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neo"])
def test_a_causal_model_reads_lines(
    tmp_path: Path, any_tokenizer: Any, make_tiny_model: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(kind, any_tokenizer)
    monkeypatch.setattr(embeddings, "_BATCH_TOKENS", 40)  # several batches
    found = title_embeddings(save(tmp_path / "m", model, any_tokenizer), pa.array(TITLES))
    encoder = Encoder(any_tokenizer)
    with torch.no_grad():
        for title, vector in zip(TITLES, found, strict=True):
            ids = torch.tensor(encoder.documents([title + "\n"]).row(0))[None].long()
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            np.testing.assert_allclose(vector, states[len(encoder.start) :].mean(0).numpy(), atol=1e-5)


def test_an_adapter_is_read_with_its_base(
    tmp_path: Path, byte_level_tokenizer: Any, make_tiny_model: Callable[..., Any]
) -> None:
    from peft import LoraConfig, get_peft_model

    base = save(tmp_path / "base", make_tiny_model("qwen3", byte_level_tokenizer), byte_level_tokenizer)
    from cprec_hf.ranking.loading import load_model

    adapted = get_peft_model(load_model(base), LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"))
    adapted.save_pretrained(tmp_path / "adapter")
    byte_level_tokenizer.save_pretrained(tmp_path / "adapter")
    found, plain = (title_embeddings(tmp_path / name, pa.array(TITLES)) for name in ("adapter", "base"))
    ids = torch.tensor(Encoder(byte_level_tokenizer).documents([TITLES[1] + "\n"]).row(0))[None].long()
    with torch.no_grad():
        states = adapted.eval()(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(found[1], states.mean(0).numpy(), atol=1e-5)
    assert np.abs(found - plain).max() > 1e-3


@pytest.fixture(scope="module")
def encoder_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A BERT of two layers and 12 positions with a WordPiece tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TITLES for w in t.split()}), "garden"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=12)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    model = BertModel(config).eval()
    return save(folder / "m", model, tokenizer), model, tokenizer


def test_an_encoder_reads_texts_as_its_tokenizer_makes_them(encoder_model: tuple[Path, Any, Any]) -> None:
    folder, model, tokenizer = encoder_model
    titles = [*TITLES, "mug " * 30]  # cut to the model's positions
    found = title_embeddings(folder, pa.array(titles))
    with torch.no_grad():
        for title, vector in zip(titles, found, strict=True):
            states = model(**tokenizer(title, truncation=True, return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(vector, states[1:-1].mean(0).numpy(), atol=1e-5)


def test_what_cannot_be_read_is_named(encoder_model: tuple[Path, Any, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the title '' gives no token"):
        title_embeddings(encoder_model[0], pa.array(["mug", ""]))
    with pytest.raises(InputError, match="nowhere"):
        title_embeddings(tmp_path / "nowhere", pa.array(["mug"]))


@given(st.integers(3, 30), st.integers(1, 8), st.integers(1, 10), st.integers(0, 99))
def test_whitened_components_are_the_left_singular_vectors(n: int, size: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, size)) @ rng.normal(size=(size, size)) + 5).astype(np.float32)
    found = whitened(vectors, width)
    left, values, _ = np.linalg.svd(vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64), False)
    kept = min(width, int((values**2 > values[0] ** 2 * 1e-10).sum()))
    assert found.shape == (n, kept)
    np.testing.assert_allclose(found.T @ found / n, np.eye(kept), atol=1e-3)
    gaps = np.abs(np.diff(values[: kept + 1], append=0)) / values[0]
    for column in range(kept):
        if min(gaps[column], gaps[column - 1] if column else 1) > 1e-2:  # else the direction is not determined
            cosine = found[:, column] @ left[:, column] / np.sqrt(n)
            assert abs(cosine) == pytest.approx(1, abs=1e-3)
        assert found[np.abs(found[:, column]).argmax(), column] > 0


def test_equal_vectors_have_no_component() -> None:
    assert whitened(np.ones((5, 3), dtype=np.float32), 4).shape == (5, 0)
