"""What users did: one schema, a reader for each kind of source, filters, and a simulated marketplace.

Public names are lazy: importing this package does not import Polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cprec_hf.behaviors.account import Account as Account
    from cprec_hf.behaviors.filters import FilterConfig as FilterConfig
    from cprec_hf.behaviors.filters import apply_filters as apply_filters
    from cprec_hf.behaviors.schema import About as About
    from cprec_hf.behaviors.schema import Behaviors as Behaviors
    from cprec_hf.behaviors.sources import read_source as read_source

_HOME = {
    "About": "schema",
    "Account": "account",
    "Behaviors": "schema",
    "FilterConfig": "filters",
    "apply_filters": "filters",
    "read_source": "sources",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
