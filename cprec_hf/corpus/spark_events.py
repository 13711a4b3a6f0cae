"""A log to its events in buckets of whole users, on a Spark cluster: `events.open_events` for what no machine holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from cprec_hf.corpus.pseudonyms import hashed_ids, require_distinct
from cprec_hf.corpus.spark_session import Scratch
from cprec_hf.corpus.spark_tables import only_row

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BUCKET_EVENTS = 200_000
"""Events of a bucket, about: one bucket is one table in a worker's memory. The rows out do not depend on it."""


def distinct_events(rows: DataFrame) -> DataFrame:
    """Each event once; of equal ones the one of the earliest clock, a known one before an unknown.

    Args:
        rows: user_id, item (row of the catalogue, which names its domain too), timestamp, clock.
    """
    from pyspark.sql import functions as sf

    return rows.groupBy("user_id", "item", "timestamp").agg(sf.min("clock").alias("clock"))


def with_pseudonyms(events: DataFrame, key: bytes, scratch: Scratch) -> DataFrame:
    """`events` with each user_id replaced by its keyed hash. Each id is hashed once, on the workers.

    Args:
        events: user_id and any other columns; read twice.
        key: from `pseudonyms.user_key`; it travels to the workers as part of the function they run.
        scratch: for the table of users, which is removed when `events` were renamed (`scratch.keep`).

    Raises:
        InputError: two ids share a pseudonym.
    """
    from pyspark.sql import functions as sf

    def hashed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            names = pa.array(hashed_ids(batch.column(0).to_pylist(), key), pa.string())
            yield pa.RecordBatch.from_arrays([batch.column(0), names], ["user_id", "pseudonym"])

    users = events.select("user_id").distinct()
    names = scratch.keep("users", users.mapInArrow(hashed, "user_id string, pseudonym string"))
    require_distinct(*only_row(names.select(sf.count("*"), sf.count_distinct("pseudonym"))))
    columns = [sf.col("pseudonym").alias("user_id") if name == "user_id" else sf.col(name) for name in events.columns]
    return events.join(names, "user_id").select(columns)


def with_domain(events: DataFrame, domain_of: pl.Series) -> DataFrame:
    """`events` with the column `domain`, the name of its item's.

    Args:
        events: with `item`, rows of the catalogue.
        domain_of: the domain of each item, in the order of the catalogue: ascending.
    """
    from pyspark.sql import functions as sf

    items = domain_of.alias("domain").to_frame().with_row_index("item")
    last = items.group_by("domain").agg(pl.col("item").max()).sort("item").rows()
    name = sf.lit(last[-1][0])
    for domain, item in reversed(last[:-1]):
        name = sf.when(sf.col("item") <= item, domain).otherwise(name)
    return events.withColumn("domain", name)


def bucketed(events: DataFrame, scratch: Scratch, bucket_events: int) -> DataFrame:
    """Events in buckets of whole users, kept in `scratch` for whatever comes after.

    Args:
        events: user_id and any other columns; read three times.
        scratch: for the buckets.
        bucket_events: events of a bucket, about; a user with more has a bucket of their own.

    Returns:
        The same columns and `bucket`. Every user is in one bucket, and those in a lower one come first in the order of
        ids (by their UTF-8 bytes, as everywhere).
    """
    from pyspark.sql import functions as sf

    n_buckets = max(-(-events.count() // bucket_events), 1)
    ranges = events.repartitionByRange(n_buckets, "user_id").withColumn("bucket", sf.spark_partition_id())
    return scratch.keep("events", ranges)
