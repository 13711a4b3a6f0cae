"""Pieces of work side by side, results in order. The pieces are NumPy and Arrow, which run without Python's lock."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

THREADS = min(os.cpu_count() or 1, 8)
"""Pieces at once. Each takes memory of its own, so not all of a large machine's cores."""

TURN = 0.0005
"""Seconds a thread may keep Python's lock while others ask for it. Much of a piece takes less than Python's own 0.005:
with it, a build of 3 million events took 8 % longer."""


@contextmanager
def short_turns() -> Iterator[None]:
    """Inside, threads of this process take turns of `TURN`."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_order(work: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Do pieces of work side by side and yield their results in the order of the pieces.

    Args:
        work: the pieces; the next one is asked for while earlier ones run, so that few of them exist at once.
    """
    waiting: deque[Future[Any]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for piece in work:
            waiting.append(pool.submit(piece))
            while len(waiting) > THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Does pieces of work in order, in a thread of its own, beside whoever hands them over; one at most waits."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[Any] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: Any) -> None:
        self._pool.shutdown()
        if kind is None and self._last is not None:
            self._last.result()

    def do(self, piece: Callable[[], Any]) -> None:
        """Hand over a piece of work; raises what an earlier one raised."""
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(piece)
