"""Checkpoints that are whole or not there, the newest of them, and a run's folder made ready."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cprec_hf.errors import InputError

STAGING = (".saving.tmp", ".final.tmp")  # what a killed run may leave behind in its output folder


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The `checkpoint-N` of the highest step in a run's folder among those that are complete, or None."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    by_step = sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)
    return next((path for path in by_step if is_complete(path)), None)


def is_complete(checkpoint: Path) -> bool:
    """Whether a run can go on from it: a readable trainer state, whole weights, optimizer and schedule.

    Ours are renamed into place when whole; one that was copied or downloaded may be cut short, which the size in a
    safetensors header gives away, or the directory that ends torch's archives.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for path in checkpoint.glob("*.safetensors"):
            with safe_open(path, "np"):
                pass
        shards = checkpoint / "model.safetensors.index.json"
        expected = (
            set(json.loads(shards.read_text(encoding="utf-8"))["weight_map"].values()) if shards.exists() else set()
        )
    except (OSError, ValueError, KeyError, SafetensorError):
        return False
    names = {path.name for path in checkpoint.iterdir()}
    weights = {"model.safetensors", "adapter_model.safetensors", "model.safetensors.index.json"}
    archives = {"optimizer.pt", "scheduler.pt", *(name for name in names if name.endswith(".pth"))}
    whole = all(zipfile.is_zipfile(checkpoint / name) for name in archives)
    return bool(names & weights and whole and expected <= names)


def find_checkpoint(path: str | Path, key: str) -> Path:
    """A complete checkpoint: `path` itself, or the newest in the run's folder `path`.

    Args:
        path: a `checkpoint-N` folder or the output folder of a run.
        key: the recipe key that named it, for the message.

    Raises:
        InputError: there is no such folder, or no complete checkpoint in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"`{key}`: no such folder: {path}")
    if (path / "trainer_state.json").exists() and is_complete(path):
        return path
    newest = newest_checkpoint(path)
    if newest is None:
        raise InputError(f"`{key}`: no complete checkpoint in {path}; give the folder of a run that saved one")
    return newest


def clear_output(output_dir: str | Path, *, keep: bool) -> None:
    """Make a run's folder ready: empty, or, to resume (`keep`), without what a killed run left half-written."""
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / STAGING[0]  # killed meanwhile, it still looks like a run's, of which nothing is complete
    mark.mkdir(exist_ok=True)
    if not keep:
        (folder / "cprec.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path != mark and (not keep or fnmatch(path.name, ".*.tmp")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(mark)


def has_nothing_yet(folder: Path) -> bool:
    """Whether a run was stopped here before it had saved anything: no model, no checkpoint, not even a damaged one."""
    return is_a_runs(folder) and not (folder / "cprec.json").exists() and not any(folder.glob("checkpoint-*"))


def is_a_runs(folder: Path) -> bool:
    """Whether a training stage wrote a folder, whole or not."""
    return any((folder / name).exists() for name in ("cprec.json", "log.jsonl", *STAGING)) or any(
        folder.glob("checkpoint-*")
    )
