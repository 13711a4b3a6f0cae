"""The global steps of a corpus build as Spark queries: what needs all rows at once, where no user's shard is enough.

Every number is exact and every row the one that the Polars form gives: no sampling decides anything but how evenly the
work is spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cprec_hf.behaviors.filters import FilterConfig
from cprec_hf.corpus.few_shot import user_keys
from cprec_hf.corpus.spark_session import Scratch
from cprec_hf.corpus.splits import USER_DOMAIN
from cprec_hf.corpus.training_counts import TrainingCounts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BINS = 1 << 16
"""Counts of one histogram that `order_statistics` brings to the driver. Our choice."""


def filtered(rows: DataFrame, config: FilterConfig, scratch: Scratch) -> tuple[DataFrame, dict[str, int]]:
    """The events that stay under `config`, and how many left by reason: `behaviors.filters.k_core` on a cluster.

    Args:
        rows: user_id, domain, item (which names its domain too) and any other columns; read several times.
        config: the bounds; all counts are within a domain.
        scratch: for the events of each round: a round starts from events, not from all the rounds before it.

    Returns:
        Rows with the same columns, and reason -> rows, in the order and the words of `k_core`.
    """
    from pyspark.sql import functions as sf

    refused, columns = {}, rows.columns
    if config.max_user_interactions is not None:
        many = rows.groupBy(USER_DOMAIN).count().filter(sf.col("count") > config.max_user_interactions)
        gone = only_row(many.select(sf.coalesce(sf.sum("count"), sf.lit(0))))[0]
        refused[f"user with more than {config.max_user_interactions} in the domain"] = gone
        rows = scratch.keep("filtered", rows.join(many, USER_DOMAIN, "left_anti"))
    few_users = few_items = 0
    while config.min_user_interactions > 1 or config.min_item_interactions > 1:
        users = rows.groupBy(USER_DOMAIN).agg((sf.count("*") < config.min_user_interactions).alias("few_user"))
        items = rows.groupBy("item").agg((sf.count("*") < config.min_item_interactions).alias("few_item"))
        flagged = scratch.keep("filtered", rows.join(users, USER_DOMAIN).join(items, "item"))
        few_user, few_item = sf.col("few_user"), sf.col("few_item")
        by_user, by_item = only_row(flagged.select(sf.count_if(few_user), sf.count_if(~few_user & few_item)))
        few_users, few_items = few_users + by_user, few_items + by_item
        rows = flagged.filter(~few_user & ~few_item).select(columns)
        if not config.core or by_user + by_item == 0:
            break
    if few_users:
        refused[f"user with fewer than {config.min_user_interactions} in the domain"] = few_users
    if few_items:
        refused[f"item with fewer than {config.min_item_interactions}"] = few_items
    return rows, refused


def order_statistics(rows: DataFrame, column: str, places: Sequence[int]) -> list[int]:
    """The values that stand at these places of a column once it is sorted, without sorting it.

    A histogram says which of its bins holds a place; the next one divides that bin, until it is one value wide. Times
    in seconds take two. Values may lie less than 2^63 apart.

    Args:
        rows: with the column, whole numbers without nulls; read once a histogram.
        column: its name.
        places: from 0, each below the number of rows.
    """
    from pyspark.sql import functions as sf

    low, high = only_row(rows.select(sf.min(column), sf.max(column)))
    found = []
    for place in places:
        begin, end, before = low, high, 0  # `before` rows lie below `begin`
        while begin < end:
            width = (end - begin) // BINS + 1
            number = sf.expr(f"(`{column}` - {begin}) div {width}").alias("bin")
            inside = rows.filter(sf.col(column).between(begin, end)).groupBy(number).count()
            for row in inside.orderBy("bin").toArrow().to_pylist():  # at most BINS of them
                if before + row["count"] > place:
                    begin = begin + row["bin"] * width
                    end = min(begin + width - 1, end)
                    break
                before += row["count"]
        found.append(begin)
    return found


def places_of_users(events: DataFrame, *within: str) -> DataFrame:
    """The distinct users of `events`, each with its place in the order of their ids.

    Args:
        events: user_id and bucket, the ranges of user ids that `spark_events.bucketed` made: users of a lower bucket
            come first, so one count a bucket says where each begins, and no user is sorted beside those of another.
        within: columns; users are numbered from 0 for each of their values.

    Returns:
        user_id, the columns of `within`, place (int64).
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    group = ["bucket", *within]
    users = events.select("user_id", *group).distinct()
    counts = users.groupBy(group).count()
    earlier = Window.partitionBy(*within).orderBy("bucket").rowsBetween(Window.unboundedPreceding, -1)
    before = counts.select(*group, sf.coalesce(sf.sum("count").over(earlier), sf.lit(0)).alias("before"))
    inside = sf.row_number().over(Window.partitionBy(group).orderBy("user_id")) - 1
    return users.join(sf.broadcast(before), group).select(
        "user_id", *within, (sf.col("before") + inside).alias("place")
    )


def count_training(pretraining: DataFrame, split: DataFrame, counts: TrainingCounts) -> None:
    """Add up all training events: `TrainingCounts.add` of all users. A row an item and 8 bytes a user are collected.

    Args:
        pretraining: user_id, item of the events for pre-training.
        split: the downstream events: user_id, domain, item, split.
        counts: to add to.
    """
    from pyspark.sql import functions as sf

    trained = split.filter(sf.col("split") == "train")
    events = pretraining.select("item").unionByName(trained.select("item")).groupBy("item").count().toArrow()
    counts.item_events[events["item"].to_numpy()] += events["count"].to_numpy()
    lengths = trained.groupBy("domain", "user_id").count().filter(sf.col("count") >= 2)
    for domain, dataset in counts.datasets.items():
        users = lengths.filter(sf.col("domain") == domain).select("user_id")
        keys = users.mapInArrow(partial(_keyed, dataset=dataset), "key long").toArrow()["key"]
        counts.add_keys(domain, keys.to_numpy().view(np.uint64))


def _keyed(batches: Iterator[pa.RecordBatch], dataset: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        keys = user_keys(dataset, batch.column(0)).view(np.int64)  # Spark's integers have a sign
        yield pa.RecordBatch.from_arrays([pa.array(keys)], ["key"])


def only_row(rows: DataFrame) -> tuple[Any, ...]:
    """The one row of an aggregation."""
    (row,) = rows.collect()
    return tuple(row)
