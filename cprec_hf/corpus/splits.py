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

Everything is said per user and domain, but for two figures that are known of all users first: the cuts, and who is
drawn. So the log may come in buckets of whole users, in ascending order of their ids (`events.EventStore`).

An evaluated item is new to its user, because its candidates are drawn outside the history. Random order is refused
(`config.SplitConfig`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus.config import SplitConfig
from cprec_hf.errors import InputError

USER_DOMAIN = ["user_id", "domain"]
ORDER = ["user_id", "domain", "timestamp", "item_id"]
EXAMPLES = ("validation", "test")


@dataclass(frozen=True)
class TimeCuts:
    """Unix seconds: events before `validation` train, events from `test` on test."""

    validation: int
    test: int


@dataclass(frozen=True)
class Split:
    """Which part downstream events play.

    Attributes:
        cuts: the two cuts under the time policy, else None.
        drawn: by bucket, the examples held out: user_id, domain, example, drawn=True.
        steps: how many events became what, and how many users are held out.
        counts: events by (domain, split), those in no split left out.
    """

    cuts: TimeCuts | None
    drawn: tuple[pl.DataFrame, ...]
    steps: tuple[Step, ...]
    counts: Counter[tuple[str, str]]

    def of(self, number: int, events: pl.DataFrame) -> pl.DataFrame:
        """The downstream events of a bucket, sorted by (user, domain, timestamp, item), with `split`.

        `split` is train, validation, test, or null for an event that can only stand in histories.

        Args:
            number: of the bucket.
            events: as they were given to `split_downstream`.
        """
        return _marked(_with_examples(events, self.cuts), self.drawn[number], self.cuts)


def keyed_rng(*key: str | int) -> np.random.Generator:
    """A generator whose stream is a function of the key alone (SHA-256 of its parts)."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def split_downstream(
    buckets: Iterable[pl.DataFrame], config: SplitConfig, *, order: str, max_test_users: int | None, seed: int
) -> Split:
    """Find the cuts and draw the users, so that every downstream event has its part (see the module's docstring).

    Args:
        buckets: downstream events of whole users, buckets in ascending order of the users; gone through several times.
            Columns user_id, domain, item_id (text, or numbers in the order of the ids), timestamp and any others.
        config: policy and shares.
        order: the source's kind of order, "time" or "position".
        max_test_users: most users held out per domain and split.
        seed: of the draw of test users.

    Raises:
        InputError: a time split of a source without times, or a split that leaves a domain without a part.
    """
    cuts = None
    require_times(config, order)
    if config.policy == "time":
        cuts = time_cuts((bucket["timestamp"].to_numpy() for bucket in buckets), config)
    possible, users = [], Counter[str]()
    for bucket in buckets:
        events = _with_examples(bucket, cuts)
        users.update(_counts(bucket.select(USER_DOMAIN).unique(), "domain"))
        examples = events.filter(pl.col("example").is_not_null()).select("domain", "user_id", "example")
        possible.append(examples.sort("domain", "user_id", "example"))
    drawn = _draw_users(possible, max_test_users, seed)
    parts, every = Counter[tuple[str, str]](), Counter[str]()
    for bucket, chosen in zip(buckets, drawn, strict=True):
        marked = _marked(_with_examples(bucket, cuts), chosen, cuts)
        parts.update(_counts(marked.filter(pl.col("split").is_not_null()), "domain", "split"))
        every.update(_counts(bucket, "domain"))
    require_every_split(sorted(every), parts, cuts)
    could = Counter[tuple[str, str]]()
    for examples in possible:
        could.update(_counts(examples, "domain", "example"))
    return Split(cuts, drawn, split_account(every, users, could, parts), parts)


def require_times(config: SplitConfig, order: str) -> None:
    """Raise `InputError` for a time split of a source without times."""
    if config.policy == "time" and order != "time":
        raise InputError(
            "`split.policy` is time, and this source has an order but no times; choose `policy: leave_one_out`"
        )


def cpt_events(events: pl.DataFrame, downstream: pl.DataFrame, cuts: TimeCuts | None) -> pl.DataFrame:
    """The events of the other domains that pre-training may see (see the module's docstring).

    Args:
        events: of the domains that are not downstream: user_id, clock (order across domains, null where unknown) and
            any other columns.
        downstream: of the same users, from `Split.of`, with `clock`.
        cuts: of the split.
    """
    if cuts is not None:
        return events.filter(pl.col("clock") < cuts.validation)
    held = downstream.filter((pl.col("split") == "validation") & pl.col("clock").is_not_null())
    cutoffs = held.group_by("user_id").agg(cutoff=pl.col("clock").min())
    known = events.join(cutoffs, on="user_id", how="left", maintain_order="left")
    return known.filter((pl.col("clock") < pl.col("cutoff")).fill_null(True)).drop("cutoff")


def cpt_step(n_events: int, n_kept: int, cuts: TimeCuts | None) -> Step:
    """What became of the events of the other domains."""
    reason = "at or after the validation cut" if cuts else "at or after the user's validation event"
    return Step("events for pre-training", n_events, n_kept, {reason: n_events - n_kept})


def time_cuts(timestamps: Iterable[np.ndarray], config: SplitConfig) -> TimeCuts:
    """The cuts: the times at places floor((1 - validation - test) n) and floor((1 - test) n) of their order.

    Args:
        timestamps: unix seconds, in portions of any order; gone through once.
        config: the two shares.
    """
    # Equal seconds are counted together: no more is held than there are different seconds, 31.5 million a year.
    counts: tuple[np.ndarray, np.ndarray] = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    for portion in timestamps:
        seconds, times = np.unique_counts(portion)
        merged, place = np.unique_inverse(np.concatenate([counts[0], seconds]))
        counts = merged, np.bincount(place, np.concatenate([counts[1], times])).astype(np.int64)
    below = np.cumsum(counts[1])
    places = cut_places(int(below[-1]), config)
    return TimeCuts(*(int(counts[0][np.searchsorted(below, place, side="right")]) for place in places))


def cut_places(n_events: int, config: SplitConfig) -> list[int]:
    """Where the two cuts stand among the sorted times, from 0."""
    at = [1 - config.validation_share - config.test_share, 1 - config.test_share]
    # 1 - .1 - .1 is a little less than .8: rounding keeps the cut where the shares say.
    return [min(int(np.floor(round(share * n_events, 6))), n_events - 1) for share in at]


def user_places(seed: int, domain: str, n_users: int) -> np.ndarray:
    """The order in which a domain's users are drawn to be held out: the place of each, int64 [n_users].

    Args:
        seed: of the corpus.
        domain: the domain.
        n_users: users with something to ask them; number i is the i-th of their sorted ids.
    """
    return keyed_rng(seed, "test users", domain).permutation(n_users)


def _with_examples(events: pl.DataFrame, cuts: TimeCuts | None) -> pl.DataFrame:
    """The events in order, with `example`: what each could be held out as, if its user is drawn."""
    events = events.sort(ORDER).with_columns(
        position=pl.int_range(pl.len(), dtype=pl.Int64).over(USER_DOMAIN),
        fresh=pl.struct("user_id", "domain", "item_id").is_first_distinct(),
    )
    events = events.with_columns(example=_last_two() if cuts is None else _first_after(cuts))
    return events.drop("position", "fresh")


def _marked(events: pl.DataFrame, drawn: pl.DataFrame, cuts: TimeCuts | None) -> pl.DataFrame:
    events = events.join(drawn, on=["user_id", "domain", "example"], how="left", maintain_order="left")
    if cuts is None:  # whoever is not held out trains with all they did
        trains = ~pl.col("drawn").any().over(USER_DOMAIN) | pl.col("example").is_null()
    else:
        trains = pl.col("timestamp") < cuts.validation
    trained = pl.when(trains.fill_null(False)).then(pl.lit("train"))
    return events.with_columns(split=pl.when("drawn").then("example").otherwise(trained)).drop("example", "drawn")


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


def _draw_users(possible: list[pl.DataFrame], most: int | None, seed: int) -> tuple[pl.DataFrame, ...]:
    """By bucket: domain, user_id, example, drawn=True of the examples kept, the first users in one order per domain."""
    if most is None:
        return tuple(examples.with_columns(drawn=pl.lit(True)) for examples in possible)
    examples = pl.concat([part.with_columns(bucket=pl.lit(n, pl.Int32)) for n, part in enumerate(possible)])
    users = examples.select("domain", "bucket", "user_id").unique().sort("domain", "bucket", "user_id")
    places = [
        user_places(seed, str(domain), len(group)) for (domain,), group in users.group_by("domain", maintain_order=True)
    ]
    users = users.with_columns(place=np.concatenate([np.zeros(0, dtype=np.int64), *places]))
    ranked = examples.join(users, on=["domain", "bucket", "user_id"], how="left", maintain_order="left")
    kept = ranked.filter(pl.col("place").rank("ordinal").over("domain", "example") <= most)
    kept = kept.select("bucket", "domain", "user_id", "example", drawn=pl.lit(True))
    return tuple(kept.filter(pl.col("bucket") == n).drop("bucket") for n in range(len(possible)))


def _counts(events: pl.DataFrame, *keys: str) -> dict[Any, int]:
    """How many rows there are of each value of a column, or of each tuple of values of several."""
    rows = events.group_by(keys).len().iter_rows()
    return {str(row[0]) if len(keys) == 1 else tuple(map(str, row[:-1])): row[-1] for row in rows}


def split_account(
    every: Counter[str], users: Counter[str], could: Counter[tuple[str, str]], parts: Counter[tuple[str, str]]
) -> tuple[Step, ...]:
    """How many events became what, and how many users are held out.

    Args:
        every: downstream events by domain.
        users: those who did something there.
        could: events that could be asked about, by domain and example.
        parts: events by domain and split.
    """
    n, used = every.total(), parts.total()
    steps = [Step("downstream events", n, used, {"only in histories": n - used})]
    for domain in sorted(every):
        for name in EXAMPLES:
            able, held = could[domain, name], parts[domain, name]
            refused = {
                "no earlier event, or no new item, to ask about": users[domain] - able,
                "not drawn": able - held,
            }
            steps.append(Step(f"{name} users of {domain}", users[domain], held, refused))
    return tuple(steps)


def require_every_split(domains: list[str], parts: Counter[tuple[str, str]], cuts: TimeCuts | None) -> None:
    """Raise `InputError` if a domain has no event in one of the three splits; `parts` counts events by both."""
    for domain in domains:
        if missing := [name for name in ("train", *EXAMPLES) if not parts[domain, name]]:
            cut = f" with cuts at {cuts.validation} and {cuts.test}" if cuts else ""
            raise InputError(
                f"domain {domain!r}: the split{cut} leaves no {missing[0]} event; users need at least three events in "
                "the domain, or the shares of `split` must be larger"
            )
