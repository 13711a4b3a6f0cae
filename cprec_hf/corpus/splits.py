"""Which downstream event trains, validates or tests, and which events may enter continual pre-training.

**time** (default): two cuts v < t, the (1 - validation - test) and (1 - test) quantiles of the timestamps of all
downstream events together. Train: downstream events before v. A user's validation example is their first event in
[v, t) that has an event of theirs in the domain before it and whose item is new to them; the test example is the
first such event at or after t. An example's history is all the user did in the domain before it, so a test history may
hold events of [v, t). Pre-training sees events of the other domains strictly before v.

**leave_one_out**: per downstream domain, a held-out user's last event tests, the one before it validates, the rest
train; the test history holds the validation event. A user with fewer than three events, or whose last two items are not
both new to them, is not held out: their whole history trains. Pre-training sees the other domains, without the events
of a held-out user at or after the earliest of their validation events, where the order across domains is known.

`max_test_users` draws users once per domain, in an order keyed by (seed, domain), and holds for validation too. Under
leave-one-out the users not drawn train with their whole history; under time, nothing at or after v ever trains.

An evaluated item is new to its user, because its candidates are drawn outside the history. Random order is refused
(`config.SplitConfig`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import polars as pl

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus.config import SplitConfig
from cprec_hf.errors import InputError

USER_DOMAIN = ["user_id", "domain"]
ORDER = ["user_id", "domain", "timestamp", "item_id"]


@dataclass(frozen=True)
class TimeCuts:
    """Unix seconds: events before `validation` train, events from `test` on test."""

    validation: int
    test: int


@dataclass(frozen=True)
class Split:
    """The downstream events with their part in the split.

    Attributes:
        events: sorted by (user, domain, timestamp, item), with `split`: train, validation, test, or null for an event
            that can only stand in histories.
        cuts: the two cuts under the time policy, else None.
        steps: how many events became what, and how many users are held out.
    """

    events: pl.DataFrame
    cuts: TimeCuts | None
    steps: tuple[Step, ...]


def keyed_rng(*key: str | int) -> np.random.Generator:
    """A generator whose stream is a function of the key alone (SHA-256 of its parts)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def split_downstream(
    events: pl.DataFrame, config: SplitConfig, *, order: str, max_test_users: int | None, seed: int
) -> Split:
    """Give every downstream event its part (see the module's docstring).

    Args:
        events: of the downstream domains: user_id, domain, item_id, timestamp and any other columns.
        config: policy and shares.
        order: the source's kind of order, "time" or "position".
        max_test_users: most users held out per domain and split.
        seed: of the draw of test users.

    Raises:
        InputError: a time split of a source without times, or a split that leaves a domain without a part.
    """
    cuts = None
    if config.policy == "time":
        if order != "time":
            raise InputError(
                "`split.policy` is time, and this source has an order but no times; choose `policy: leave_one_out`"
            )
        cuts = time_cuts(events["timestamp"].to_numpy(), config)
    events = events.sort(ORDER).with_columns(
        position=pl.int_range(pl.len(), dtype=pl.Int64).over(USER_DOMAIN),
        fresh=pl.struct("user_id", "domain", "item_id").is_first_distinct(),
    )
    events = events.with_columns(example=_last_two() if cuts is None else _first_after(cuts))
    possible = events.filter(pl.col("example").is_not_null())
    drawn = _draw_users(possible, max_test_users, seed)
    events = events.join(drawn, on=["user_id", "domain", "example"], how="left", maintain_order="left")
    if cuts is None:  # whoever is not held out trains with all they did
        trains = ~pl.col("drawn").any().over(USER_DOMAIN) | pl.col("example").is_null()
    else:
        trains = pl.col("timestamp") < cuts.validation
    trained = pl.when(trains.fill_null(False)).then(pl.lit("train"))
    events = events.with_columns(split=pl.when("drawn").then("example").otherwise(trained))
    steps = _account(events, possible)
    _require_every_split(events, cuts)
    return Split(events.drop("position", "fresh", "example", "drawn"), cuts, steps)


def cpt_cutoffs(split: Split) -> pl.DataFrame:
    """Under leave-one-out: per held-out user, the earliest clock of their validation events. user_id, cutoff."""
    held = split.events.filter((pl.col("split") == "validation") & pl.col("clock").is_not_null())
    return held.group_by("user_id").agg(cutoff=pl.col("clock").min())


def cpt_events(events: pl.DataFrame, split: Split) -> tuple[pl.DataFrame, Step]:
    """The events of the other domains that pre-training may see (see the module's docstring).

    Args:
        events: of the domains that are not downstream: user_id, clock (order across domains, null where unknown) and
            any other columns.
        split: of the downstream events, with `clock` among its columns.
    """
    if split.cuts is not None:
        kept, reason = events.filter(pl.col("clock") < split.cuts.validation), "at or after the validation cut"
    else:
        cutoffs = cpt_cutoffs(split)
        known = events.join(cutoffs, on="user_id", how="left", maintain_order="left")
        late = (pl.col("clock") >= pl.col("cutoff")).fill_null(False)
        kept, reason = known.filter(~late).drop("cutoff"), "at or after the user's validation event"
    return kept, Step("events for pre-training", len(events), len(kept), {reason: len(events) - len(kept)})


def time_cuts(timestamps: np.ndarray, config: SplitConfig) -> TimeCuts:
    """The cuts: the times at places floor((1 - validation - test) n) and floor((1 - test) n) of their order.

    Args:
        timestamps: unix seconds [events], in any order.
        config: the two shares.
    """
    ordered, n = np.sort(timestamps), len(timestamps)
    at = [1 - config.validation_share - config.test_share, 1 - config.test_share]
    # 1 - .1 - .1 is a little less than .8: rounding keeps the cut where the shares say.
    positions = [min(int(np.floor(round(share * n, 6))), n - 1) for share in at]
    return TimeCuts(int(ordered[positions[0]]), int(ordered[positions[1]]))


def _last_two() -> pl.Expr:
    from_end = pl.len().over(USER_DOMAIN).cast(pl.Int64) - 1 - pl.col("position")
    both_new = (pl.col("fresh") | (from_end > 1)).all().over(USER_DOMAIN)
    possible = both_new & (pl.len().over(USER_DOMAIN) >= 3)
    return (
        pl.when(possible & (from_end == 0))
        .then(pl.lit("test"))
        .when(possible & (from_end == 1))
        .then(pl.lit("validation"))
    )


def _first_after(cuts: TimeCuts) -> pl.Expr:
    tests = pl.when(pl.col("timestamp") >= cuts.test).then(pl.lit("test"))
    era = tests.when(pl.col("timestamp") >= cuts.validation).then(pl.lit("validation"))
    possible = pl.col("fresh") & (pl.col("position") >= 1)
    first = possible & (possible.cast(pl.Int64).cum_sum().over([*USER_DOMAIN, era]) == 1)
    return pl.when(first).then(era)


def _draw_users(possible: pl.DataFrame, most: int | None, seed: int) -> pl.DataFrame:
    """user_id, domain, example, drawn=True of the examples kept: the first users in one keyed order per domain."""
    examples = possible.select("user_id", "domain", "example", drawn=pl.lit(True)).sort("domain", "user_id", "example")
    if most is None:
        return examples
    users = examples.select("domain", "user_id").unique(maintain_order=True)
    places = [
        keyed_rng(seed, "test users", str(domain)).permutation(len(group))
        for (domain,), group in users.group_by("domain", maintain_order=True)
    ]
    users = users.with_columns(place=np.concatenate([np.zeros(0, dtype=np.int64), *places]))
    ranked = examples.join(users, on=["domain", "user_id"], how="left", maintain_order="left")
    rank = pl.col("place").rank("ordinal").over("domain", "example")
    return ranked.filter(rank <= most).drop("place")


def _account(events: pl.DataFrame, possible: pl.DataFrame) -> tuple[Step, ...]:
    used = events.filter(pl.col("split").is_not_null()).height
    steps = [Step("downstream events", len(events), used, {"only in histories": len(events) - used})]
    for domain in events["domain"].unique().sort():
        here = pl.col("domain") == domain
        users = events.filter(here)["user_id"].n_unique()
        for name in ("validation", "test"):
            could = possible.filter(here & (pl.col("example") == name)).height
            held = events.filter(here & (pl.col("split") == name)).height
            refused = {"no earlier event, or no new item, to ask about": users - could, "not drawn": could - held}
            steps.append(Step(f"{name} users of {domain}", users, held, refused))
    return tuple(steps)


def _require_every_split(events: pl.DataFrame, cuts: TimeCuts | None) -> None:
    for domain in events["domain"].unique().sort():
        found = set(events.filter(pl.col("domain") == domain)["split"].drop_nulls().unique())
        if missing := [name for name in ("train", "validation", "test") if name not in found]:
            cut = f" with cuts at {cuts.validation} and {cuts.test}" if cuts else ""
            raise InputError(
                f"domain {domain!r}: the split{cut} leaves no {missing[0]} event; users need at least three events in "
                "the domain, or the shares of `split` must be larger"
            )
