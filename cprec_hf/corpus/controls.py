"""Controls: further kinds of document that destroy one thing and keep the rest, to be trained on in its kind's place.

    domain_shuffled_time      the `domain` documents, the lines of each in random order
    all_domain_shuffled_time  the `all_domain` documents, the lines of each in random order
    all_domain_shuffled_users `all_domain` documents of users who do not exist: each domain's histories, in their order,
                              are handed to other users before they are mixed

The first two keep every document's items, text lines, length and time, and destroy the order. The last keeps every
event and every domain's histories, times and order, and destroys what links a user's domains. Either way a document
reads as its kind's do. Controls are of training users only: validation measures the loss on what people did, whatever
was trained on, and no history of a validation user is handed to a training user. What is drawn is a function of the
seed and of ids alone: not of shards, buckets, the order of rows or the engine.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from cprec_hf.corpus.candidates import row_keys
from cprec_hf.corpus.ragged import ranges

SHUFFLED_USERS = "all_domain_shuffled_users"
SHUFFLED_TIME = ("domain_shuffled_time", "all_domain_shuffled_time")
KINDS = ("domain", "all_domain", *SHUFFLED_TIME, SHUFFLED_USERS)
"""Of behaviour documents, in the order in which a user's lie."""
CONTROLS = {"domain_shuffled_time": "domain", "all_domain_shuffled_time": "all_domain", SHUFFLED_USERS: "all_domain"}
"""The kind that each control is one of."""


def shuffled_lines(
    starts: np.ndarray, ends: np.ndarray, owner: np.ndarray, users: pa.StringArray, kind: str, seed: int
) -> np.ndarray:
    """The events of each document in random order, drawn by (seed, kind, user, place in the user's history).

    Args:
        starts: first event of each document [documents].
        ends: one behind its last.
        owner: number of the user of each event [events], in runs: a user's events lie together.
        users: ids by number.
        kind: of document.
        seed: of the corpus.

    Returns:
        Numbers of events, document after document, int64 [sum of the documents' lengths].
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    place = np.arange(len(owner)) - np.repeat(begins, np.diff(np.append(begins, len(owner))))
    rows = ranges(starts, ends)
    ids = users.take(pa.array(owner[rows]))
    keys = row_keys(f"{seed}", kind, ids, place[rows])
    return rows[np.lexsort((keys, np.repeat(np.arange(len(starts)), ends - starts)))]


def receivers(pairs: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Who gets whose history in which domain: `user_id` (whose), `domain`, `receiver`.

    In each domain users stand in a circle, in an order drawn by (seed, domain, user), and hand their history to the
    next: everybody gives one and gets one, and nobody keeps their own, unless they are alone in the domain. So the
    receivers of a domain are its users, and everybody has as many domains as before.

    The whole map is made at once and held in memory: some 100 bytes a row, 1 GB for 10 million users of two domains.

    Args:
        pairs: distinct `user_id`, `domain`, of those who take part.
        seed: of the corpus.
    """
    pairs = pairs.select("domain", "user_id").sort("domain", "user_id")
    keys = [
        row_keys(f"{seed}", f"{SHUFFLED_USERS}\0{domain}", group["user_id"].to_arrow(), np.zeros(len(group)))
        for (domain,), group in pairs.group_by("domain", maintain_order=True)
    ]
    line = pairs.with_columns(key=pl.Series(np.concatenate([np.empty(0, np.uint64), *keys])))
    line = line.sort("domain", "key", "user_id")
    following = pl.col("user_id").shift(-1, fill_value=pl.col("user_id").first())
    return line.select("user_id", "domain", receiver=following.over("domain"))


def hand_over(
    events: pl.DataFrame, held: pl.Series, cutoffs: pl.DataFrame | None, seed: int
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The events of all-domain documents of shuffled users, each with its receiver as its user, sorted by user.

    They are those of `all_domain` documents (of users with two domains, whose order across domains is known), without
    the events of validation users. What comes at or after the receiver's own first held-out event is left out, as it is
    of every document under the receiver's id.

    Args:
        events: for pre-training: user_id, domain, item_id, timestamp, clock.
        held: the validation users.
        cutoffs: user_id, cutoff (a clock) of users whose events end early (`splits.cpt_cutoffs`), where clocks are
            times; None where none do, or where clocks of different users cannot be compared.
        seed: of the corpus.

    Returns:
        The events, and how many were left out, by reason.
    """
    known = events.filter(pl.col("clock").is_not_null())
    known = known.filter(pl.col("domain").n_unique().over("user_id") >= 2)
    kept = known.filter(~pl.col("user_id").is_in(held.implode()))
    table = receivers(kept.select("user_id", "domain").unique(), seed)
    handed = kept.join(table, on=["user_id", "domain"]).with_columns(user_id="receiver").drop("receiver")
    early = handed
    if cutoffs is not None:
        early = handed.join(cutoffs, on="user_id", how="left")
        early = early.filter((pl.col("clock") < pl.col("cutoff")).fill_null(True)).drop("cutoff")
    refused = {"of a validation user": len(known) - len(kept)}
    if cutoffs is not None:
        refused["at or after the receiver's validation event"] = len(handed) - len(early)
    return early.sort("user_id", "domain", "timestamp", "item_id"), refused
