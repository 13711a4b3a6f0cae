"""Keep libraries' progress bars off the console where a line or a bar of ours says more; as they were afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """No bars of transformers ("Loading weights", "Writing model shards") inside.

    Those of downloads are the Hub client's and stay, and so do all warnings.
    """
    from transformers.utils import logging

    def silent(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return factory(*args, **{**options, "disable": True})

    before = logging.set_tqdm_hook(silent)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


@contextmanager
def without_datasets_bars() -> Iterator[None]:
    """No bars of datasets ("Generating train split", "Map") inside."""
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
