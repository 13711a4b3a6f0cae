"""A source's log as it was found: every row flagged with the reason it is refused for, and not yet counted.

Counting needs a pass over all rows, and so does whatever is made of them. A reader that is called by itself counts at
once (`intake.take_in`); a build of a corpus takes the flagged rows and counts them in the pass that it makes anyway,
so that a log is read once and never held in memory.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import polars as pl

from cprec_hf.behaviors.account import Account, Step
from cprec_hf.behaviors.schema import About
from cprec_hf.behaviors.sources.files import Table, said_plainly
from cprec_hf.behaviors.sources.timestamps import Unit, check_unit, number, seconds
from cprec_hf.behaviors.titles import clean_titles
from cprec_hf.errors import InputError

REFUSED = "__refused"
USABLE = "__usable"
ITEM = "__item"
LATEST = "__latest"
UNREADABLE = {"time": "unreadable timestamp", "position": "unreadable position"}
_COUNTS_LATER: ContextVar[bool] = ContextVar("counts_later", default=False)


@contextmanager
def counting_later(later: bool = True) -> Iterator[None]:
    """Inside, sources are read as `Behaviors` with a `log` and an empty account, for whoever counts as they go.

    Args:
        later: false takes it back, for a reader that needs the counts of the sources it reads.
    """
    token = _COUNTS_LATER.set(later)
    try:
        yield
    finally:
        _COUNTS_LATER.reset(token)


def counts_later() -> bool:
    """Whether this is inside `counting_later`."""
    return _COUNTS_LATER.get()


@dataclass(frozen=True)
class Log:
    """The flagged rows of a source and what to make of their counts.

    Attributes:
        interactions: their files.
        items: the items' files.
        catalogue: the items' rows in their files' order, with `REFUSED`.
        flagged: the interactions with `REFUSED`, and `ITEM`: the row of their item in `kept_items`.
        dtype: of the raw timestamps.
        about: what the source is.
        unit: of its times.
        domains: the only ones asked for.
    """

    interactions: Table
    items: Table
    catalogue: pl.DataFrame
    flagged: pl.LazyFrame
    dtype: pl.DataType
    about: About
    unit: Unit
    domains: list[str] | None

    def rows(self) -> pl.LazyFrame:
        """The interactions that can be used; an event may stand there more than once."""
        return self.flagged.filter(pl.col(REFUSED).is_null())

    def queries(self) -> list[pl.LazyFrame]:
        """What `account` needs to be told of the interactions; to be collected in any one pass over them.

        The first gives the counts. The others only read every field, so that rows that are broken are found.
        """
        latest = pl.col(LATEST).max() if LATEST in self.flagged.collect_schema() else pl.lit(None, pl.Int64)
        return [self.flagged.group_by("domain", REFUSED).agg(n=pl.len(), latest=latest), *self.interactions.whole()]

    def reading(self) -> AbstractContextManager[None]:
        """Inside, what cannot be read of the interactions is an `InputError` that says where it stands."""
        return said_plainly(*self.interactions.paths)

    def account(self, counts: pl.DataFrame, n_events: int) -> Account:
        """The account of reading, once the interactions are counted.

        Args:
            counts: the first of `queries`, collected.
            n_events: how many different events there are.

        Raises:
            InputError: timestamps in another unit, a domain without items, or nothing left.
        """
        if self.about.order == "time":
            unreadable = int(counts.filter(pl.col(REFUSED) == UNREADABLE["time"])["n"].sum())
            check_unit(
                self.interactions, self.dtype, self.unit, counts.select(pl.col("latest").max()).item(), unreadable
            )
        item_counts = self.catalogue.group_by("domain", REFUSED).agg(n=pl.len())
        self._check_domains(item_counts, counts)
        n_items = self.catalogue.filter(pl.col(REFUSED).is_null()).select("domain", "item_id").n_unique()
        account = Account(
            [
                _step("items: read", item_counts, n_items, "same item twice"),
                _step("interactions: read", counts, n_events, "duplicate event"),
            ]
        )
        if not n_events:
            self._nothing_left(account)
        return account

    def _check_domains(self, item_counts: pl.DataFrame, event_counts: pl.DataFrame) -> None:
        known = sorted(item_counts.filter(pl.col(REFUSED).is_null())["domain"].unique())
        asked = pl.col(REFUSED).is_null() | (pl.col(REFUSED) != "domain not asked for")
        named = event_counts.filter(asked & pl.col("domain").is_not_null() & (pl.col("domain") != ""))
        active = dict(named.group_by("domain").agg(pl.col("n").sum()).sort("domain").rows())
        for domain in self.domains or []:
            if domain not in active:
                every = sorted(event_counts.drop_nulls("domain")["domain"].unique())
                raise InputError(
                    f"{self.interactions}: no interaction in the domain {domain!r}{_nearest(domain, every)}"
                )
        for domain, n in active.items():
            if domain not in known:
                raise InputError(
                    f"{self.items}: not one item with a title in the domain {domain!r}, which has {n:,} interactions "
                    f"in {self.interactions}: add its items, or leave it out by naming the others under `domains:`"
                    f"{_nearest(domain, known)}"
                )
        for domain, cleaned in zip(known, clean_titles(known), strict=True):
            if domain != cleaned:
                raise InputError(f"{self.items}: the domain name {domain!r} is not one clean line of text; rename it")

    def _nothing_left(self, account: Account) -> None:
        refused = account.steps[-1].refused
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in refused.items()) or "the file has no rows"
        place, is_time = "", self.about.order == "time"
        if UNREADABLE[self.about.order] in refused:
            raw = pl.col("timestamp")
            read = seconds(raw, self.dtype, self.unit) if is_time else number(raw, self.dtype)
            place = f". {self.interactions.first(given(raw, self.dtype) & read.is_null(), 'timestamp')}"
            place += f", read as `{self.unit}`" if is_time else ", where a whole number is expected"
        raise InputError(f"{self.interactions}: not one interaction can be used ({reasons}){place}")


def kept_items(catalogue: pl.DataFrame) -> pl.DataFrame:
    """The items that can be used, each once (the first of its rows), sorted by (domain, item_id)."""
    kept = catalogue.filter(pl.col(REFUSED).is_null()).drop(REFUSED)
    return kept.unique(["domain", "item_id"], keep="first", maintain_order=True).sort("domain", "item_id")


def given(raw: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether there is a value at all: not null, and not blank where it is text."""
    return raw.is_not_null() & (raw.str.strip_chars() != "" if dtype == pl.String else pl.lit(True))


def _step(name: str, counts: pl.DataFrame, rows_out: int, repeated: str) -> Step:
    reasons = counts.drop_nulls(REFUSED).group_by(REFUSED).agg(pl.col("n").sum()).sort("n", REFUSED, descending=True)
    refused = dict(reasons.rows())
    rows_in = int(counts["n"].sum())
    twice = rows_in - rows_out - sum(refused.values())
    return Step(name, rows_in, rows_out, {**refused, **({repeated: twice} if twice else {})})


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [k for k in known if k.lower() == name.lower()]
    return f"; did you mean {near[0]!r}?" if near else f"; the domains there are {', '.join(known) or 'none'}"
