"""How much disk a recipe needs, as far as it can be told before it runs: what it downloads, and what a stage saves.

Estimates from above. What cannot be told (a corpus build, a base model) the stage itself estimates before it starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprec_hf.hub.files import RepoType

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BYTES_A_PARAMETER = 12  # of a checkpoint: the weight and AdamW's two moments, in float32
_SAVE_STEPS = 500  # transformers' own, if the recipe does not say


def bytes_to_download(api: HfApi, repo_id: str, repo_type: RepoType, revision: str | None) -> int:
    """Of a repo's files, those that are not in the cache yet. Raises what the client raises."""
    files = api.snapshot_download(repo_id, repo_type=repo_type, revision=revision, dry_run=True)
    return sum(file.file_size or 0 for file in files if file.will_download)


def parameters_here(folder: Path) -> int:
    """The numbers in a folder's safetensors files, by their headers; 0 without such files, or with broken ones."""
    return sum(_in_header(path) for path in folder.glob("*.safetensors"))


def parameters_there(api: HfApi, repo_id: str, revision: str | None) -> int:
    """The same of a model repo. 0 if it has none or the client cannot read them: then nothing is claimed."""
    try:
        return sum(api.get_safetensors_metadata(repo_id, revision=revision).parameter_count.values())
    except Exception:
        return 0


def bytes_to_save(recipe: Mapping[str, Any], parameters: int) -> int:
    """What a training stage writes: the checkpoints it keeps, one more while the next is saved, and the model.

    Args:
        recipe: the stage's.
        parameters: of the model it starts from. An adapter's are few, so nothing is claimed for one.
    """
    steps = recipe.get("anneal_steps", recipe.get("max_steps"))
    every, limit = recipe.get("save_steps", _SAVE_STEPS), recipe.get("save_total_limit")
    if recipe.get("use_peft") or not all(isinstance(n, int | float) and n > 0 for n in (steps, every)):
        return 0
    kept = math.ceil(steps / (every if every >= 1 else every * steps)) if recipe.get("save_strategy") != "no" else 0
    kept = min(kept, limit) if isinstance(limit, int) and limit > 0 else kept
    return (kept + 1) * parameters * BYTES_A_PARAMETER


def _in_header(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
        return 0
