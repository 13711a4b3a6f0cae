"""Write whole or not at all: a temporary name beside the target, then a rename."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cprec_hf.errors import InputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it over `path`, on any exception remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it takes the place of `path`.

    On any exception, Ctrl-C included, the temporary folder is removed and whatever stood at `path` still stands. What a
    killed process left for the same `path` is removed by the next one, which knows it by its lock: the system takes
    that away with the process, so nothing that another is still writing is touched.

    Raises:
        InputError: `path` exists already and `overwrite` is false, or cannot be written (said before any work starts).
    """
    path = Path(path)
    require_writable(path)
    _clear_leftovers(path)
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = _temporary_name(path), None
    try:  # from the first moment on: a Ctrl-C may come as soon as there is a folder
        temporary.mkdir()
        while (lock := _locked(temporary)) is None:
            temporary = _temporary_name(path)
            temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(temporary.with_suffix(".old.tmp"))
        temporary.replace(path)
    finally:
        old = temporary.with_suffix(".old.tmp")
        if old.exists() and not path.exists():  # interrupted between the two renames
            old.replace(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _locked(temporary: Path) -> int | None:
    """The descriptor that holds the lock of a new temporary folder; null if someone who clears leftovers was first."""
    lock = os.open(temporary, os.O_RDONLY)
    if _lock(lock) and temporary.exists():
        return lock
    os.close(lock)
    return None


def _lock(descriptor: int) -> bool:
    """Lock an open folder; whether it is ours now, as it is where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _clear_leftovers(path: Path) -> None:
    """Remove the temporary folders of killed processes for `path`; what one of them had moved away comes back."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    folders = path.parent.iterdir() if path.parent.is_dir() else ()
    for temporary in [folder for folder in folders if name.fullmatch(folder.name) and folder.is_dir()]:
        try:
            lock = os.open(temporary, os.O_RDONLY)
        except OSError:  # it was renamed or removed in this moment
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old = temporary.with_suffix(".old.tmp")
            if old.exists() and not path.exists():  # killed between the two renames
                old.replace(path)
            shutil.rmtree(temporary, ignore_errors=True)
        except OSError:  # its process lives, or the file system knows no locks
            pass
        finally:
            os.close(lock)
    for old in path.parent.glob(f".{glob.escape(path.name)}.????????.old.tmp"):
        if not old.with_name(f"{old.name.removesuffix('.old.tmp')}.tmp").exists():
            shutil.rmtree(old, ignore_errors=True)  # killed after both renames


def refuse_existing(path: str | Path, *, overwrite: bool) -> None:
    """Raise `InputError` if `path` exists, is not an empty folder, and may not be replaced, or cannot be written."""
    path = Path(path)
    require_writable(path)
    if overwrite or not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    raise InputError(f"{path} exists already; choose another output folder, remove it, or pass --overwrite")


def require_writable(path: str | Path) -> None:
    """Raise `InputError` if the folder `path` cannot be made or written: a file is in the way, or the disk refuses."""
    path = Path(path)
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        below = "" if folder == path.absolute() else f"{path} cannot be made: "
        raise InputError(f"{below}{folder if below else path} is a file; choose another output folder or remove it")
    try:
        with tempfile.TemporaryFile(dir=folder):  # only trying tells, whoever runs this
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; choose another output folder") from None


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold a Ctrl-C back until the end of a few renames that belong together; it is raised then."""
    if threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def use_default_modes(folder: str | Path) -> None:
    """Give all files in `folder` the mode of files newly made there; some libraries (safetensors) leave theirs 0600."""
    probe = Path(folder) / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        probe.touch()
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def require_free_space(path: str | Path, n_bytes: int) -> None:
    """Raise `InputError` before work starts if the disk that holds `path` has less than `n_bytes` free."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{path}: about {n_bytes / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free on that disk; "
            "free some space or choose another output folder"
        )


def ran_out_of_space(error: BaseException | None) -> bool:
    """Whether a write failed because the disk, a quota or the largest file allowed was full.

    Libraries written in Rust (tokenizers, safetensors) and torch raise errors of their own, so texts are read as well.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:
            return True
        found = re.search(r"\(os error (\d+)\)", str(error))
        if (found and int(found[1]) in _NO_SPACE) or "iostream error" in str(error):  # the second is torch's
            return True
        error = error.__cause__ or error.__context__
    return False
