"""The way in: two tables as they were found become `Behaviors`, every row accounted for.

A row that cannot be used is refused and counted under the first reason that applies. What is wrong with a whole file
or a whole domain is an `InputError`. The items are read here, once, and held in memory; the interactions stay lazy, and
one streaming pass counts them, here or in the build (`log.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.schema import ALL_DOMAIN_POSITION, EVENT_KEY, INTERACTIONS, ITEM_KEY, About, Behaviors
from cprec_hf.behaviors.sources.files import Table, said_plainly
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.behaviors.sources.log import (
    ITEM,
    LATEST,
    REFUSED,
    UNREADABLE,
    USABLE,
    Log,
    counts_later,
    given,
    kept_items,
)
from cprec_hf.behaviors.sources.timestamps import Unit, number, seconds
from cprec_hf.behaviors.titles import clean_title

NOT_UTF8 = "\ufffd"


def take_in(
    interactions: Table, items: Table, about: About, *, unit: Unit = "s", domains: list[str] | None = None
) -> Behaviors:
    """Clean, check and count two tables of a source.

    Args:
        interactions: columns user_id, item_id, domain, timestamp; maybe rating, all_domain_position.
        items: columns item_id, domain, title; every other column of its files is kept as an attribute.
        about: what the source is; `about.order` says what the column `timestamp` holds.
        unit: of the timestamps, where they are times.
        domains: only these (all others are counted as "domain not asked for"); null means all.

    Raises:
        InputError: a file that cannot be read, timestamps in another unit, a domain without items, or nothing left;
            inside `log.counting_later` those of the interactions are raised by whoever counts.
    """
    with said_plainly(*items.paths, *interactions.paths):
        catalogue, *_ = pl.collect_all([_flag_items(items, domains), *items.whole()], engine="streaming")
        flagged, dtype = _flag_interactions(interactions, _lookup(catalogue), about, unit, domains)
    log = Log(interactions, items, catalogue, flagged, dtype, about, unit, domains)
    kept = kept_items(catalogue).lazy()
    columns = [*INTERACTIONS, *([ALL_DOMAIN_POSITION] if ALL_DOMAIN_POSITION in interactions.columns else [])]
    if counts_later():
        return Behaviors(log.rows().select(columns), kept, about, Account(), log)
    distinct = log.rows().select(EVENT_KEY).unique()
    with log.reading():
        n_events, counts, *_ = pl.collect_all([distinct.select(pl.len()), *log.queries()], engine="streaming")
    account = log.account(counts, n_events.item())
    return Behaviors(log.rows().select(columns).unique(EVENT_KEY, keep="first"), kept, about, account)


def _flag_items(items: Table, domains: list[str] | None) -> pl.LazyFrame:
    rows = items.scan(attributes=True, damaged=True).with_columns(pl.col("item_id", "domain", "title").cast(pl.String))
    title = pl.col("title")
    rows = rows.with_columns(title=clean_title(title), __broken=title.str.contains(NOT_UTF8, literal=True))
    reasons = {
        "no item id": _missing("item_id"),
        **_domain_reasons(domains),
        "id that is not UTF-8": _broken("item_id"),
        "no title": _missing("title"),
        "title that is not UTF-8": pl.col("__broken"),
    }
    first = ["item_id", "domain", "title"]
    return rows.with_columns(_first_reason(reasons)).select(*first, pl.exclude(*first, "__broken", DAMAGED))


def _lookup(catalogue: pl.DataFrame) -> pl.DataFrame:
    """domain, item_id -> whether the item can be used, and its row in `log.kept_items`."""
    usable = catalogue.group_by(ITEM_KEY).agg(pl.col(REFUSED).is_null().any().alias(USABLE))
    rows = kept_items(catalogue).select(ITEM_KEY).with_row_index(ITEM).with_columns(pl.col(ITEM).cast(pl.Int32))
    return usable.join(rows, on=ITEM_KEY, how="left")


def _flag_interactions(
    interactions: Table, lookup: pl.DataFrame, about: About, unit: Unit, domains: list[str] | None
) -> tuple[pl.LazyFrame, pl.DataType]:
    """The interactions in their types with the column `REFUSED`, and the type the raw timestamps have."""
    rows = interactions.scan(damaged=True)
    schema = rows.collect_schema()
    raw, dtype = pl.col("timestamp"), schema["timestamp"]
    is_time = about.order == "time"
    noun = "timestamp" if is_time else "position"
    typed = {
        **{name: pl.col(name).cast(pl.String) for name in ("user_id", "item_id", "domain")},
        "timestamp": seconds(raw, dtype, unit) if is_time else number(raw, dtype),
        "rating": pl.lit(None, pl.Float32),
        "__unreadable": given(raw, dtype),
    }
    if is_time and unit != "iso" and not dtype.is_temporal():
        typed[LATEST] = number(raw, dtype)
    if "rating" in schema:
        typed["rating"] = pl.col("rating").cast(pl.Float32, strict=False)
        typed["__rating"] = given(pl.col("rating"), schema["rating"])
    if ALL_DOMAIN_POSITION in schema:
        typed[ALL_DOMAIN_POSITION] = number(pl.col(ALL_DOMAIN_POSITION), schema[ALL_DOMAIN_POSITION])
        typed["__position"] = given(pl.col(ALL_DOMAIN_POSITION), schema[ALL_DOMAIN_POSITION])
    reasons = {
        "no user id": _missing("user_id"),
        "no item id": _missing("item_id"),
        **_domain_reasons(domains),
        "id that is not UTF-8": _broken("user_id") | _broken("item_id"),
        UNREADABLE[about.order]: pl.col("__unreadable") & pl.col("timestamp").is_null(),
        f"no {noun}": pl.col("timestamp").is_null(),
        f"negative {noun}": pl.col("timestamp") < 0,
    }
    if "rating" in schema:
        reasons["unreadable rating"] = pl.col("__rating") & pl.col("rating").is_null()
    if ALL_DOMAIN_POSITION in schema:
        position = pl.col(ALL_DOMAIN_POSITION)
        reasons["unreadable position across domains"] = pl.col("__position") & position.is_null()
        reasons["negative position across domains"] = position < 0
    reasons["item not in the catalogue"] = pl.col(USABLE).is_null()
    reasons["item without a usable title"] = ~pl.col(USABLE)
    rows = rows.with_columns(**typed).join(lookup.lazy(), on=ITEM_KEY, how="left", maintain_order="left")
    return rows.with_columns(_first_reason(reasons)), dtype


def _domain_reasons(domains: list[str] | None) -> dict[str, pl.Expr]:
    reasons = {"no domain": _missing("domain")}
    if domains is not None:
        reasons["domain not asked for"] = ~pl.col("domain").is_in(domains)
    return reasons


def _first_reason(reasons: Mapping[str, pl.Expr]) -> pl.Expr:
    found = [pl.when(wrong).then(pl.lit(reason)) for reason, wrong in reasons.items()]
    return pl.coalesce(DAMAGED, *found).alias(REFUSED)


def _missing(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) == "")


def _broken(column: str) -> pl.Expr:
    return pl.col(column).str.contains(NOT_UTF8, literal=True)
