"""Checkpoints that are whole or not there, the newest of them, and where a run may write."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cprec_hf.errors import InputError
from cprec_hf.files import refuse_existing, require_writable

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


def resume_point(resume_from_checkpoint: str | None, output_dir: str, *, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run, which must have its output folder for itself.

    Args:
        resume_from_checkpoint: a checkpoint, a run's folder, a Hub repo's `repo@revision`, or `true`: the newest of
            output_dir, and a fresh run if none was complete yet, so that one command begins a run and goes on with it
            after whatever killed it.
        output_dir: where the run writes.
        overwrite: whether a fresh run may replace what stands there.

    Raises:
        InputError: nothing to resume from, or output_dir is taken or cannot be written.
    """
    require_writable(output_dir)
    checkpoint = None
    if resume_from_checkpoint and resume_from_checkpoint.lower() != "false":
        if resume_from_checkpoint.lower() != "true":
            from cprec_hf.training.trunks import find_start  # which knows this module

            checkpoint = find_start(resume_from_checkpoint, "resume_from_checkpoint").folder
        elif (checkpoint := newest_checkpoint(output_dir)) is None:
            overwrite = overwrite or _has_nothing_yet(Path(output_dir))
        if checkpoint is not None and checkpoint.parent.resolve() == Path(output_dir).resolve():
            return checkpoint
    refuse_existing(output_dir, overwrite=overwrite)
    if Path(output_dir).is_dir() and any(Path(output_dir).iterdir()) and not _is_a_runs(Path(output_dir)):
        raise InputError(
            f"{output_dir} was not written by a training stage, so --overwrite leaves it alone; remove it yourself"
        )
    return checkpoint


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


def _has_nothing_yet(folder: Path) -> bool:
    """Whether a run was stopped here before it had saved anything: no model, no checkpoint, not even a damaged one."""
    return _is_a_runs(folder) and not (folder / "cprec.json").exists() and not any(folder.glob("checkpoint-*"))


def _is_a_runs(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("cprec.json", "log.jsonl", *STAGING)) or any(
        folder.glob("checkpoint-*")
    )
