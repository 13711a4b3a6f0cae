"""What a language model says of items before any behaviour: its last hidden states, averaged over each title.

Begun from such vectors, sequential recommenders learn faster and reach items that few have had: Harte et al.,
"Leveraging Large Language Models for Sequential Recommendation", RecSys 2023 (LLM2BERT4Rec, which reduces them by PCA;
that `whitened` also evens out the components is our choice). Works with any causal language model of transformers, a
model of ours, an adapter, and plain encoders (BERT, and sentence models that average without a projection).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModel, PreTrainedTokenizerBase

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.corpus.tokenizer import load_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.quiet import without_transformers_bars
from cprec_hf.ranking.loading import check_weights, load_model, locate
from cprec_hf.ranking.reader import base_model

_BATCH_TOKENS = 16384  # read at once, padding included
_NO_LIMIT = 1 << 20


def title_embeddings(model: str | Path, titles: pa.Array, revision: str | None = None) -> np.ndarray:
    """The mean of the last hidden states over each title's tokens; equal titles are read once.

    A causal model reads a title as it reads an item's line (the one encoder, delimiter included); an encoder as its
    tokenizer makes it. What a tokenizer puts around a text (BOS, CLS, SEP) is read and not averaged. Titles longer than
    the model's positions are cut. On a GPU if there is one; float32 on a CPU.

    Args:
        model: folder or repo id.
        titles: string array [items], without nulls.
        revision: branch, tag or commit of the repo.

    Returns:
        float32 [items, hidden size].

    Raises:
        InputError: the model, its weights or its tokenizer cannot be loaded, or a title has no token.
    """
    backbone, causal = _load(model, revision)
    distinct = titles.dictionary_encode()
    lines = distinct.dictionary.to_pylist()
    tokenizer = load_tokenizer(model, revision)
    context = getattr(backbone.config.get_text_config(), "max_position_embeddings", None) or _NO_LIMIT
    ids, counted = _read_as_lines(tokenizer, lines) if causal else _read_as_texts(tokenizer, lines, context)
    found = _averaged(backbone, ids, counted, context)
    empty = ~np.isfinite(found).all(axis=1)
    if empty.any():
        raise InputError(f"{model}: the title {lines[int(empty.argmax())]!r} gives no token or no finite state")
    return found[np.asarray(distinct.indices, dtype=np.int64)]


def whitened(vectors: np.ndarray, width: int) -> np.ndarray:
    """Principal components, each of mean 0 and variance 1 over the items.

    Hidden states of language models share a large common direction, and a few others hold most of their variance;
    whitening takes both away (Su et al., "Whitening Sentence Representations", arXiv 2103.15316).

    Args:
        vectors: float [items, hidden].
        width: most components kept, the largest first.

    Returns:
        float32 [items, c], c the smallest of `width`, hidden and the rank. Signs are such that each component's largest
        entry is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.arange(len(values))[::-1][:width]
    kept = kept[values[kept] > max(values.max(initial=0.0), 0.0) * 1e-10]
    parts = centred @ directions[:, kept] / np.sqrt(values[kept])
    largest = np.take_along_axis(parts, np.abs(parts).argmax(axis=0)[None], axis=0)
    return (parts * np.sign(largest)).astype(np.float32)


def _load(model: str | Path, revision: str | None) -> tuple[Any, bool]:
    """The model without its head, on its device, in evaluation mode, and whether it reads from left to right only."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype: Any = torch.float32 if place.type == "cpu" else "auto"
    check_weights(model, revision)
    adapter, commit = locate(model, revision)
    if adapter:
        return base_model(load_model(model, revision, dtype=dtype)).base_model.to(place).eval(), True
    try:
        with without_transformers_bars():
            found = AutoModel.from_pretrained(
                str(model), revision=commit, use_safetensors=True, trust_remote_code=False, dtype=dtype
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{model}: cannot load its model: {error}") from error
    names = getattr(found.config, "architectures", None) or [""]
    causal = any(part in names[0] for part in ("ForCausalLM", "LMHead"))
    backbone = found.get_encoder() if getattr(found.config, "is_encoder_decoder", False) else found
    return backbone.to(place).eval(), causal


def _read_as_lines(tokenizer: PreTrainedTokenizerBase, titles: list[str]) -> tuple[Ragged, np.ndarray]:
    """Ids of the titles' lines behind the tokenizer's start ids, and which of them count, bool [tokens]."""
    encoder = Encoder(tokenizer)
    lines = encoder.segments([title + DELIMITER for title in titles])
    start, n = encoder.start, len(titles)
    before = Ragged(np.tile(start, n), np.arange(n + 1, dtype=np.int64) * len(start))
    ids = before.join(lines)
    within = np.arange(len(ids.values)) - np.repeat(ids.offsets[:-1], ids.lengths)
    return ids, within >= len(start)


def _read_as_texts(tokenizer: PreTrainedTokenizerBase, titles: list[str], context: int) -> tuple[Ragged, np.ndarray]:
    """Ids as the tokenizer makes them, at most `context`, and which are no special tokens, bool [tokens]."""
    most = min(context, tokenizer.model_max_length)  # of some the model's positions begin at 2
    found = tokenizer(titles, truncation=True, max_length=most, return_special_tokens_mask=True)
    ids = Ragged.from_lists(found["input_ids"])
    return ids, Ragged.from_lists(found["special_tokens_mask"]).values == 0


@torch.inference_mode()
def _averaged(backbone: Any, ids: Ragged, counted: np.ndarray, context: int) -> np.ndarray:
    """Means over the counted tokens of each row, float32 [rows, hidden]; NaN where there are none."""
    place = next(backbone.parameters()).device
    lengths = np.minimum(ids.lengths, context)
    order = np.argsort(-lengths, kind="stable")
    parts, begin = [], 0
    with tqdm(desc="embedding", total=len(ids), unit="title", delay=2, disable=None, leave=False) as bar:
        while begin < len(order):
            longest = max(int(lengths[order[begin]]), 1)
            rows = order[begin : begin + max(1, _BATCH_TOKENS // longest)]
            column = np.arange(longest)
            real = column < lengths[rows][:, None]
            places = (ids.offsets[:-1][rows][:, None] + column)[real]
            tokens, weights = np.zeros(real.shape, dtype=np.int64), np.zeros(real.shape, dtype=np.float32)
            tokens[real], weights[real] = ids.values[places], counted[places]
            mask = torch.from_numpy(real).to(place, torch.long)
            states = backbone(input_ids=torch.from_numpy(tokens).to(place), attention_mask=mask).last_hidden_state
            weight = torch.from_numpy(weights).to(place)[:, :, None]
            parts.append(((states.float() * weight).sum(1) / weight.sum(1)).cpu().numpy())
            bar.update(len(rows))
            begin += len(rows)
    found = np.concatenate(parts)
    return found[np.argsort(order)]
