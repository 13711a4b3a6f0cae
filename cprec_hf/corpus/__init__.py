"""Behaviour as text: sequences, the prompt template, splits, frozen candidate sets, the leakage audit.

Public names are lazy: importing this package imports neither Polars nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cprec_hf.corpus.audit import audit_corpus as audit_corpus
    from cprec_hf.corpus.build import build_corpus as build_corpus
    from cprec_hf.corpus.config import CorpusConfig as CorpusConfig
    from cprec_hf.corpus.encoder import Encoder as Encoder
    from cprec_hf.corpus.load import corpus_tokenizer as corpus_tokenizer
    from cprec_hf.corpus.load import load_corpus as load_corpus
    from cprec_hf.corpus.load import load_facts as load_facts
    from cprec_hf.corpus.ragged import Ragged as Ragged
    from cprec_hf.corpus.record import ModelRecord as ModelRecord
    from cprec_hf.corpus.stats import corpus_stats as corpus_stats
    from cprec_hf.corpus.template import Template as Template
    from cprec_hf.corpus.template import load_template as load_template

_HOME = {
    "CorpusConfig": "config",
    "Encoder": "encoder",
    "ModelRecord": "record",
    "Ragged": "ragged",
    "Template": "template",
    "audit_corpus": "audit",
    "build_corpus": "build",
    "corpus_stats": "stats",
    "corpus_tokenizer": "load",
    "load_corpus": "load",
    "load_facts": "load",
    "load_template": "template",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
