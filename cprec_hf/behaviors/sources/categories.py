"""Sources that publish a file of events and one of items for each category: any number at once, each one a domain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.files import Table, columns_of, find_files, kind_of, require_columns
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.json_lines import DAMAGED, SUFFIXES
from cprec_hf.behaviors.sources.prepared import Prepared, json_rows
from cprec_hf.behaviors.sources.timestamps import Unit
from cprec_hf.errors import InputError

PLACE = "{category}"
Categories = list[str] | dict[str, str]


@dataclass(frozen=True)
class CategoryLayout:
    """How a source of this form publishes its categories.

    Attributes:
        events: our name -> the files' name, of the columns of a file of events.
        items: the same of a file of items: item_id and title.
        attributes: name -> what it is of the items' columns `raw`, each a String, null where a line has none.
        raw: the columns that `attributes` and a title are made of.
        unit: of the timestamps.
    """

    events: dict[str, str]
    items: dict[str, str]
    attributes: dict[str, pl.Expr]
    raw: tuple[str, ...]
    unit: Unit = "s"

    def read(self, events: str, items: str, categories: Categories, about: About, where: str) -> Behaviors:
        """Read the files of all categories; users are shared across them.

        Args:
            events: a path as `files.find_files` takes it, with `{category}` in it: JSON Lines or CSV.
            items: likewise, JSON Lines.
            categories: as `files_of` takes them.
            about: what the source is.
            where: what to call the recipe in error messages.

        Raises:
            InputError: what `files_of`, `files.require_columns` and `intake.take_in` find.
        """
        events_of, items_of = files_of(events, categories, where), files_of(items, categories, where)
        for path in events_of:
            require_columns(path, columns_of(path), self.events, where)
        for path in items_of:
            require_columns(path, columns_of(path), self.items, where)

        def read_events(path: Path) -> pl.LazyFrame:
            rows = Table((path,), self.events).scan(damaged=True)
            return rows.with_columns(domain=pl.lit(events_of[path]))

        def read_items(path: Path) -> pl.LazyFrame:
            rows = json_rows(path, [*dict.fromkeys([*self.items.values(), *self.raw])])
            named = {name: pl.col(raw) for name, raw in self.items.items()}
            return rows.select(DAMAGED, **named | self.attributes, domain=pl.lit(items_of[path]))

        return take_in(
            Prepared(tuple(events_of), self.events | {"domain": PLACE}, read=read_events),
            Prepared(tuple(items_of), self.items | {"domain": PLACE}, read=read_items),
            about,
            unit=self.unit,
        )


@dataclass(frozen=True)
class AmazonConfig:
    """The keys of a source of an edition of the Amazon reviews, whose subclass says how its files are laid out."""

    layout: ClassVar[CategoryLayout]
    citation: ClassVar[str]

    reviews: str
    """Its reviews, `{category}` where its name stands, as in `reviews/{category}.jsonl.gz`; may be a glob or an hf://
    path, and hold `${VARIABLE}`."""
    items: str
    """The items' metadata, likewise, as in `meta/meta_{category}.jsonl.gz`."""
    categories: list[str] | dict[str, str]
    """Categories by their names in the files' names; a mapping also says what to call each one as a domain."""
    name: str
    """What the source calls itself."""
    licence: str = "research use, redistribution not stated"
    """Its licence, in words or as an SPDX identifier."""
    redistributable: bool = False
    """Whether texts made from this source may be published."""

    def read(self, where: str) -> Behaviors:
        """Read all categories, items with category, description and brand; `where` names the recipe.

        Raises:
            InputError: what `CategoryLayout.read` finds.
        """
        about = About(self.name, self.licence, self.citation, "time", self.redistributable)
        return self.layout.read(self.reviews, self.items, self.categories, about, where)


def files_of(pattern: str, categories: Categories, where: str) -> dict[Path, str]:
    """The files of all categories -> the domain of their rows.

    Args:
        pattern: a path as `files.find_files` takes it, with `{category}` in it.
        categories: their names in the files' names; a mapping also says what to call each one as a domain, by default
            its name with spaces for underscores.
        where: what to call the recipe in error messages.

    Raises:
        InputError: a pattern without `{category}`, no category, a domain named twice, a category without a file, or a
            file that is neither JSON Lines nor CSV.
    """
    if PLACE not in pattern:
        raise InputError(f"{where}: {pattern} does not say where a category's name stands; write {PLACE} there")
    if not categories:
        raise InputError(f"{where}: `categories` is empty; name at least one")
    named = categories if isinstance(categories, dict) else {name: name.replace("_", " ") for name in categories}
    if len({*named.values()}) < len(categories):
        raise InputError(f"{where}: `categories` names a domain twice: {', '.join(named.values())}")
    found: dict[Path, str] = {}
    for category, domain in named.items():
        for path in find_files(pattern.replace(PLACE, category), where):
            if not isinstance(path, Path) or kind_of(path) not in (*SUFFIXES, ".csv"):
                raise InputError(
                    f"{where}: {path} is neither JSON Lines nor CSV, as it is published; see `kind: table`"
                )
            found[path] = domain
    return found
