"""Filters by activity: users and items with too few or too many events leave, and every row that goes is counted.

All counts are within a domain, as in the 5-core sets of this line of work.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import polars as pl

from cprec_hf.behaviors.schema import ITEM_KEY, Behaviors
from cprec_hf.errors import InputError

USER_KEY = ["domain", "user_id"]


@dataclass(frozen=True)
class FilterConfig:
    """Which users and items stay. The defaults keep all of them."""

    min_user_interactions: int = 0
    """Users with fewer events in a domain leave that domain."""
    min_item_interactions: int = 0
    """Items with fewer events leave the interactions and the catalogue."""
    max_user_interactions: int | None = None
    """Users with more events in a domain leave it whole (robots, shared accounts); asked once, before the minima."""
    core: bool = True
    """Apply the minima until both hold at once (k-core); false: once, on the counts at the start."""

    def __post_init__(self) -> None:
        """Raise `InputError` for bounds no user can meet."""
        if self.min_user_interactions < 0 or self.min_item_interactions < 0:
            raise InputError("`min_user_interactions` and `min_item_interactions` are counts: 0 or more")
        if self.max_user_interactions is not None and self.max_user_interactions < max(self.min_user_interactions, 1):
            raise InputError(
                f"`max_user_interactions` is {self.max_user_interactions}, below "
                f"`min_user_interactions` {self.min_user_interactions} or 1: no user could stay"
            )


def apply_filters(behaviors: Behaviors, config: FilterConfig) -> Behaviors:
    """`behaviors` without the users and items that `config` leaves out, and with one more step per table it changed.

    The keys of the events are held in memory as integers (8 bytes an event); the rows themselves stay lazy. Timestamps
    are kept as they are, so positions may have gaps afterwards.

    Raises:
        InputError: no interaction would be left.
    """
    if config == FilterConfig(core=config.core):
        return behaviors
    users, items, events = _coded(behaviors)
    kept, refused = events, {}
    if config.max_user_interactions is not None:
        kept = events.filter(pl.len().over("user") <= config.max_user_interactions)
        refused[f"user with more than {config.max_user_interactions} in the domain"] = events.height - kept.height
    kept, few_users, few_items = _apply_minima(kept, config)
    if few_users:
        refused[f"user with fewer than {config.min_user_interactions} in the domain"] = few_users
    if few_items:
        refused[f"item with fewer than {config.min_item_interactions}"] = few_items
    if not kept.height:
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in refused.items())
        raise InputError(f"{behaviors.about.name}: the filters leave no interaction ({reasons}); loosen them")
    account = behaviors.account.copy()
    account.add("interactions: filter", events.height, kept.height, refused)
    # A row stayed if and only if its user and its item both have a row that stayed: two semi-joins find it again.
    kept_users = users.join(kept, on="user", how="semi").lazy()
    kept_items = items.join(kept, on="item", how="semi").lazy()
    interactions = behaviors.interactions.join(kept_users, on=USER_KEY, how="semi")
    interactions = interactions.join(kept_items, on=ITEM_KEY, how="semi")
    catalogue = behaviors.items
    if config.min_item_interactions > 0:
        catalogue = catalogue.join(kept_items, on=ITEM_KEY, how="semi")
        before, after = pl.collect_all([behaviors.items.select(pl.len()), catalogue.select(pl.len())])
        gone = {f"item with fewer than {config.min_item_interactions}": before.item() - after.item()}
        account.add("items: filter", before.item(), after.item(), gone)
    return dataclasses.replace(behaviors, interactions=interactions, items=catalogue, account=account)


def _coded(behaviors: Behaviors) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Users and items with a number each (`user`, `item`), and the events as pairs of those numbers."""
    rows = behaviors.interactions
    distinct = [rows.select(USER_KEY).unique(), rows.select(ITEM_KEY).unique()]
    users, items = pl.collect_all(distinct, engine="streaming")
    users, items = users.with_row_index("user"), items.with_row_index("item")
    events = rows.select("domain", "user_id", "item_id").join(users.lazy(), on=USER_KEY)
    return users, items, events.join(items.lazy(), on=ITEM_KEY).select("user", "item").collect(engine="streaming")


def _apply_minima(events: pl.DataFrame, config: FilterConfig) -> tuple[pl.DataFrame, int, int]:
    """The events that stay, and how many left for their user and for their item (both at once: for their user)."""
    few_users = few_items = 0
    few_user, few_item = pl.col("few_user"), pl.col("few_item")
    while True:
        flagged = events.with_columns(
            few_user=pl.len().over("user") < config.min_user_interactions,
            few_item=pl.len().over("item") < config.min_item_interactions,
        )
        by_user, by_item = flagged.select(few_user.sum(), (few_item & ~few_user).sum()).row(0)
        few_users, few_items = few_users + by_user, few_items + by_item
        events = flagged.filter(~few_user & ~few_item).select("user", "item")
        if not config.core or by_user + by_item == 0:
            return events, few_users, few_items
