"""Bring your own logs: one table of interactions and one of items, their columns mapped in the recipe.

    source:
      kind: table
      name: my-shop
      licence: proprietary
      citation: none
      interactions: ${MY_DATA}/events-*.parquet     # a path, a glob, a list, hf://datasets/USER/NAME/FILE, or
                                                    # {dataset: USER/NAME, config: CONFIG, split: SPLIT}
      items: ${MY_DATA}/products.jsonl
      columns: {user_id: customer, item_id: sku, timestamp: bought_at}
      item_columns: {title: product_name}           # only where the items' file names a column differently
      domain: Shoes                                 # only where a file has no column for it
      timestamp_unit: ms

A source that has an order but no time says `order: position` and maps `timestamp` to its positions. Where titles stand
in the interactions, give that same file as `items` too: the first row of an item is taken, the others are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cprec_hf.behaviors.schema import ALL_DOMAIN_POSITION, INTERACTIONS, ITEMS, About, Behaviors
from cprec_hf.behaviors.sources.files import SourceFile, Table, columns_of, find_files, require_columns
from cprec_hf.behaviors.sources.hub_dataset import HubDataset
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.timestamps import Unit
from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys

OPTIONAL = ("rating", ALL_DOMAIN_POSITION)


@dataclass(frozen=True)
class TableConfig:
    """The keys of a source of kind `table`."""

    name: str
    """What the source calls itself."""
    licence: str
    """Its licence, in words or as an SPDX identifier."""
    citation: str
    """Whom to cite."""
    interactions: str | list[str] | HubDataset
    """Files of interactions: .parquet, .csv, .tsv, .jsonl (the last three also with .gz); `${VARIABLE}` is expanded.
    Or a dataset of the Hub, whose files may be these: `{dataset: USER/NAME}`."""
    items: str | list[str] | HubDataset
    """The same for the items; their columns that have no place in the schema are kept as attributes."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our name -> the files' name, for both tables; a column not listed has our name."""
    item_columns: dict[str, str] = field(default_factory=dict)
    """The same for the items alone, before `columns`; may also rename attributes (`description: text`)."""
    domain: str | None = None
    """The domain of all rows of a file that has no domain column."""
    domains: list[str] | None = None
    """Only these domains; null means all there are."""
    order: Literal["time", "position"] = "time"
    """What `timestamp` holds: a time, or the position of the event among those of its user and domain."""
    timestamp_unit: Unit = "s"
    """Unit of the times: s, ms, us, ns, or iso for ISO 8601 text (UTC where it names no offset)."""
    redistributable: bool = False
    """Whether texts made from this source may be published."""

    def __post_init__(self) -> None:
        """Raise `InputError` for keys that contradict each other or name no column of the schema."""
        check_keys(self.columns, {*INTERACTIONS, *ITEMS, ALL_DOMAIN_POSITION}, "`columns`")
        if self.order == "position" and self.timestamp_unit != "s":
            raise InputError("positions have no unit: leave out `timestamp_unit`, or say `order: time`")
        if self.domains is not None and not self.domains:
            raise InputError("`domains` is an empty list; leave it out to take all domains")

    def read(self, where: str) -> Behaviors:
        """Read the two tables; `where` names the recipe in error messages.

        Raises:
            InputError: a missing file or column, an unreadable file, and what `intake.take_in` finds.
        """
        interactions, items = _files(self.interactions, where), _files(self.items, where)
        wanted = {name: self.columns.get(name, name) for name in ("user_id", "item_id", "domain", "timestamp")}
        wanted |= {name: self.columns[name] for name in OPTIONAL if name in self.columns}
        wanted_items = {name: self.columns.get(name, name) for name in ITEMS} | self.item_columns
        return take_in(
            _table(interactions, wanted, self, where, OPTIONAL),
            _table(items, wanted_items, self, where, ()),
            About(self.name, self.licence, self.citation, self.order, self.redistributable),
            unit=self.timestamp_unit,
            domains=self.domains,
        )


def _files(given: str | list[str] | HubDataset, where: str) -> tuple[SourceFile, ...]:
    return find_files(given.files(where) if isinstance(given, HubDataset) else given, where)


def _table(
    paths: tuple[SourceFile, ...], wanted: dict[str, str], config: TableConfig, where: str, optional: tuple[str, ...]
) -> Table:
    columns = {path: columns_of(path) for path in paths}
    first = columns[paths[0]]
    wanted = wanted | {name: name for name in optional if name in first and name not in wanted}
    constants: dict[str, str] = {}
    if config.domain is not None and wanted["domain"] == "domain" and "domain" not in first:
        constants["domain"] = config.domain
        wanted = {name: raw for name, raw in wanted.items() if name != "domain"}
    for path in paths:
        require_columns(path, columns[path], wanted, where)
    return Table(paths, wanted, constants)
