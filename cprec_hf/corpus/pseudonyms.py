"""Pseudonyms: user ids leave this machine only as a keyed hash, and the key never does.

The same key gives the same pseudonyms, so a corpus can be rebuilt byte for byte; without the key nobody can test a
guess of an id. The key is the environment variable `CPREC_USER_KEY` or, where that is unset, a file of 64 hexadecimal
digits, `~/.config/cprec/user.key`, made once and readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cprec_hf.errors import InputError

KEY_VARIABLE = "CPREC_USER_KEY"


def pseudonymise(user_ids: Sequence[str]) -> list[str]:
    """A pseudonym for each id: the first 16 hexadecimal digits of HMAC-SHA256(key, id).

    Args:
        user_ids: distinct ids.

    Raises:
        InputError: the key is empty or its file is open to others, or two ids share a pseudonym.
    """
    pseudonyms = hashed_ids(user_ids, user_key())
    require_distinct(len(set(user_ids)), len(set(pseudonyms)))
    return pseudonyms


def hashed_ids(user_ids: Sequence[str], key: bytes) -> list[str]:
    """What `pseudonymise` makes of ids with this key, without its check that no two are the same."""
    # HMAC's two keyed states are made once and copied: `hmac.digest` makes them for every id and takes twice as long.
    padded = (key if len(key) <= 64 else hashlib.sha256(key).digest()).ljust(64, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))
    pseudonyms = []
    for user in user_ids:
        message, whole = inner.copy(), outer.copy()
        message.update(user.encode())
        whole.update(message.digest())
        pseudonyms.append(whole.hexdigest()[:16])
    return pseudonyms


def require_distinct(n_users: int, n_pseudonyms: int) -> None:
    """Raise `InputError` if users share a pseudonym."""
    if n_pseudonyms < n_users:
        raise InputError(f"two of {n_users} users share a pseudonym; set {KEY_VARIABLE} to another key")


def user_key() -> bytes:
    """The key, from the environment or its file, which is made if there is none.

    Raises:
        InputError: the key is empty or its file is open to others.
    """
    if KEY_VARIABLE in os.environ:
        source, key = KEY_VARIABLE, os.environ[KEY_VARIABLE].strip()
    else:
        file = Path.home() / ".config" / "cprec" / "user.key"
        if not file.exists():
            _make_key(file)
        if os.name == "posix" and (mode := file.stat().st_mode) & 0o077:
            raise InputError(f"{file}: others may read the key (mode {mode & 0o777:o}); run `chmod 600 {file}`")
        source, key = str(file), file.read_text(encoding="utf-8").strip()
    if not key:
        raise InputError(f"{source} is empty; it must hold the secret key that user ids are hashed with")
    return key.encode()


def _make_key(file: Path) -> None:
    """Write a new key whole and private, unless another process was first: then its key stands."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(32))
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        temporary.unlink()
