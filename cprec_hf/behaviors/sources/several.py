"""Several sources as one: platforms side by side, or editions of one platform.

    source:
      kind: several
      sources:
        - {kind: amazon_2023, ...}
        - {kind: ninerec, ...}

Each source keeps its domains, and no two may have one of the same name. Users are kept apart, since the same id means
another person on another platform, unless `shared_users` says otherwise.

Where all sources know times, the whole does. Where one knows only an order, the whole is ordered by position: times are
positions with gaps, and stand in `all_domain_position` too, so the order across the domains of a source that knows it
is not lost. A corpus of such a whole is split by `leave_one_out`: a global time cut would mean nothing to the events
without a time, while a user's own held-out events still cut all that this user did later out of pre-training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from cprec_hf.behaviors.account import Account, Step
from cprec_hf.behaviors.schema import ALL_DOMAIN_POSITION, About, Behaviors
from cprec_hf.behaviors.sources import source_config
from cprec_hf.behaviors.sources.log import counting_later
from cprec_hf.errors import InputError


@dataclass(frozen=True)
class SeveralConfig:
    """The keys of a source of kind `several`."""

    sources: list[dict[str, Any]]
    """The sources, each as a recipe says it: `kind` and the keys of that kind."""
    shared_users: bool = False
    """Whether an id names the same person in all sources; only where all of them know times, or there is no order
    across sources. False: ids get the source's number before them."""

    def __post_init__(self) -> None:
        """Raise `InputError` for fewer than two sources."""
        if len(self.sources) < 2:
            raise InputError("`sources` names fewer than two; write the one as `source` itself")

    def read(self, where: str) -> Behaviors:
        """Read all sources; `where` names the recipe in error messages.

        Raises:
            InputError: what a source's reader finds (all recipes are checked before the first file is read), a domain
                in two sources, or shared users without times.
        """
        places = [f"{where}: `sources[{number}]`" for number in range(len(self.sources))]
        configs = [source_config(given, place) for given, place in zip(self.sources, places, strict=True)]
        with counting_later(False):  # a log is one source's; what each of these refuses is counted here
            parts = [config.read(place) for config, place in zip(configs, places, strict=True)]
        times = all(part.about.order == "time" for part in parts)
        if self.shared_users and not times:
            unknown = next(part.about.name for part in parts if part.about.order != "time")
            raise InputError(
                f"{where}: `shared_users` is true, but {unknown} knows no times: what a user did in it has no order "
                "among what they did in the others; leave `shared_users` out"
            )
        _check_domains(parts, where)
        events = [part.interactions if times else _by_position(part) for part in parts]
        if not self.shared_users:
            events = [
                frame.with_columns(user_id=pl.concat_str(pl.lit(f"{number}/"), "user_id"))
                for number, frame in enumerate(events, 1)
            ]
        steps = [
            Step(f"{part.about.name}: {step.name}", step.rows_in, step.rows_out, step.refused)
            for part in parts
            for step in part.account.steps
        ]
        return Behaviors(
            pl.concat(events, how="diagonal"),
            pl.concat([part.items for part in parts], how="diagonal_relaxed"),
            About(
                name=_joined([part.about.name for part in parts]),
                licence=_joined([part.about.licence for part in parts]),
                citation=_joined([part.about.citation for part in parts]),
                order="time" if times else "position",
                redistributable=all(part.about.redistributable for part in parts),
            ),
            Account(steps),
        )


def _by_position(part: Behaviors) -> pl.LazyFrame:
    if part.about.order == "time":
        return part.interactions.with_columns(pl.col("timestamp").alias(ALL_DOMAIN_POSITION))
    if ALL_DOMAIN_POSITION in part.interactions.collect_schema():
        return part.interactions
    return part.interactions.with_columns(pl.lit(None, pl.Int64).alias(ALL_DOMAIN_POSITION))


def _check_domains(parts: list[Behaviors], where: str) -> None:
    owner: dict[str, str] = {}
    names = pl.collect_all([part.items.select("domain").unique() for part in parts], engine="streaming")
    for part, found in zip(parts, names, strict=True):
        for domain in sorted(found["domain"]):
            if domain in owner:
                raise InputError(
                    f"{where}: both {owner[domain]} and {part.about.name} have a domain {domain!r}; rename it in one"
                )
            owner[domain] = part.about.name


def _joined(texts: list[str]) -> str:
    return "; ".join(dict.fromkeys(texts))
