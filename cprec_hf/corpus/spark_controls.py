"""The events of controls on a Spark cluster: `control_rows` and `handover` as queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.control_rows import ControlAccount
from cprec_hf.corpus.controls import SHUFFLED_USERS
from cprec_hf.corpus.handover import circle_keys
from cprec_hf.corpus.sequences import HANDED, SequencePlan
from cprec_hf.corpus.spark_session import Scratch
from cprec_hf.corpus.spark_splits import before_held_out
from cprec_hf.corpus.splits import TimeCuts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_controls(
    events: DataFrame, split: DataFrame, cuts: TimeCuts | None, plan: SequencePlan, account: ControlAccount,
    scratch: Scratch,
) -> DataFrame:  # fmt: skip
    """The events for all kinds of document, as `control_rows.ControlRows.beside` gives them, and what it counts.

    Args:
        events: for pre-training: user_id, item, timestamp, clock, domain, bucket.
        split: the downstream events with `split`.
        cuts: of the time policy, else None.
        plan: of the documents.
        account: to count in.
        scratch: for the events that are handed over.
    """
    from pyspark.sql import functions as sf

    if not account.kinds:
        return events
    ids = events.sparkSession.createDataFrame(pa.table({"user_id": account.users.held}))
    domains = events.filter(sf.col("clock").isNotNull()).groupBy("user_id").agg(sf.count_distinct("domain").alias("n"))
    mixed = domains.filter(sf.col("n") >= 2).select("user_id")
    known = events.filter(sf.col("clock").isNotNull()).join(mixed, "user_id")
    account.held["domain"] = events.join(ids, "user_id", "left_semi").count()
    account.held["all_domain"] = known.join(ids, "user_id", "left_semi").count()
    if SHUFFLED_USERS not in account.kinds:
        return events
    handed = scratch.keep("handed", _handed_over(known.join(ids, "user_id", "left_anti"), plan.seed))
    received = handed
    if plan.times_known:
        received = scratch.keep("received", before_held_out(handed, split, cuts))
        account.late = handed.count() - received.count()
    columns = ["user_id", "item", "timestamp", "clock", "bucket"]
    both = [rows.select(*columns, sf.lit(i > 0).alias(HANDED)) for i, rows in enumerate((events, received))]
    return both[0].unionByName(both[1])


def _handed_over(events: DataFrame, seed: int) -> DataFrame:
    """The events of those who take part, each with its receiver (`handover.receivers`) and the receiver's bucket."""
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    def keyed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            users, domains = batch.column("user_id"), batch.column("domain")
            keys = np.empty(batch.num_rows, dtype=np.uint64)
            for domain in pc.unique(domains).to_pylist():
                here = pc.equal(domains, domain)
                keys[here.to_numpy(zero_copy_only=False)] = circle_keys(users.filter(here), domain, seed)
            signed = (keys ^ np.uint64(1 << 63)).view(np.int64)  # in the same order: Spark's integers have a sign
            yield batch.append_column("key", pa.array(signed))

    pairs = events.select("user_id", "domain", "bucket").distinct()
    pairs = pairs.mapInArrow(keyed, "user_id string, domain string, bucket int, key long")
    line = Window.partitionBy("domain").orderBy("key", "user_id")
    user = sf.struct("user_id", "bucket")
    following = sf.coalesce(sf.lead(user).over(line), sf.first(user).over(line))  # the last hands to the first
    given = pairs.select("user_id", "domain", following.alias("to"))
    handed = events.join(given, ["user_id", "domain"])
    return handed.select(sf.col("to.user_id").alias("user_id"), "item", "timestamp", "clock", "to.bucket")
