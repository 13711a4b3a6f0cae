"""Load a causal language model from a folder or the Hub, an adapter with its base, all at one commit.

Weights are read from safetensors only, and no code of a repo is run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from cprec_hf.corpus.tokenizer import load_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.hub.files import local_path
from cprec_hf.quiet import without_transformers_bars

ADAPTER, CONFIG = "adapter_config.json", "config.json"
_WEIGHTS, _ADAPTER_WEIGHTS = "model.safetensors", "adapter_model.safetensors"


def locate(model: str | Path, revision: str | None = None) -> tuple[bool, str | None]:
    """Whether `model` is an adapter, and the commit that `revision` of a repo stands for; None for a folder.

    Raises:
        InputError: no such folder, repo or revision, or neither a model nor an adapter there.
    """
    try:
        path, adapter = local_path(model, ADAPTER, revision), True
    except InputError:
        path, adapter = local_path(model, CONFIG, revision), False
    return adapter, None if Path(model).expanduser().is_dir() else path.parent.name


def check_weights(model: str | Path, revision: str | None = None) -> None:
    """Check that a model's weights are there and whole, an adapter's base included; of a repo, they are downloaded.

    Raises:
        InputError: they are not.
    """
    adapter, commit = locate(model, revision)
    if adapter:
        values = json.loads(local_path(model, ADAPTER, commit).read_text(encoding="utf-8"))
        check_weights(values["base_model_name_or_path"], values.get("revision"))
        names = [_ADAPTER_WEIGHTS]
    else:
        names = _weight_files(model, commit)
    for name in names:
        path = local_path(model, name, commit)
        try:
            with safe_open(path, "np"):  # compares the size that the header gives with the file's
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read as safetensors weights: {error}") from None


def _weight_files(model: str | Path, commit: str | None) -> list[str]:
    """The names of a model's weight files: the one, or those its index lists."""
    try:
        local_path(model, _WEIGHTS, commit)
    except InputError:
        index = f"{_WEIGHTS}.index.json"
        try:
            found = json.loads(local_path(model, index, commit).read_text(encoding="utf-8"))
        except InputError:
            raise InputError(f"{model}: no safetensors weights ({_WEIGHTS} or {index}); no others are read") from None
        return sorted(set(found["weight_map"].values()))
    return [_WEIGHTS]


def load_for_ranking(
    model: str | Path, revision: str | None = None, device: str | None = None, dtype: torch.dtype | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model on its device (a GPU if there is one) with its tokenizer; on a CPU in float32 unless `dtype` says else.

    Raises:
        InputError: as `load_model`, or the tokenizer cannot be loaded.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(model, revision)
    usual = torch.float32 if place.type == "cpu" else "auto"
    return load_model(model, revision, dtype=dtype or usual).to(place), tokenizer


def load_model(
    model: str | Path,
    revision: str | None = None,
    *,
    dtype: Any = None,
    attn_implementation: str | None = None,
    trainable: bool = False,
) -> Any:
    """A causal language model of transformers; of an adapter, the PEFT model over its base.

    Args:
        model: folder or repo id.
        revision: branch, tag or commit of the repo.
        dtype: of the weights, as `from_pretrained` takes it.
        attn_implementation: of transformers.
        trainable: whether an adapter's weights are to be trained on.

    Raises:
        InputError: it cannot be loaded, its safetensors weights are missing or cut short, or it needs code of its repo.
    """
    adapter, commit = locate(model, revision)
    options = {"dtype": dtype, "attn_implementation": attn_implementation}
    try:
        with without_transformers_bars():
            if not adapter:
                return _load_whole(str(model), commit, options)
            from peft import PeftConfig, PeftModel

            local_path(model, _ADAPTER_WEIGHTS, commit)  # PEFT itself would fall back to a pickle
            folder = str(local_path(model, ADAPTER, commit).parent)
            config = PeftConfig.from_pretrained(folder)
            base = _load_whole(config.base_model_name_or_path, config.revision, options)
            return PeftModel.from_pretrained(base, folder, is_trainable=trainable)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{model}: cannot load its model: {error}") from error


def _load_whole(model: str, revision: str | None, options: dict[str, Any]) -> Any:
    _weight_files(model, revision)  # transformers' own message would advise to take others
    return AutoModelForCausalLM.from_pretrained(
        model, revision=revision, use_safetensors=True, trust_remote_code=False, **options
    )
