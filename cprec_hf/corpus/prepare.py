"""What a corpus is built from: the catalogue, and the events in buckets on disk, filtered, with their account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.filters import FilterConfig, k_core, nothing_left
from cprec_hf.behaviors.schema import ALL_DOMAIN_POSITION, ITEM_KEY, Behaviors
from cprec_hf.behaviors.sources.log import ITEM, REFUSED
from cprec_hf.corpus.catalogue import read_items
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.events import Bucket, EventStore, open_events
from cprec_hf.corpus.pseudonyms import pseudonymise
from cprec_hf.corpus.threads import in_order
from cprec_hf.corpus.windows import run_bounds


@dataclass(frozen=True)
class Prepared:
    """A source, read.

    Attributes:
        items: `catalogue.read_items` of the items that stay; events name its rows.
        store: the events that stay.
        account: of reading and filtering.
    """

    items: pl.DataFrame
    store: EventStore
    account: Account

    @property
    def domains(self) -> list[str]:
        """The items' domains, ascending; the number of a domain is its place here."""
        return self.items["domain"].unique().sort().to_list()

    @property
    def domain_of(self) -> np.ndarray:
        """The number of each item's domain, int64 [items]."""
        return domain_numbers(self.items)


@dataclass
class DomainFigures:
    """Figures of one domain's events.

    Attributes:
        users: active in it.
        interactions: in it.
        lengths: interactions of a user -> users.
    """

    users: int
    interactions: int
    lengths: Counter[int]

    def quantiles(self) -> dict[str, int] | None:
        """Median, 90th percentile and largest number of interactions of a user (the lower of two neighbours)."""
        if not self.users:
            return None
        sizes = sorted(self.lengths)
        below = np.cumsum([self.lengths[size] for size in sizes])
        places = {"median": int(0.5 * (self.users - 1)), "p90": int(0.9 * (self.users - 1)), "max": self.users - 1}
        return {name: sizes[int(np.searchsorted(below, place, side="right"))] for name, place in places.items()}


def prepare(behaviors: Behaviors, config: CorpusConfig, folder: Path) -> Prepared:
    """Read a source into `folder`.

    Args:
        behaviors: with a `log` it is read and counted here, in one pass; without one it is validated first.
        config: filters, pseudonyms and memory.
        folder: to be made.

    Raises:
        InputError: what `sources.log.Log.account`, `Behaviors.validate` and `open_events` refuse, or filters that leave
            nothing.
    """
    items, rows, queries = coded_log(behaviors)
    if behaviors.about.order == "time":
        rows = rows.drop("clock")  # which is the timestamp
    with reading(behaviors):
        store, repeated, found = open_events(
            rows, domain_numbers(items), folder, name_users=pseudonymise if config.pseudonymise else None,
            memory_gb=config.memory_gb, also=queries,
        )  # fmt: skip
    account = read_account(behaviors, found, repeated)
    return _filtered(Prepared(items, store, account), config.filters, behaviors.about.name)


def coded_log(behaviors: Behaviors) -> tuple[pl.DataFrame, pl.LazyFrame, list[pl.LazyFrame]]:
    """A source to be read: the catalogue, its usable rows, and what else `read_account` needs of the same pass.

    Returns:
        `catalogue.read_items`; rows of user_id, item (row of that catalogue), timestamp and clock, in which an event
        may stand more than once; queries over the source.

    Raises:
        InputError: what `Behaviors.validate` refuses, if there is no `log`.
    """
    log = behaviors.log
    if log is None:
        behaviors.validate()
    items = read_items(behaviors.items)
    if log is None:
        return items, _rows(behaviors, items), []
    rows = log.rows().select("user_id", pl.col(ITEM).alias("item"), "timestamp", clock=_clock(behaviors))
    return items, rows, log.queries()


def reading(behaviors: Behaviors) -> AbstractContextManager[None]:
    """Inside, what cannot be read of the source is an `InputError` that says where it stands."""
    return behaviors.log.reading() if behaviors.log else nullcontext()


def read_account(behaviors: Behaviors, found: list[pl.DataFrame], repeated: int) -> Account:
    """The account of reading.

    Args:
        behaviors: the source.
        found: the results of the queries of `coded_log`.
        repeated: usable rows that were the second or later of their event.

    Raises:
        InputError: what `sources.log.Log.account` refuses.
    """
    if behaviors.log is None:
        return behaviors.account.copy()
    usable = int(found[0].filter(pl.col(REFUSED).is_null())["n"].sum())
    return behaviors.log.account(found[0], usable - repeated)


def domain_numbers(items: pl.DataFrame) -> np.ndarray:
    """The number of each item's domain, ascending with the names, int64 [items]."""
    return items["domain"].rank("dense").to_numpy().astype(np.int64) - 1


def domain_figures(prepared: Prepared) -> dict[str, DomainFigures]:
    """Figures of every domain, events or not."""
    domain_of, domains = prepared.domain_of, prepared.domains
    figures = {domain: DomainFigures(0, 0, Counter()) for domain in domains}
    for bucket in prepared.store:
        domain = domain_of[bucket.item]
        bounds = run_bounds(bucket.user, domain)
        lengths, of = np.diff(bounds), domain[bounds[:-1]]
        for number, name in enumerate(domains):
            sizes, users = np.unique_counts(lengths[of == number])
            figures[name].users += int(users.sum())
            figures[name].interactions += int((sizes * users).sum())
            figures[name].lengths.update(dict(zip(sizes.tolist(), users.tolist(), strict=True)))
    return figures


class Frames:
    """The events of some domains, a frame a bucket, as `splits` takes them; may be gone through again and again.

    Columns: user_id (row of the bucket's users), domain (an Enum), item_id (row of the catalogue), timestamp, clock.
    """

    def __init__(self, prepared: Prepared, domains: list[str]) -> None:
        self.prepared, self.names = prepared, pl.Enum(prepared.domains)
        self.domain_of = prepared.domain_of.astype(np.uint32)
        self.wanted = np.isin(prepared.domains, domains)[self.domain_of]  # of each item

    def __iter__(self) -> Iterator[pl.DataFrame]:
        store = self.prepared.store
        return in_order(partial(self._of, number) for number in range(len(store)))

    def _of(self, number: int) -> pl.DataFrame:
        return self.of(self.prepared.store.load(number))

    def of(self, bucket: Bucket) -> pl.DataFrame:
        """The frame of one bucket."""
        wanted = bucket.take(np.flatnonzero(self.wanted[bucket.item]))
        domain = pl.Series(self.domain_of[wanted.item]).cat.to(self.names)
        return wanted.frame().rename({"user": "user_id", "item": "item_id"}).with_columns(domain=domain)


def _rows(behaviors: Behaviors, items: pl.DataFrame) -> pl.LazyFrame:
    codes = items.select(ITEM_KEY).with_row_index("item").with_columns(pl.col("item").cast(pl.Int32)).lazy()
    rows = behaviors.interactions.select("user_id", *ITEM_KEY, "timestamp", clock=_clock(behaviors))
    return rows.join(codes, on=ITEM_KEY, how="left").select("user_id", "item", "timestamp", "clock")


def _clock(behaviors: Behaviors) -> pl.Expr:
    """The order across domains: the time, or the position across domains where there is one."""
    if behaviors.about.order == "time":
        return pl.col("timestamp")
    if ALL_DOMAIN_POSITION in behaviors.interactions.collect_schema():
        return pl.col(ALL_DOMAIN_POSITION)
    return pl.lit(None, pl.Int64)


def _filtered(read: Prepared, config: FilterConfig, name: str) -> Prepared:
    """What the filters leave; the buckets are written again, with the numbers of the items that stay."""
    if config == FilterConfig(core=config.core):
        return read
    store, domain_of = read.store, read.domain_of
    alive, refused = k_core(lambda number: _pairs(store.load(number), domain_of), len(store), len(domain_of), config)
    active, n_before, n_after = np.zeros(len(domain_of), dtype=bool), 0, 0
    for number, bits in enumerate(alive):
        bucket = store.load(number)
        kept = bucket.take(np.unpackbits(bits, count=len(bucket)).astype(bool))
        active[kept.item] = True
        n_before, n_after = n_before + len(bucket), n_after + len(kept)
        store.save(number, kept.without_idle_users())
    if not n_after:
        raise nothing_left(name, refused)
    account = read.account.copy()
    account.add("interactions: filter", n_before, n_after, refused)
    items = read.items
    if config.min_item_interactions > 0:
        items = items.filter(pl.Series(active))
        gone = {f"item with fewer than {config.min_item_interactions}": len(read.items) - len(items)}
        account.add("items: filter", len(read.items), len(items), gone)
        renumbered = np.cumsum(active, dtype=np.int32) - 1
        for number in range(len(store)):
            store.renumber_items(number, renumbered)
    return Prepared(items, store, account)


def _pairs(bucket: Bucket, domain_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A number for the user and domain of each event, and its item."""
    bounds = run_bounds(bucket.user, domain_of[bucket.item])
    return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), bucket.item


def role_facts(figures: DomainFigures, n_items: int) -> dict[str, Any]:
    """What the facts say of a domain's size."""
    return {
        "users": figures.users, "items": n_items, "interactions": figures.interactions, "lengths": figures.quantiles()
    }  # fmt: skip
