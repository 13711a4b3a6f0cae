"""Faults on demand: the next requests of a kind fail as requests to the public Hub do, so that clients can be tested.

A fault is an HTTP status (answered, the request is not carried out), `cut` (the connection is closed before the request
is carried out; in the middle of the content where one moves: `lfs_put` and `resolve`) or `lost` (carried out, but its
answer never arrives). A kind is the name of an endpoint's function; HEAD requests, which clients send before they
download, are of the kind `head` instead.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from typing import Literal

from cprec_hf.errors import InputError

Fault = int | Literal["cut", "lost"]


class Faults:
    """The faults that wait for their request, oldest first, and which kinds of request were asked for so far.

    Args:
        kinds: the kinds of request there are.
    """

    def __init__(self, kinds: set[str]) -> None:
        self.seen: Counter[str] = Counter()
        self._kinds = kinds
        self._waiting: deque[tuple[str, Fault]] = deque()
        self._lock = threading.Lock()

    def inject(self, kind: str, fault: Fault, times: int = 1) -> None:
        """Let the next `times` requests of `kind` fail, once those injected before have been met.

        Raises:
            InputError: no such kind (`any` stands for all of them), no such fault, or fewer than one time.
        """
        if kind != "any" and kind not in self._kinds:
            raise InputError(f"no requests of kind {kind!r}; choose any or one of {', '.join(sorted(self._kinds))}")
        if fault not in ("cut", "lost") and not (isinstance(fault, int) and 400 <= fault <= 599):
            raise InputError(f"a fault is a status from 400 to 599, cut or lost, not {fault!r}")
        if times < 1:
            raise InputError(f"a fault happens at least once, not {times} times")
        with self._lock:
            self._waiting.extend([(kind, fault)] * times)

    def clear(self) -> None:
        """Forget the faults that still wait."""
        with self._lock:
            self._waiting.clear()

    def meet(self, kind: str) -> Fault | None:
        """Count a request and take the fault that waits for it, if any does."""
        with self._lock:
            self.seen[kind] += 1
            found = next((waiting for waiting in self._waiting if waiting[0] in (kind, "any")), None)
            if found is None:
                return None
            self._waiting.remove(found)  # the first equal one, which is the one found
            return found[1]


class Cut(ConnectionError):
    """The server closes the connection without an answer."""


def half_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The first half of a body's first chunk, then the connection is `Cut`."""
    first = next(chunks, b"")
    yield first[: len(first) // 2]
    raise Cut
