"""`engine: spark`: a corpus' events on a Spark 4 cluster, behind the same face as those of one machine (`prepare.py`).

What needs one user's rows is done by the same pure functions, a bucket of users at a time (`spark_shards`); what needs
all rows is a query (`spark_events`, `spark_tables`, `spark_splits`). This process keeps the catalogue, the numbers of
users that are drawn, the ids of those whose documents validate, and one bucket's rows at a time, which it writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from cprec_hf.behaviors.account import Account, Step
from cprec_hf.behaviors.filters import FilterConfig, nothing_left
from cprec_hf.behaviors.schema import Behaviors
from cprec_hf.corpus import spark_events, spark_shards, spark_splits
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.control_rows import ControlAccount
from cprec_hf.corpus.examples import ExamplePlan
from cprec_hf.corpus.prepare import DomainFigures, coded_log, read_account, reading
from cprec_hf.corpus.pseudonyms import user_key
from cprec_hf.corpus.sequences import SequencePlan
from cprec_hf.corpus.spark_controls import with_controls
from cprec_hf.corpus.spark_events import bucketed, distinct_events, with_domain, with_pseudonyms
from cprec_hf.corpus.spark_session import Scratch, spark_session
from cprec_hf.corpus.spark_tables import count_training, filtered, only_row, places_of_users
from cprec_hf.corpus.splits import TimeCuts, cpt_step, keyed_rng, require_every_split, require_times, split_account
from cprec_hf.corpus.training_counts import TrainingCounts
from cprec_hf.corpus.write import PretrainingUsers, ShardRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class SparkSource:
    """`engine.Source` on a Spark cluster: events in buckets of whole users.

    Args:
        items: `catalogue.read_items` of the items that stay; events name its rows.
        events: user_id, item, timestamp, clock, domain, bucket.
        account: of reading and filtering.
        scratch: for tables to come.
    """

    def __init__(self, items: pl.DataFrame, events: DataFrame, account: Account, scratch: Scratch) -> None:
        self.items, self.events, self.account, self.scratch = items, events, account, scratch

    def figures(self) -> dict[str, DomainFigures]:
        """See `engine.Source`."""
        from pyspark.sql import functions as sf

        figures = {domain: DomainFigures(0, 0, Counter()) for domain in self.items["domain"].unique().sort()}
        lengths = self.events.groupBy("domain", "user_id").agg(sf.count("*").alias("length"))
        for domain, length, users in lengths.groupBy("domain", "length").count().collect():
            figures[domain].users += users
            figures[domain].interactions += length * users
            figures[domain].lengths[length] = users
        return figures

    def divide(self, config: CorpusConfig, order: str) -> SparkParts:
        """See `engine.Source`."""
        from pyspark.sql import functions as sf

        require_times(config.split, order)
        later = self.events.filter(sf.col("domain").isin(config.downstream))
        before = self.events.filter(~sf.col("domain").isin(config.downstream))
        cuts = spark_splits.time_cuts(later, config.split) if config.split.policy == "time" else None
        examples = self.scratch.keep("examples", spark_splits.with_examples(later, cuts))
        drawn = spark_splits.with_drawn(examples, config.max_test_users, config.seed, self.scratch)
        marked = self.scratch.keep("downstream", spark_splits.with_split(drawn, cuts))
        every, users, could, parts = Counter[str](), Counter[str](), Counter[Any](), Counter[Any]()
        for domain, n_events, n_users in (
            marked.groupBy("domain").agg(sf.count("*"), sf.count_distinct("user_id")).collect()
        ):
            every[domain], users[domain] = n_events, n_users
        for domain, example, split, n in marked.groupBy("domain", "example", "split").count().collect():
            could[domain, example] += n
            parts[domain, split] += n
        could = Counter({key: n for key, n in could.items() if key[1]})
        parts = Counter({key: n for key, n in parts.items() if key[1]})
        require_every_split(sorted(every), parts, cuts)
        steps = split_account(every, users, could, parts)
        pretraining = self.scratch.keep("pretraining", spark_splits.before_held_out(before, marked, cuts))
        return SparkParts(self, marked, pretraining, before.count(), cuts, steps, parts)


class SparkParts:
    """`engine.Divided` on a Spark cluster.

    Args:
        source: the events.
        marked: the downstream ones, with `split`.
        pretraining: those of the other domains that pre-training may see.
        n_before: the events of the other domains.
        cuts: of the time policy, else None.
        steps: of the split.
        counts: events by (downstream domain, split).
    """

    def __init__(
        self, source: SparkSource, marked: DataFrame, pretraining: DataFrame, n_before: int, cuts: TimeCuts | None,
        steps: tuple[Step, ...], counts: Counter[tuple[str, str]],
    ) -> None:  # fmt: skip
        self.source, self.marked, self.pretraining, self.n_before = source, marked, pretraining, n_before
        self.cuts, self.steps, self.counts = cuts, steps, counts

    def pretraining_users(
        self, kinds: Iterable[str], counts: TrainingCounts, *, share: float, seed: int
    ) -> PretrainingUsers:
        """See `engine.Divided`."""
        from pyspark.sql import functions as sf

        count_training(self.pretraining, self.marked, counts)

        lengths = self.pretraining.groupBy("user_id", "bucket", "domain").agg(
            sf.count("*").alias("n"), sf.count("clock").alias("known")
        )
        users = lengths.groupBy("user_id", "bucket").agg(
            sf.sum("n").alias("n"), sf.sum("known").alias("known"), (sf.max("n") >= 2).alias("domain"),
            (sf.count_if(sf.col("known") > 0) >= 2).alias("all_domain"),
        )  # fmt: skip
        alone = sf.when(~sf.col("all_domain"), sf.col("known"))
        sums = [sf.sum("n"), sf.sum(sf.col("n") - sf.col("known")), sf.sum(alone)]
        n_events, unknown, alone_events = only_row(users.select([sf.coalesce(n, sf.lit(0)) for n in sums]))
        writes = sf.lit(False)
        for kind in {"domain", "all_domain"} & set(kinds):
            writes = writes | sf.col(kind)
        writers = self.source.scratch.keep("writers", places_of_users(users.filter(writes)))
        n_writers = writers.count()
        n_held = max(round(share * n_writers), 1) if share else 0
        places = keyed_rng(seed, "cpt validation users").permutation(n_writers)[:n_held]
        drawn = writers.sparkSession.createDataFrame(pa.table({"place": places.astype(np.int64)}))
        held = writers.join(sf.broadcast(drawn), "place").select("user_id").toArrow()["user_id"].combine_chunks()
        step = cpt_step(self.n_before, n_events, self.cuts)
        return PretrainingUsers(n_events, step, held.sort(), unknown, alone_events)

    def rows(
        self, plan: SequencePlan, example_plans: Mapping[str, ExamplePlan], controls: ControlAccount
    ) -> Iterator[ShardRows]:
        """See `engine.Divided`: the documents of all buckets, then the examples of all buckets, domain by domain."""
        from pyspark.sql import functions as sf

        scratch = self.source.scratch
        events = with_controls(self.pretraining, self.marked, self.cuts, plan, controls, scratch)
        for n_events, tables in spark_shards.documents(events, plan, controls.users.held, scratch):
            yield n_events, None, tables
        pretrained = self.pretraining.groupBy("user_id").agg(sf.count("*").cast("int").alias("n"))
        read = sf.coalesce("n", sf.lit(0)).alias("cpt_events")
        for domain, example_plan in example_plans.items():
            first = int(self.source.items["domain"].search_sorted(domain))
            events = self.marked.filter(sf.col("domain") == domain).withColumn("item", sf.col("item") - first)
            events = events.join(pretrained, "user_id", "left").select(*events.columns, read)
            for n_events, tables in spark_shards.example_tables(events, example_plan, scratch):
                yield n_events, domain, tables


def prepare_on_spark(behaviors: Behaviors, config: CorpusConfig, folder: Path) -> SparkSource:
    """Read a source into `folder`, on the cluster: `prepare.prepare` with the same arguments and errors.

    The source is read once, here, by Polars, streaming; its usable rows go to `folder` as Parquet, where the cluster
    takes them up.
    """
    scratch = Scratch(spark_session(), folder)
    folder.mkdir(parents=True)
    items, rows, queries = coded_log(behaviors)
    path = scratch.folder / "log.parquet"
    with reading(behaviors):
        _, *found = pl.collect_all([rows.sink_parquet(path, lazy=True), *queries], engine="streaming")
    log = scratch.session.read.parquet(path.as_uri())
    events = scratch.keep("read", distinct_events(log))
    account = read_account(behaviors, found, log.count() - events.count())
    path.unlink()
    if config.pseudonymise:
        events = scratch.keep("read", with_pseudonyms(events, user_key(), scratch))
    events, items = _filtered(
        behaviors.about.name, with_domain(events, items["domain"]), items, config.filters, account, scratch
    )
    return SparkSource(items, bucketed(events, scratch, spark_events.BUCKET_EVENTS), account, scratch)


def _filtered(
    name: str, events: DataFrame, items: pl.DataFrame, config: FilterConfig, account: Account, scratch: Scratch
) -> tuple[DataFrame, pl.DataFrame]:
    """The events and items that the filters leave, the events with the items' new numbers; said in the account."""

    if config == FilterConfig(core=config.core):
        return events, items
    n_before = events.count()
    kept, refused = filtered(events, config, scratch)
    n_after = kept.count()
    if not n_after:
        raise nothing_left(name, refused)
    account.add("interactions: filter", n_before, n_after, refused)
    if config.min_item_interactions == 0:
        return kept, items
    active = kept.select("item").distinct().toArrow()["item"].to_numpy()
    left = items.with_row_index("item").filter(pl.col("item").is_in(pl.Series(active))).with_row_index("number")
    gone = {f"item with fewer than {config.min_item_interactions}": len(items) - len(left)}
    account.add("items: filter", len(items), len(left), gone)
    numbers = pa.table({name: left[name].to_arrow().cast(pa.int32()) for name in ("item", "number")})
    renumbered = kept.join(events.sparkSession.createDataFrame(numbers), "item").drop("item")
    return renumbered.withColumnRenamed("number", "item"), left.drop("item", "number")
