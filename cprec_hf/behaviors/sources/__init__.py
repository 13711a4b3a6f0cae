"""Readers: one per kind of public source, all ending in the same schema, chosen by `kind:` in a recipe.

A reader is one file with one frozen dataclass: its fields are the keys a recipe may say, its `read` returns
`Behaviors`. `KINDS` names those that are shipped; any other importable class is read too, as `kind: MODULE:CLASS`
(docs/sources.md shows one from start to end).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys, from_mapping

if TYPE_CHECKING:
    from cprec_hf.behaviors.schema import Behaviors

KINDS = {
    "amazon_2014": "cprec_hf.behaviors.sources.amazon_2014:Amazon2014Config",
    "amazon_2018": "cprec_hf.behaviors.sources.amazon_2018:Amazon2018Config",
    "amazon_2023": "cprec_hf.behaviors.sources.amazon_2023:Amazon2023Config",
    "goodreads": "cprec_hf.behaviors.sources.goodreads:GoodreadsConfig",
    "goodreads_csv": "cprec_hf.behaviors.sources.goodreads_csv:GoodreadsCsvConfig",
    "marketplace": "cprec_hf.behaviors.marketplace:MarketplaceConfig",
    "microlens": "cprec_hf.behaviors.sources.microlens:MicrolensConfig",
    "movielens": "cprec_hf.behaviors.sources.movielens:MovielensConfig",
    "ninerec": "cprec_hf.behaviors.sources.ninerec:NinerecConfig",
    "recbole": "cprec_hf.behaviors.sources.recbole:RecboleConfig",
    "several": "cprec_hf.behaviors.sources.several:SeveralConfig",
    "steam": "cprec_hf.behaviors.sources.steam:SteamConfig",
    "table": "cprec_hf.behaviors.sources.table:TableConfig",
    "yelp": "cprec_hf.behaviors.sources.yelp:YelpConfig",
}
"""Kind -> the class that reads it, as MODULE:CLASS; imported when a recipe names it."""


class Source(Protocol):
    """What a reader's class is: a frozen dataclass of the recipe's keys that can read itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def read(self, where: str) -> Behaviors:
        """The source as `Behaviors`; `where` names the recipe in error messages.

        Raises:
            InputError: a missing file or column, an unreadable file, and what `intake.take_in` finds.
        """
        ...


def read_source(mapping: Mapping[str, Any], where: str) -> Behaviors:
    """Read the source a recipe describes.

    Args:
        mapping: `kind`, one of `KINDS` or MODULE:CLASS, and the keys of that kind's config, e.g. `table.TableConfig`.
        where: what to call the recipe in error messages, e.g. "recipes/tiny/corpus.yaml: `source`".

    Raises:
        InputError: unknown kind or key (with the nearest valid one), missing key, or anything the reader refuses.
    """
    return source_config(mapping, where).read(where)


def source_config(mapping: Mapping[str, Any], where: str) -> Source:
    """What a recipe says of its source, checked, before any file is looked for (see `read_source`)."""
    if "kind" not in mapping:
        raise InputError(f"{where}: missing key `kind`; choose one of {', '.join(KINDS)}")
    rest = {key: value for key, value in mapping.items() if key != "kind"}
    return from_mapping(rest, _class(str(mapping["kind"]), where), where)


def _class(kind: str, where: str) -> type[Source]:
    own = re.fullmatch(r"([\w.]+):(\w+)", kind)
    if own is None:
        check_keys([kind], KINDS, f"{where}: `kind`")
        own = re.fullmatch(r"([\w.]+):(\w+)", KINDS[kind])
        assert own is not None
    try:
        return getattr(import_module(own[1]), own[2])
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name not in (own[1], own[1].partition(".")[0]):
            raise  # the module is there; what it imports is not
        raise InputError(f"{where}: `kind` is {kind}: {error}; put the folder of {own[1]} on PYTHONPATH") from None
