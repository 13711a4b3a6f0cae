"""A catalogue's trie beside its model: `catalogue.safetensors`, mapped when loaded and used only if it belongs there.

What it belongs to is a hash of the items' ids and titles, the tokenizer and the template, kept in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file
from cprec_hf.ranking.trie import Trie

TRIE_FILE = "catalogue.safetensors"
_FORMAT = "1"
_CODE_OF = "code_of"


def catalogue_sha256(domain: str, ids: pa.Array, titles: pa.Array, encoding: str, template_version: str) -> str:
    """What a catalogue's trie depends on, as one number, 64 hex digits.

    Args:
        domain: of the items.
        ids: item ids, string [n_items].
        titles: as prompts show them, string [n_items].
        encoding: of `Encoder.description`.
        template_version: how a title's line is written.
    """
    total = hashlib.sha256(json.dumps([_FORMAT, domain, template_version, len(ids)]).encode())
    total.update(hashlib.sha256(encoding.encode()).digest())
    for column in (ids, titles):
        total.update(np.asarray(pc.binary_length(column.cast(pa.large_binary()))).astype("<i8").tobytes())
        total.update(hashlib.sha256("".join(column.to_pylist()).encode()).digest())
    return total.hexdigest()


def save_trie(path: str | Path, trie: Trie, code_of: np.ndarray, sha256: str) -> None:
    """Write the trie and the row of each item (`code_of` int64 [n_items]), whole or not at all."""
    tensors = {name: torch.from_numpy(array) for name, array in trie.arrays().items()}
    tensors[_CODE_OF] = torch.from_numpy(code_of.astype(np.int32))
    with atomic_file(Path(path)) as temporary:
        save_file(tensors, temporary, {"format": _FORMAT, "sha256": sha256})


def load_trie(path: str | Path, sha256: str) -> tuple[Trie, np.ndarray] | None:
    """The trie and `code_of` of a file, mapped and not read; None if it belongs to another catalogue.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("sha256") != sha256:
                return None
            arrays: dict[str, Any] = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        code_of = arrays.pop(_CODE_OF).astype(np.int64)
        return Trie(**arrays), code_of
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a whole catalogue: {error}; delete it and it is made anew") from None
