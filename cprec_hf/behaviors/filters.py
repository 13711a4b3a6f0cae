"""Filters by activity: users and items with too few or too many events leave, and every row that goes is counted.

All counts are within a domain, as in the 5-core sets of this line of work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
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
    arrays = events["user"].to_numpy(), events["item"].to_numpy()
    (alive,), refused = k_core(lambda _: arrays, 1, items.height, config)
    kept = events.filter(pl.Series(np.unpackbits(alive, count=events.height).astype(bool)))
    if not kept.height:
        raise nothing_left(behaviors.about.name, refused)
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


def k_core(
    load: Callable[[int], tuple[np.ndarray, np.ndarray]], n_buckets: int, n_items: int, config: FilterConfig
) -> tuple[list[np.ndarray], dict[str, int]]:
    """Which events stay, for a log in buckets of whole users, of which one at a time is held.

    Args:
        load: number of a bucket -> of each of its events a number that stands for user and domain (from 0 on, of that
            bucket alone) and the number of its item, both int [events]; called once a round for every bucket.
        n_buckets: how many buckets.
        n_items: how many items.
        config: the bounds.

    Returns:
        The events of each bucket that stay, as packed bits (`np.packbits`); and how many left for which reason. An
        event that leaves for its user and its item at once is counted for its user.
    """
    few_users = few_items = too_many = 0
    alive: list[np.ndarray] = []
    of_item = np.zeros(n_items, dtype=np.int64)  # events of each item, at the start of a round
    for number in range(n_buckets):
        user, item = load(number)
        stays = np.ones(len(user), dtype=bool)
        if config.max_user_interactions is not None:
            stays = np.bincount(user)[user] <= config.max_user_interactions
        too_many += len(user) - int(stays.sum())
        of_item += np.bincount(item[stays], minlength=n_items)
        alive.append(np.packbits(stays))
    while True:
        next_of_item = np.zeros_like(of_item)
        gone = 0
        for number in range(n_buckets):
            user, item = load(number)
            stays = np.unpackbits(alive[number], count=len(user)).astype(bool)
            of_user = np.bincount(user[stays], minlength=user.max(initial=0) + 1)
            few_user = stays & (of_user[user] < config.min_user_interactions)
            few_item = stays & ~few_user & (of_item[item] < config.min_item_interactions)
            stays &= ~few_user & ~few_item
            few_users, few_items = few_users + int(few_user.sum()), few_items + int(few_item.sum())
            gone += int(few_user.sum()) + int(few_item.sum())
            next_of_item += np.bincount(item[stays], minlength=n_items)
            alive[number] = np.packbits(stays)
        of_item = next_of_item
        if not config.core or not gone:
            break
    refused = {}
    if config.max_user_interactions is not None:
        refused[f"user with more than {config.max_user_interactions} in the domain"] = too_many
    if few_users:
        refused[f"user with fewer than {config.min_user_interactions} in the domain"] = few_users
    if few_items:
        refused[f"item with fewer than {config.min_item_interactions}"] = few_items
    return alive, refused


def nothing_left(name: str, refused: Mapping[str, int]) -> InputError:
    """The error to raise where filters leave no interaction of a source."""
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in refused.items())
    return InputError(f"{name}: the filters leave no interaction ({reasons}); loosen them")
