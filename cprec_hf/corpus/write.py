"""A corpus' Parquet files: the pure functions of `sequences` and `examples` run by Polars over shards of the users."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus import examples, sequences
from cprec_hf.corpus.catalogue import Catalogue
from cprec_hf.corpus.files import SplitWriter
from cprec_hf.corpus.splits import keyed_rng

SHARD_ROWS = 200_000
"""Events of a shard: what the pure functions see at once. Our choice; the rows out do not depend on it."""


def user_shards(events: pl.DataFrame, rows: int = SHARD_ROWS) -> list[pl.DataFrame]:
    """Events sorted by user_id, in slices of about `rows` rows that hold all rows of every user in them."""
    first = events.select((pl.col("user_id") != pl.col("user_id").shift()).fill_null(True).arg_true()).to_series()
    starts = np.append(first.to_numpy(), len(events))
    cuts = np.unique(starts[np.searchsorted(starts, np.append(np.arange(0, len(events), rows), len(events)))])
    return [events.slice(begin, end - begin) for begin, end in itertools.pairwise(cuts.tolist())]


def write_documents(
    events: pl.DataFrame,
    catalogue: Catalogue,
    plan: sequences.SequencePlan,
    folder: Path,
    *,
    validation_share: float,
    seed: int,
    done: Callable[[], object],
) -> tuple[dict[str, int], dict[str, int], list[Step]]:
    """Write the pre-training documents as {train,validation}.parquet.

    Args:
        events: for pre-training, sorted by user_id: user_id, domain, item_id, timestamp, clock.
        catalogue: titles and their tokens.
        plan: for `sequences.cpt_sequences`.
        folder: to be made.
        validation_share: share of the users with documents that are drawn for validation, at least one of them.
        seed: of that draw.
        done: called after each shard.

    Returns:
        The documents of each kind, their tokens, and what became of the events in each kind.
    """
    codes = catalogue.items.select("domain", "item_id").with_row_index("item")
    known = pl.col("clock").is_not_null()
    mixed = pl.col("domain").filter(known).n_unique().over("user_id") >= 2
    writes = {"domain": pl.len().over("user_id", "domain") >= 2, "all_domain": known & mixed}
    writers = events.filter(pl.any_horizontal(writes[kind] for kind in plan.kinds))["user_id"].unique().sort()
    n_held = max(round(validation_share * len(writers)), 1) if validation_share else 0
    held = writers.gather(keyed_rng(seed, "cpt validation users").permutation(len(writers))[:n_held])
    written, tokens, used = (dict.fromkeys(plan.kinds, 0) for _ in range(3))
    with _Files(folder, sequences.SEQUENCES) as files:
        for shard in user_shards(events):
            table = shard.join(codes, on=["domain", "item_id"], how="left").select(sequences.EVENTS.names).to_arrow()
            documents = sequences.cpt_sequences(table, plan)
            for kind in plan.kinds:
                of_kind = documents.filter(pc.equal(documents["kind"], kind))
                written[kind] += of_kind.num_rows
                tokens[kind] += pc.sum(of_kind["n_tokens"]).as_py() or 0
                used[kind] += _n_items(of_kind["item_ids"])
            validates = pc.is_in(documents["user_id"], pa.array(held.to_list(), pa.string()))
            files.write("train", documents.filter(pc.invert(validates)))
            files.write("validation", documents.filter(validates))
            done()
    unknown, alone = events.select(unknown=(~known).sum(), alone=(known & ~mixed).sum()).row(0)
    no_order = {"order across domains unknown": unknown, "user active in one domain only": alone}
    steps = []
    for kind in plan.kinds:
        refused = dict(no_order) if kind == "all_domain" else {}
        refused["alone in a window"] = len(events) - used[kind] - sum(refused.values())
        steps.append(Step(f"events in {kind} documents", len(events), used[kind], refused))
    return written, tokens, steps


def write_examples(
    events: pl.DataFrame, plan: examples.ExamplePlan, folder: Path, *, done: Callable[[], object]
) -> Step:
    """Write the rows of one downstream domain as {train,validation,test}.parquet.

    Args:
        events: of the domain, sorted by user_id: user_id, item_id, timestamp, split.
        plan: for `examples.sft_examples`.
        folder: to be made.
        done: called after each shard.

    Returns:
        What became of the training events.
    """
    numbers = pl.DataFrame({"item_id": plan.catalogue["item_id"].to_pylist()}).with_row_index("item")
    used, every = 0, plan.train_targets == "every"
    with _Files(folder, examples.EXAMPLES) as files:
        for shard in user_shards(events):
            table = shard.join(numbers, on="item_id", how="left").select(examples.EVENTS.names).to_arrow()
            rows = examples.sft_examples(table, plan)
            for split, part in rows.items():
                files.write(split, part)
            used += rows["train"].num_rows + (0 if every else _n_items(rows["train"]["history"]))
            done()
    trained = events.filter(pl.col("split") == "train").height
    name, reason = ("targets", "first of their user") if every else ("lines", "alone in a window")
    return Step(f"training events as {name} of {plan.domain}", trained, used, {reason: trained - used})


def _n_items(lists: pa.ChunkedArray) -> int:
    return pc.sum(pc.list_value_length(lists)).as_py() or 0


class _Files:
    """The splits of a config, each begun at its first row."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self.splits: dict[str, SplitWriter] = {}

    def __enter__(self) -> _Files:
        self.folder.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: Any) -> None:
        for writer in self.splits.values():
            writer.close() if kind is None else writer.abandon()

    def write(self, split: str, table: pa.Table) -> None:
        if split not in self.splits:
            self.splits[split] = SplitWriter(self.folder, split, self.schema)
        self.splits[split].write(table)
