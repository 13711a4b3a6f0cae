"""`cprec hub serve`: a loopback Hub in the foreground, for a shell beside it.

cprec hub serve --root hub --user ada:hf_ada
cprec hub serve --fail commit:503:2 --fail lfs_put:cut:1
"""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.loopback_faults import Fault


def serve(port: int, root: str | Path, users: Sequence[str] = (), faults: Sequence[str] = ()) -> None:
    """Serve on 127.0.0.1 until SIGTERM or Ctrl-C, after printing the line that sets up a shell's clients for it.

    That line is the one place where a token is written: the first user's.

    Args:
        port: 0 lets the system choose.
        root: folder of the repos, made if it is not there.
        users: `NAME:TOKEN` each; one user named `local` with a token made for this run, if none are given.
        faults: `KIND:FAULT:N` each: the next N requests of KIND fail, see `loopback_faults`.

    Raises:
        InputError: a text that is none of these, a port that is taken, or a root that cannot be served.
        KeyboardInterrupt: Ctrl-C; everything is closed by then.
    """
    hub = LoopbackHub(root, _users(users), port)
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with hub:
            for text in faults:
                hub.inject(*_fault(text))
            print("export", *(f"{name}={shlex.quote(value)}" for name, value in hub.env.items()), flush=True)
            stopped.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def _users(texts: Sequence[str]) -> dict[str, str]:
    users: dict[str, str] = {}
    for text in texts:
        name, colon, token = text.partition(":")
        if not (name and colon and token):  # the text may be a token by mistake, so it is not repeated
            raise InputError("a user is given as NAME:TOKEN")
        if name in users:
            raise InputError(f"the user {name} is given twice")
        users[name] = token
    return users


def _fault(text: str) -> tuple[str, Fault, int]:
    parts = text.split(":")
    if len(parts) != 3 or not parts[2].isdecimal():
        raise InputError(f"a fault is given as KIND:FAULT:N, for instance commit:503:2, not {text!r}")
    kind, fault, times = parts
    return kind, int(fault) if fault.isdecimal() else cast(Fault, fault), int(times)  # `inject` checks them
