"""Tokenizers: loaded beside a model, or trained on a corpus' own texts for models that are built from nothing.

A trained one is made exactly as a Qwen2 tokenizer is (NFC, Qwen2's split, byte-level BPE), because `AutoTokenizer` may
rebuild a tokenizer by the class that a model's config suggests and keep only its vocabulary and merges: beside a Qwen2
or Qwen3 config, as beside any other, this one comes back the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EOS, PAD = "<|endoftext|>", "<|pad|>"


def load_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a Hub repo; no code of the repo is run.

    Raises:
        InputError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(name), revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{name}: cannot load its tokenizer: {error}") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, out_folder: str | Path) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer and save it. Same texts, same files.

    Args:
        texts: what to learn merges from; pairs seen once make no merge, so few texts may fill less than the size.
        vocab_size: most entries, the 256 bytes, end-of-text (id 0) and padding (id 1) among them.
        out_folder: where `tokenizer.json` and `tokenizer_config.json` are written.

    Returns:
        The tokenizer as `AutoTokenizer` reads it from the folder.

    Raises:
        InputError: the size does not even hold the bytes and the special tokens.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    alphabet, special = sorted(ByteLevel.alphabet()), [EOS, PAD]
    if vocab_size < len(alphabet) + len(special):
        raise InputError(
            f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least {len(alphabet) + len(special)}"
        )
    shape = Qwen2Tokenizer().backend_tokenizer
    backend = Tokenizer(BPE())
    backend.normalizer, backend.pre_tokenizer, backend.decoder = shape.normalizer, shape.pre_tokenizer, shape.decoder
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=PAD).save_pretrained(str(out_folder))
    return load_tokenizer(out_folder)
