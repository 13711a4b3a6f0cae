"""Pieces of work side by side, results in order. The pieces are NumPy and Arrow, which run without Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREADS = min(os.cpu_count() or 1, 8)
"""Pieces at once. Each takes memory of its own, so not all of a large machine's cores."""


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
