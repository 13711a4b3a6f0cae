"""Which downstream event trains, validates or tests (`splits.py`), as Spark queries: the same part for every event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.config import SplitConfig
from cprec_hf.corpus.spark_session import Scratch
from cprec_hf.corpus.spark_tables import order_statistics, places_of_users
from cprec_hf.corpus.splits import USER_DOMAIN, TimeCuts, cut_places, user_places

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_DRAWN = pa.schema([("domain", pa.string()), ("example", pa.string()), ("place", pa.int64())])


def time_cuts(events: DataFrame, config: SplitConfig) -> TimeCuts:
    """`splits.time_cuts` of the column `timestamp`."""
    return TimeCuts(*order_statistics(events, "timestamp", cut_places(events.count(), config)))


def with_examples(events: DataFrame, cuts: TimeCuts | None) -> DataFrame:
    """`events` with the column `example`: as what each could be asked about, "validation", "test" or null.

    Args:
        events: of the downstream domains: user_id, domain, item (its row in the catalogue, so that items sort as their
            ids do), timestamp and any other columns.
        cuts: of the time policy; None means leave-one-out.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    order, position = ["timestamp", "item"], sf.col("position")
    history = Window.partitionBy(USER_DOMAIN)
    same_item = Window.partitionBy(*USER_DOMAIN, "item").orderBy("timestamp")
    events = events.withColumns(
        {
            "position": sf.row_number().over(history.orderBy(order)) - 1,
            "fresh": sf.row_number().over(same_item) == 1,
            "length": sf.count("*").over(history),
        }
    )
    if cuts is None:
        from_end = sf.col("length") - 1 - position
        both_new = sf.every(sf.col("fresh") | (from_end > 1)).over(history)
        possible = both_new & (sf.col("length") >= 3)
        example = sf.when(possible & (from_end == 0), "test").when(possible & (from_end == 1), "validation")
    else:
        tests = sf.when(sf.col("timestamp") >= cuts.test, "test")
        era = tests.when(sf.col("timestamp") >= cuts.validation, "validation")
        events = events.withColumn("possible", sf.col("fresh") & (position >= 1))
        so_far = Window.partitionBy(*USER_DOMAIN, era).orderBy(order)
        first = sf.col("possible") & (sf.sum(sf.col("possible").cast("int")).over(so_far) == 1)
        example = sf.when(first, era)
    return events.withColumn("example", example).drop("position", "fresh", "length", "possible")


def with_drawn(events: DataFrame, most: int | None, seed: int, scratch: Scratch) -> DataFrame:
    """`events` with the column `drawn`: whether its example is kept, of at most `most` users a domain and split.

    What comes to the driver are numbers of users, 8 bytes each; no ids.

    Args:
        events: with `example` (see `with_examples`) and `bucket`.
        most: users; None keeps all.
        seed: of the corpus.
        scratch: for the users' places.
    """
    from pyspark.sql import functions as sf

    asked = sf.col("example").isNotNull()
    if most is None:
        return events.withColumn("drawn", asked)
    places = scratch.keep("places", places_of_users(events.filter(asked), "domain"))
    numbers = events.filter(asked).join(places, USER_DOMAIN).select("domain", "example", "place").toArrow()
    kept = [_DRAWN.empty_table()]
    for domain in numbers["domain"].unique().to_pylist():
        here = numbers.filter(pc.equal(numbers["domain"], domain))
        order = user_places(seed, domain, pc.max(here["place"]).as_py() + 1)
        for example in ("validation", "test"):
            users = here["place"].filter(pc.equal(here["example"], example)).to_numpy()
            users = users[np.argsort(order[users])[:most]]
            columns = [pa.repeat(domain, len(users)), pa.repeat(example, len(users)), pa.array(users)]
            kept.append(pa.table(columns, schema=_DRAWN))
    names = pa.concat_tables(kept)
    drawn = events.sparkSession.createDataFrame(names).join(places, ["domain", "place"])
    drawn = drawn.select(*USER_DOMAIN, "example", sf.lit(True).alias("drawn"))
    columns = [*(events[name] for name in events.columns), sf.coalesce("drawn", sf.lit(False)).alias("drawn")]
    return events.join(drawn, [*USER_DOMAIN, "example"], "left").select(columns)


def with_split(events: DataFrame, cuts: TimeCuts | None) -> DataFrame:
    """`events` with the column `split`: train, validation, test, or null for what can only stand in histories.

    Args:
        events: with `example` and `drawn`.
        cuts: of the time policy; None means leave-one-out.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as sf

    if cuts is None:  # whoever is not held out trains with all they did
        trains = ~sf.bool_or("drawn").over(Window.partitionBy(USER_DOMAIN)) | sf.col("example").isNull()
    else:
        trains = sf.col("timestamp") < cuts.validation
    return events.withColumn("split", sf.when(sf.col("drawn"), sf.col("example")).when(trains, "train"))


def before_held_out(events: DataFrame, split: DataFrame, cuts: TimeCuts | None) -> DataFrame:
    """The events of other domains that pre-training may see: `splits.cpt_events`.

    Args:
        events: of the domains that are not downstream: user_id, clock and any other columns.
        split: the downstream events with `split` and `clock`.
        cuts: of the time policy; None means leave-one-out.
    """
    from pyspark.sql import functions as sf

    if cuts is not None:
        return events.filter(sf.col("clock") < cuts.validation)
    held = split.filter((sf.col("split") == "validation") & sf.col("clock").isNotNull())
    cutoffs = held.groupBy("user_id").agg(sf.min("clock").alias("cutoff"))
    late = sf.coalesce(sf.col("clock") >= sf.col("cutoff"), sf.lit(False))
    return events.join(cutoffs, "user_id", "left").filter(~late).select([events[name] for name in events.columns])
