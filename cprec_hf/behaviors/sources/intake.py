"""The way in: two tables as they were found become `Behaviors`, every row accounted for.

A row that cannot be used is refused and counted under the first reason that applies. What is wrong with a whole file
or a whole domain is an `InputError`, raised here, before any work starts. One streaming pass does the counting; the
tables themselves stay lazy.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import polars as pl

from cprec_hf.behaviors.account import Account, Step
from cprec_hf.behaviors.schema import ALL_DOMAIN_POSITION, EVENT_KEY, INTERACTIONS, ITEM_KEY, About, Behaviors
from cprec_hf.behaviors.sources.files import Table, said_plainly
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.behaviors.sources.timestamps import Unit, check_unit, number, seconds
from cprec_hf.behaviors.titles import clean_title, clean_titles
from cprec_hf.errors import InputError

REFUSED = "__refused"
NOT_UTF8 = "\ufffd"
UNREADABLE = {"time": "unreadable timestamp", "position": "unreadable position"}


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
        InputError: a file that cannot be read, timestamps in another unit, a domain without items, or nothing left.
    """
    with said_plainly(*items.paths, *interactions.paths):
        catalogue = _flag_items(items, domains)
        events, dtype = _flag_interactions(interactions, catalogue, about, unit, domains)
        kept_items = catalogue.filter(pl.col(REFUSED).is_null()).drop(REFUSED).unique(ITEM_KEY, keep="first")
        kept = events.filter(pl.col(REFUSED).is_null())
        latest = pl.col("__raw").max() if "__raw" in events.collect_schema() else pl.lit(None, pl.Int64)
        item_counts, event_counts, n_items, n_events, *_ = pl.collect_all(
            [
                catalogue.group_by("domain", REFUSED).agg(n=pl.len()),
                events.group_by("domain", REFUSED).agg(n=pl.len(), latest=latest),
                catalogue.filter(pl.col(REFUSED).is_null()).select(ITEM_KEY).unique().select(pl.len()),
                kept.select(EVENT_KEY).unique().select(pl.len()),
                *items.whole(),
                *interactions.whole(),
            ],
            engine="streaming",
        )
        if about.order == "time":
            unreadable = int(event_counts.filter(pl.col(REFUSED) == UNREADABLE["time"])["n"].sum())
            check_unit(interactions, dtype, unit, event_counts.select(pl.col("latest").max()).item(), unreadable)
        _check_domains(items, interactions, item_counts, event_counts, domains)
        account = Account(
            [
                _step("items: read", item_counts, n_items.item(), "same item twice"),
                _step("interactions: read", event_counts, n_events.item(), "duplicate event"),
            ]
        )
        if not n_events.item():
            _nothing_left(interactions, dtype, unit, about, account)
    columns = [*INTERACTIONS, *([ALL_DOMAIN_POSITION] if ALL_DOMAIN_POSITION in interactions.columns else [])]
    kept = kept.select(columns).unique(EVENT_KEY, keep="first")
    return Behaviors(kept, kept_items, about, account)


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


def _flag_interactions(
    interactions: Table, catalogue: pl.LazyFrame, about: About, unit: Unit, domains: list[str] | None
) -> tuple[pl.LazyFrame, pl.DataType]:
    """The interactions in their types with the column `__refused`, and the type the raw timestamps have."""
    rows = interactions.scan(damaged=True)
    schema = rows.collect_schema()
    raw, dtype = pl.col("timestamp"), schema["timestamp"]
    is_time = about.order == "time"
    noun = "timestamp" if is_time else "position"
    typed = {
        **{name: pl.col(name).cast(pl.String) for name in ("user_id", "item_id", "domain")},
        "timestamp": seconds(raw, dtype, unit) if is_time else number(raw, dtype),
        "rating": pl.lit(None, pl.Float32),
        "__unreadable": _given(raw, dtype),
    }
    if is_time and unit != "iso" and not dtype.is_temporal():
        typed["__raw"] = number(raw, dtype)
    if "rating" in schema:
        typed["rating"] = pl.col("rating").cast(pl.Float32, strict=False)
        typed["__rating"] = _given(pl.col("rating"), schema["rating"])
    if ALL_DOMAIN_POSITION in schema:
        typed[ALL_DOMAIN_POSITION] = number(pl.col(ALL_DOMAIN_POSITION), schema[ALL_DOMAIN_POSITION])
        typed["__position"] = _given(pl.col(ALL_DOMAIN_POSITION), schema[ALL_DOMAIN_POSITION])
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
    reasons["item not in the catalogue"] = pl.col("__usable").is_null()
    reasons["item without a usable title"] = ~pl.col("__usable")
    usable = catalogue.group_by(ITEM_KEY).agg(__usable=pl.col(REFUSED).is_null().any())
    rows = rows.with_columns(**typed).join(usable, on=ITEM_KEY, how="left", maintain_order="left")
    return rows.with_columns(_first_reason(reasons)), dtype


def _check_domains(
    items: Table, interactions: Table, item_counts: pl.DataFrame, event_counts: pl.DataFrame, domains: list[str] | None
) -> None:
    known = sorted(item_counts.filter(pl.col(REFUSED).is_null())["domain"].unique())
    asked = pl.col(REFUSED).is_null() | (pl.col(REFUSED) != "domain not asked for")
    named = event_counts.filter(asked & ~_missing("domain"))
    active = dict(named.group_by("domain").agg(pl.col("n").sum()).sort("domain").rows())
    for domain in domains or []:
        if domain not in active:
            every = sorted(event_counts.drop_nulls("domain")["domain"].unique())
            raise InputError(f"{interactions}: no interaction in the domain {domain!r}{_nearest(domain, every)}")
    for domain, n in active.items():
        if domain not in known:
            raise InputError(
                f"{items}: not one item with a title in the domain {domain!r}, which has {n:,} interactions in "
                f"{interactions}: add its items, or leave it out by naming the others under `domains:`"
                f"{_nearest(domain, known)}"
            )
    for domain, cleaned in zip(known, clean_titles(known), strict=True):
        if domain != cleaned:
            raise InputError(f"{items}: the domain name {domain!r} is not one clean line of text; rename it")


def _nothing_left(interactions: Table, dtype: pl.DataType, unit: Unit, about: About, account: Account) -> None:
    refused = account.steps[-1].refused
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in refused.items()) or "the file has no rows"
    place = ""
    if UNREADABLE[about.order] in refused:
        raw = pl.col("timestamp")
        read = seconds(raw, dtype, unit) if about.order == "time" else number(raw, dtype)
        place = f". {interactions.first(_given(raw, dtype) & read.is_null(), 'timestamp')}"
        place += f", read as `{unit}`" if about.order == "time" else ", where a whole number is expected"
    raise InputError(f"{interactions}: not one interaction can be used ({reasons}){place}")


def _domain_reasons(domains: list[str] | None) -> dict[str, pl.Expr]:
    reasons = {"no domain": _missing("domain")}
    if domains is not None:
        reasons["domain not asked for"] = ~pl.col("domain").is_in(domains)
    return reasons


def _first_reason(reasons: Mapping[str, pl.Expr]) -> pl.Expr:
    found = [pl.when(wrong).then(pl.lit(reason)) for reason, wrong in reasons.items()]
    return pl.coalesce(DAMAGED, *found).alias(REFUSED)


def _step(name: str, counts: pl.DataFrame, rows_out: int, repeated: str) -> Step:
    reasons = counts.drop_nulls(REFUSED).group_by(REFUSED).agg(pl.col("n").sum()).sort("n", REFUSED, descending=True)
    refused = dict(reasons.rows())
    rows_in = int(counts["n"].sum())
    twice = rows_in - rows_out - sum(refused.values())
    return Step(name, rows_in, rows_out, {**refused, **({repeated: twice} if twice else {})})


def _missing(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) == "")


def _broken(column: str) -> pl.Expr:
    return pl.col(column).str.contains(NOT_UTF8, literal=True)


def _given(raw: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Whether there is a value at all: not null, and not blank where it is text."""
    return raw.is_not_null() & (raw.str.strip_chars() != "" if dtype == pl.String else pl.lit(True))


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [k for k in known if k.lower() == name.lower()]
    return f"; did you mean {near[0]!r}?" if near else f"; the domains there are {', '.join(known) or 'none'}"
