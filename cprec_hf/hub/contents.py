"""Which files of a folder leave this machine: those of kinds that hold no pickles, if they are what their names say.

A pickle runs code when it is loaded, and may have any name, so a list of names to keep back would not do. The one
exception is the resume state of a trunk's checkpoint, and of that only what `weights_only=True` reads.
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path

from cprec_hf.errors import InputError
from cprec_hf.hub.published import FILENAME as PUBLISHED
from cprec_hf.hub.remote import Source

# Pushed: text, tables, weights, SentencePiece models and pictures.
KNOWN = (
    *("*.json", "*.jsonl", "*.md", "*.txt", "*.csv", "*.tsv", "*.yaml", "*.yml", "*.toml", "*.jinja", "*.html", "*.py"),
    *("*.tiktoken", "license", "notice", "*.parquet", "*.safetensors", "*.model", "*.png", "*.jpg", "*.svg"),
)
# Stays, as it should: what the Trainer pickles its arguments into, secrets, leftovers, folders of tools, and the
# checkpoints of a run, each of which is a push of its own.
NEVER = ("training_args.bin", ".env", ".env.*", "*.tmp", "*.key", "*.pyc", PUBLISHED)
NEVER_FOLDERS = (".git", ".cache", "__pycache__", "checkpoint-*", "to-push")
# The Trainer's state: pushed only as the resume state of a trunk checkpoint.
STATE = ("*.bin", "*.pt", "*.pth")
# How files begin that hold objects or other files: pickles of protocol 2 and later; zip (torch.save), gzip, bzip2, xz,
# zstandard and NumPy's own.
_PICKLED = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_WRAPPED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x93NUMPY")
# What transformers lets `torch.load(weights_only=True)` read in a Trainer's state besides tensors.
_NUMPY = ("numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "numpy.dtypes.UInt32DType")


def files_to_push(folder: str | Path, *, resume_state: bool = False) -> dict[str, Source]:
    """The files of a folder that may be pushed: path in the repo -> local file, sorted.

    Files of other kinds stay, which is said on stderr.

    Args:
        folder: a local folder.
        resume_state: also the optimizer, scheduler and random states of a trunk checkpoint, which are pickles.

    Raises:
        InputError: no such folder, nothing in it to push, weights that exist only as a pickle, a pickle or an archive
            under the name of another kind, or a resume state that `torch.load(weights_only=True)` would refuse.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    found = [p for p in found if not _matches(p.name, NEVER) and not any(_matches(q, NEVER_FOLDERS) for q in p.parts)]
    state = [p for p in found if _matches(p.name, STATE)]
    weights = [p for p in state if _matches(p.name, ("pytorch_model*.bin", "adapter_model.bin"))]
    if weights:
        raise InputError(f"{folder / weights[0]} holds weights as a pickle; save them as safetensors and push again")
    known = [path for path in found if _matches(path.name, KNOWN)]
    for path in known:
        _refuse_disguised(folder / path)
    if resume_state:
        for path in state:
            _refuse_unsafe(folder / path)
        known = sorted([*known, *state])
    if not known:
        raise InputError(f"{folder}: nothing in this folder can be pushed")
    if others := [path.as_posix() for path in found if path not in known and path not in state]:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        print(f"{folder}: {len(others)} files stay here, of kinds that are not pushed: {shown}", file=sys.stderr)
    return {path.as_posix(): folder / path for path in known}


def _refuse_disguised(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its header, which may read as anything; the header is JSON.
    weights = path.suffix.lower() == ".safetensors" and head[8:] == b"{" and not any(head[5:8])
    if head.startswith((*_PICKLED, *_WRAPPED)) and not weights:
        raise InputError(f"{path} is a pickle or an archive, whatever its name says; take it out of the folder")


def _refuse_unsafe(path: Path) -> None:
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        unsafe = sorted(set(get_unsafe_globals_in_checkpoint(path)) - {*_NUMPY})
    except Exception as error:
        raise InputError(f"{path}: not a file that torch.load(weights_only=True) could read ({error})") from None
    if unsafe:
        raise InputError(f"{path} would run {unsafe[0]} when it is loaded; resume state holds tensors and numbers only")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)
