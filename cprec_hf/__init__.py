"""Teach language models what people do: corpora, continual pre-training and ranking on the Hugging Face Hub.

    from cprec_hf import Recommender
    recommender = Recommender.from_pretrained("user/model")

Public names are lazy: importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cprec_hf.behaviors.schema import Behaviors as Behaviors
    from cprec_hf.corpus.build import build_corpus as build_corpus
    from cprec_hf.corpus.load import load_corpus as load_corpus
    from cprec_hf.errors import InputError as InputError
    from cprec_hf.evaluation.protocol import run_evaluation as run_evaluation
    from cprec_hf.ranking.recommender import Recommender as Recommender

__version__ = "0.1.0"

_HOME = {
    "Behaviors": "behaviors.schema",
    "InputError": "errors",
    "Recommender": "ranking.recommender",
    "build_corpus": "corpus.build",
    "load_corpus": "corpus.load",
    "run_evaluation": "evaluation.protocol",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
