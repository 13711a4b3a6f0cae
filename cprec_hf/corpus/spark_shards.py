"""The pure functions of `sequences` and `examples` on a Spark cluster: one bucket of whole users is one shard.

Buckets are ranges of user ids, so what the buckets give, one after another, is in the corpus' global order.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_hf.corpus import examples, sequences
from cprec_hf.corpus.control_rows import DOCUMENT_SPLITS, documents_by_split
from cprec_hf.corpus.few_shot import split_name
from cprec_hf.corpus.spark_session import Scratch, errors_of_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Plan = TypeVar("Plan", sequences.SequencePlan, examples.ExamplePlan)

BROADCAST_BYTES = "spark.cprec.broadcastBytes"
"""The Spark setting that says how large a catalogue may be for every worker to hold it whole, in bytes."""
DEFAULT_BROADCAST_BYTES = 256 << 20
"""Our choice: with the arrays made of it, it leaves room for a shard of events in a worker of 1 GB."""


def map_buckets(
    events: DataFrame,
    function: Callable[[pa.Table], Mapping[str, pa.Table]],
    names: Sequence[str],
    schema: pa.Schema,
    folder: Path,
) -> Iterator[tuple[int, dict[str, pa.Table]]]:
    """Run a pure function on every bucket, on the cluster, and read what came out, bucket after bucket.

    Args:
        events: with the column `bucket`; one bucket is one table in a worker's memory.
        function: a bucket's events -> tables of `schema` by name. It travels to the workers by pickle.
        names: of those tables.
        schema: of its tables: text, numbers and lists of them.
        folder: to be made, on a disk that this process and all workers see; removed when all of it was read.

    Yields:
        Each bucket's events, counted (those handed over apart), and its tables by name, in the order of the buckets.

    Raises:
        InputError: as the function does.
    """
    from pyspark.sql import functions as sf
    from pyspark.sql.pandas.types import from_arrow_schema

    kept = pa.schema([*schema, ("part", pa.string())])
    whole = pa.schema([*kept, ("bucket", pa.int32()), ("row", pa.int64())])

    def run(key: tuple[pa.Scalar, ...], shard: pa.Table) -> pa.Table:
        parts = [whole.empty_table()]
        for name, table in function(shard).items():
            n = table.num_rows
            place = [pa.repeat(name, n), pa.repeat(key[0], n), pa.array(np.arange(n))]
            parts.append(pa.table([*table.select(schema.names).columns, *place], schema=whole))
        return pa.concat_tables(parts)

    own = ~sf.col(sequences.HANDED) if sequences.HANDED in events.columns else sf.lit(True)
    sizes: dict[int, int] = dict(events.groupBy("bucket").agg(sf.count_if(own)).collect())
    spread = events.repartition(max(len(sizes), 1), "bucket")  # adaptive execution leaves a number that is said alone
    rows = spread.groupBy("bucket").applyInArrow(run, from_arrow_schema(whole))
    # Rows are in order because they are sorted, not because a writer happens to keep them as they came.
    ordered = rows.sortWithinPartitions("bucket", "part", "row").drop("row")
    with errors_of_workers():
        ordered.write.partitionBy("bucket").parquet(folder.absolute().as_uri())
    for bucket, n_events in sorted(sizes.items()):
        files = sorted((folder / f"bucket={bucket}").glob("*.parquet"))  # none where nothing came out
        tables = [pq.read_table(file, partitioning=None).cast(kept) for file in files]
        found = pa.concat_tables([kept.empty_table(), *tables])
        yield n_events, {name: found.filter(pc.equal(found["part"], name)).select(schema.names) for name in names}
    shutil.rmtree(folder)


def documents(
    events: DataFrame, plan: sequences.SequencePlan, held: pa.StringArray, scratch: Scratch
) -> Iterator[tuple[int, dict[str, pa.Table]]]:
    """`control_rows.documents_by_split` of all buckets, in their order, each with the number of its events.

    Args:
        events: user_id, item, timestamp, clock, bucket.
        plan: with the whole catalogue.
        held: the validation users.
        scratch: for the rows.
    """
    plan_here, whole = _shared(plan, scratch)
    held_here = scratch.session.sparkContext.broadcast(held)

    def run(shard: pa.Table) -> dict[str, pa.Table]:
        of_shard = (shard, plan_here()) if whole else own_catalogue(shard, plan_here())
        return documents_by_split(*of_shard, held_here.value)

    return map_buckets(events, run, DOCUMENT_SPLITS, sequences.SEQUENCES, scratch.folder / "documents")


def example_tables(
    events: DataFrame, plan: examples.ExamplePlan, scratch: Scratch
) -> Iterator[tuple[int, dict[str, pa.Table]]]:
    """`examples.sft_examples` of all buckets, in their order, by split, with the number of events of each bucket.

    Args:
        events: of one downstream domain: user_id, item, timestamp, split, cpt_events, bucket.
        plan: with the domain's catalogue, all of which is needed: any item may be a candidate.
        scratch: for the rows.
    """
    plan_here, _ = _shared(plan, scratch)
    names = [*examples.SPLITS, *map(split_name, plan.few_shot)]
    return map_buckets(
        events, lambda shard: examples.sft_examples(shard, plan_here()), names, plan.schema, scratch.folder / "examples"
    )


def own_catalogue(shard: pa.Table, plan: sequences.SequencePlan) -> tuple[pa.Table, sequences.SequencePlan]:
    """The shard with its items numbered from 0, and the plan with a catalogue of these alone.

    Items keep their order in the whole catalogue, so histories are sorted alike and the documents are the same.

    Args:
        shard: `sequences.EVENTS`.
        plan: with the whole catalogue.
    """
    items, number = np.unique(shard["item"].to_numpy(), return_inverse=True)
    at = shard.schema.get_field_index("item")
    own = replace(plan, catalogue=plan.catalogue.take(pa.array(items)))
    return shard.set_column(at, "item", pa.array(number, pa.int32())), own


def _shared(plan: Plan, scratch: Scratch) -> tuple[Callable[[], Plan], bool]:
    """A function that gives a worker the plan, and whether it then holds the catalogue whole.

    A catalogue that is small enough (see `BROADCAST_BYTES`) is broadcast with the plan. A larger one is a file that all
    workers of a machine map: it takes their memory once, if any, and each shard reads of it what it needs.
    """
    session = scratch.session
    limit = session.conf.get(BROADCAST_BYTES, str(DEFAULT_BROADCAST_BYTES))
    if plan.catalogue.nbytes <= int(limit or DEFAULT_BROADCAST_BYTES):
        broadcast = session.sparkContext.broadcast(plan)
        return lambda: broadcast.value, True
    path = scratch.folder / f"catalogue-{uuid.uuid4().hex}.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, plan.catalogue.schema) as writer:
        writer.write_table(plan.catalogue.combine_chunks())
    bare = replace(plan, catalogue=plan.catalogue.schema.empty_table())
    return lambda: _mapped(path, bare), False


_MAPPED: dict[Path, Any] = {}
"""The plan that a worker works by, so that what is made of its catalogue is made once a process."""


def _mapped(path: Path, bare: Plan) -> Plan:
    if path not in _MAPPED:
        _MAPPED.clear()
        _MAPPED[path] = replace(bare, catalogue=pa.ipc.open_file(pa.memory_map(str(path))).read_all())
    return _MAPPED[path]
