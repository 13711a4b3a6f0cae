"""Bars are gone inside and as before afterwards, whatever happens inside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module

import datasets
import pytest
from transformers.utils import logging

from cprec_hf.quiet import without_datasets_bars, without_transformers_bars


def datasets_bar() -> None:
    for _ in datasets.utils.tqdm([1, 2], desc="a datasets bar", mininterval=0):
        pass


def transformers_bar() -> None:
    for _ in logging.tqdm([1, 2], desc="a transformers bar", mininterval=0):
        pass


@pytest.fixture
def bars_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a user's console; the tests' own environment has them off."""
    monkeypatch.setattr(logging, "_tqdm_active", True)
    module = import_module("datasets.utils.tqdm")
    monkeypatch.setattr(module, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(module, "_hf_datasets_progress_bars_disabled", False)


@pytest.mark.parametrize(
    ("quiet", "bar"), [(without_datasets_bars, datasets_bar), (without_transformers_bars, transformers_bar)]
)
def test_no_bar_inside_and_bars_as_before_afterwards(
    quiet: Callable[[], AbstractContextManager[None]],
    bar: Callable[[], None],
    bars_shown: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar()
    before = capsys.readouterr().err
    assert "bar: 100%" in before
    with quiet():
        bar()
        with quiet():  # a stage, and in it a recommender
            bar()
        bar()
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyError), quiet():
        raise KeyError
    bar()
    assert "bar: 100%" in capsys.readouterr().err
