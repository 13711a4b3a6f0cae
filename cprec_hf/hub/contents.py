"""Which files of a folder leave this machine: no arguments pickled by a Trainer, no secrets, no leftovers, no pickles.

The one exception is the resume state of a trunk's checkpoint, and of that only what `weights_only=True` reads.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from cprec_hf.errors import InputError
from cprec_hf.hub.published import FILENAME as PUBLISHED
from cprec_hf.hub.remote import Source

# Never pushed: what the Trainer pickles its arguments into, secrets, leftovers and folders of tools.
NEVER = ("training_args.bin", ".env", ".env.*", "*.tmp", "*.key", "*.pyc", PUBLISHED)
NEVER_FOLDERS = (".git", ".cache", "__pycache__", "checkpoint-*")
# Pickles: pushed only as the resume state of a trunk checkpoint.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
# What transformers lets `torch.load(weights_only=True)` read in a Trainer's state besides tensors.
_NUMPY = ("numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "numpy.dtypes.UInt32DType")


def files_to_push(folder: str | Path, *, resume_state: bool = False) -> dict[str, Source]:
    """The files of a folder that may be pushed: path in the repo -> local file, sorted.

    Args:
        folder: a local folder.
        resume_state: also the optimizer, scheduler and random states of a trunk checkpoint, which are pickles.

    Raises:
        InputError: no such folder, nothing in it to push, weights that exist only as a pickle, or a resume state that
            `torch.load(weights_only=True)` would refuse.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    allowed = [p for p in found if not _matches(p.name, NEVER) and not any(_matches(q, NEVER_FOLDERS) for q in p.parts)]
    pickled = [p for p in allowed if _matches(p.name, PICKLES)]
    weights = [p for p in pickled if _matches(p.name, ("pytorch_model*.bin", "adapter_model.bin"))]
    if weights:
        raise InputError(f"{folder / weights[0]} holds weights as a pickle; save them as safetensors and push again")
    if resume_state:
        for path in pickled:
            _refuse_unsafe(folder / path)
    else:
        allowed = [path for path in allowed if path not in pickled]
    if not allowed:
        raise InputError(f"{folder}: nothing in this folder can be pushed")
    return {path.as_posix(): folder / path for path in allowed}


def _refuse_unsafe(path: Path) -> None:
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        unsafe = sorted(set(get_unsafe_globals_in_checkpoint(path)) - {*_NUMPY})
    except Exception as error:
        raise InputError(f"{path}: not a file that torch.load(weights_only=True) could read ({error})") from None
    if unsafe:
        raise InputError(f"{path} would run {unsafe[0]} when it is loaded; resume state holds tensors and numbers only")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
