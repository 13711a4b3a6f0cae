"""A corpus' Parquet files: the pure functions of `sequences` and `examples`, run over shards of the users.

Shards are whole users, in order. Two or more are worked on at once (the functions are NumPy and Arrow, which run beside
one another), and written in order, so the files are the same however many.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus import examples, sequences
from cprec_hf.corpus.config_writer import ConfigWriter
from cprec_hf.corpus.control_rows import ControlAccount, ControlRows, documents_by_split
from cprec_hf.corpus.events import Bucket
from cprec_hf.corpus.handover import of_two_domains
from cprec_hf.corpus.prepare import Frames, Prepared
from cprec_hf.corpus.splits import Split, cpt_events, cpt_step, keyed_rng
from cprec_hf.corpus.threads import Behind, in_order
from cprec_hf.corpus.training_counts import TrainingCounts
from cprec_hf.corpus.windows import run_bounds

if TYPE_CHECKING:
    from cprec_hf.corpus.engine import Divided

SHARD_ROWS = 200_000
"""Events of a shard: what the pure functions see at once. Our choice; the rows out do not depend on it."""
ShardRows = tuple[int, str | None, dict[str, pa.Table]]
"""The events of a shard, counted, and what they came to by split: None and documents, or a domain and its examples."""


@dataclass(frozen=True)
class PretrainingUsers:
    """Figures of the users that pre-training documents are made of.

    Attributes:
        events: for pre-training.
        step: what became of the other domains' events.
        held: the users whose documents validate, ascending.
        unknown: events without an order across domains.
        alone: the others, of users active in one domain only.
    """

    events: int
    step: Step
    held: pa.StringArray
    unknown: int
    alone: int


@dataclass(frozen=True)
class Part:
    """The events of a bucket, divided.

    Attributes:
        bucket: whose they are.
        n_before: events of the domains that are not downstream.
        pretraining: those of them that pre-training may see.
        downstream: the downstream events, with `split`.
    """

    bucket: Bucket
    n_before: int
    pretraining: pl.DataFrame
    downstream: pl.DataFrame


class Parts:
    """The events of each bucket, divided; may be gone through again and again.

    Args:
        prepared: the events.
        split: of the downstream events.
        downstream: domains.
    """

    def __init__(self, prepared: Prepared, split: Split, downstream: list[str]) -> None:
        self.prepared, self.split = prepared, split
        self.cuts, self.steps, self.counts = split.cuts, split.steps, split.counts
        self.later = Frames(prepared, downstream)
        self.before = Frames(prepared, [domain for domain in prepared.domains if domain not in downstream])

    def __iter__(self) -> Iterator[Part]:
        return in_order(partial(self._part, number) for number in range(len(self.prepared.store)))

    def _part(self, number: int) -> Part:
        bucket = self.prepared.store.load(number)
        before, marked = self.before.of(bucket), self.split.of(number, self.later.of(bucket))
        return Part(bucket, len(before), cpt_events(before, marked, self.split.cuts), marked)

    def pretraining_users(
        self, kinds: Iterable[str], counts: TrainingCounts, *, share: float, seed: int
    ) -> PretrainingUsers:
        """See `engine.Divided`."""
        return pretraining_users(self, kinds, counts, share=share, seed=seed)

    def rows(
        self,
        plan: sequences.SequencePlan,
        example_plans: Mapping[str, examples.ExamplePlan],
        controls: ControlAccount,
    ) -> Iterator[ShardRows]:
        """See `engine.Divided`; shards are worked on side by side."""
        return in_order(self._shards(plan, example_plans, controls))

    def _shards(
        self,
        plan: sequences.SequencePlan,
        example_plans: Mapping[str, examples.ExamplePlan],
        account: ControlAccount,
    ) -> Iterator[Callable[[], ShardRows]]:
        domains = self.prepared.domains
        first_item = dict(zip(domains, np.searchsorted(self.prepared.domain_of, np.arange(len(domains))), strict=True))
        controls = ControlRows(self, plan, account)
        for number, part in enumerate(self):
            for shard in user_shards(controls.beside(number, part)):
                handed = [sequences.HANDED] if sequences.HANDED in shard.columns else []
                table = _table(shard, part.bucket, ["item", "timestamp", "clock", *handed])
                own = len(shard) - sum(int(shard[name].sum()) for name in handed)
                yield partial(_documents, own, table, plan, account.users.held)
            pretrained = np.bincount(part.pretraining["user_id"].to_numpy(), minlength=len(part.bucket.users))
            for domain, example_plan in example_plans.items():
                for shard in user_shards(part.downstream.filter(pl.col("domain") == domain)):
                    read = pl.Series(pretrained[shard["user_id"].to_numpy()], dtype=pl.Int32)
                    shard = shard.with_columns(pl.col("item_id") - int(first_item[domain]), cpt_events=read)
                    table = _table(shard, part.bucket, ["item", "timestamp", "split", "cpt_events"])
                    yield partial(_examples, len(shard), table, example_plan)


def pretraining_users(
    parts: Parts, kinds: Iterable[str], counts: TrainingCounts, *, share: float, seed: int
) -> PretrainingUsers:
    """Count the events for pre-training, and draw the users whose documents validate.

    Args:
        parts: of all events.
        kinds: of document.
        counts: given all training events to count too, which saves another pass.
        share: of the users with documents that are drawn, at least one of them.
        seed: of that draw.
    """
    n_before = n_events = unknown = alone = 0
    writers: list[pa.StringArray] = []
    for part in parts:
        bucket, events = part.bucket, part.pretraining
        counts.add(bucket.users, events, part.downstream)
        user, domain = events["user_id"].to_numpy(), events["domain"].to_physical().to_numpy()
        known = events["clock"].is_not_null().to_numpy()
        mixed = of_two_domains(user[known], domain[known], len(bucket.users))
        n_before, n_events = n_before + part.n_before, n_events + len(events)
        unknown += int((~known).sum())
        alone += int((known & ~mixed[user]).sum())
        writes = np.zeros(len(bucket.users), dtype=bool)
        if "all_domain" in kinds:
            writes |= mixed
        if "domain" in kinds:
            bounds = run_bounds(user, domain)
            writes[user[bounds[:-1][np.diff(bounds) >= 2]]] = True
        writers.append(bucket.users.filter(pa.array(writes)))
    every = pa.concat_arrays(writers)
    n_held = max(round(share * len(every)), 1) if share else 0
    held = np.sort(keyed_rng(seed, "cpt validation users").permutation(len(every))[:n_held])
    step = cpt_step(n_before, n_events, parts.split.cuts)
    return PretrainingUsers(n_events, step, every.take(pa.array(held)), unknown, alone)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        documents: of each kind.
        tokens: of each kind.
        steps: what became of the events.
        hashes: of the rows of each (config, split), see `content`.
    """

    documents: dict[str, int]
    tokens: dict[str, int]
    steps: list[Step]
    hashes: dict[tuple[str, str], str]


def write_rows(
    divided: Divided,
    plan: sequences.SequencePlan,
    example_plans: Mapping[str, examples.ExamplePlan],
    users: PretrainingUsers,
    folder: Path,
    slugs: Mapping[str, str],
    *,
    done: Callable[[int], object],
) -> Written:
    """Write the configs cpt and sft-* of a corpus.

    Args:
        divided: the events.
        plan: for `sequences.cpt_sequences`.
        example_plans: for `examples.sft_examples`, by downstream domain.
        users: of the pre-training events.
        folder: of the corpus.
        slugs: of the domains.
        done: called with the events of each shard when it is written.
    """
    documents, tokens, used = (Counter[str]() for _ in range(3))
    targets = Counter[str]()
    controls = ControlAccount(plan.kinds, users)
    with ExitStack() as stack:
        files: dict[str | None, ConfigWriter] = {
            None: stack.enter_context(ConfigWriter(folder / "cpt", sequences.SEQUENCES))
        }
        for name, at in example_plans.items():
            files[name] = stack.enter_context(ConfigWriter(folder / f"sft-{slugs[name]}", at.schema))
        writer = stack.enter_context(Behind())

        def write(domain: str | None, rows: Mapping[str, pa.Table]) -> None:
            for split, part in rows.items():
                files[domain].write(split, part)
            if domain is None:
                for part in rows.values():
                    kind = pc.index_in(part["kind"], pa.array(plan.kinds, pa.string())).to_numpy()
                    for counter, column in zip((documents, tokens, used), _sizes(part), strict=True):
                        sums = np.bincount(kind, column, minlength=len(plan.kinds))
                        counter.update({name: int(n) for name, n in zip(plan.kinds, sums, strict=True)})
            else:
                every = example_plans[domain].train_targets == "every"
                targets[domain] += rows["train"].num_rows + (0 if every else _n_items(rows["train"]["history"]))

        for n_events, domain, rows in divided.rows(plan, example_plans, controls):
            writer.do(partial(write, domain, rows))
            done(n_events)
    steps = [controls.step(kind, used[kind]) for kind in plan.kinds]
    steps += [
        _target_step(at, divided.counts[domain, "train"], targets[domain]) for domain, at in example_plans.items()
    ]
    hashes = {(config.folder.name, split): found for config in files.values() for split, found in config.hashes()}
    return Written({k: documents[k] for k in plan.kinds}, {k: tokens[k] for k in plan.kinds}, steps, hashes)


def user_shards(events: pl.DataFrame, rows: int = SHARD_ROWS) -> list[pl.DataFrame]:
    """Events sorted by user_id, in slices of about `rows` rows that hold all rows of every user in them."""
    first = events.select((pl.col("user_id") != pl.col("user_id").shift()).fill_null(True).arg_true()).to_series()
    starts = np.append(first.to_numpy(), len(events))
    cuts = np.unique(starts[np.searchsorted(starts, np.append(np.arange(0, len(events), rows), len(events)))])
    return [events.slice(begin, end - begin) for begin, end in itertools.pairwise(cuts.tolist())]


def _table(shard: pl.DataFrame, bucket: Bucket, columns: list[str]) -> pa.Table:
    """A shard as the pure functions take it, user ids in a dictionary."""
    user = shard["user_id"].to_numpy()
    first, last = (int(user[0]), int(user[-1])) if len(user) else (0, -1)
    ids = pa.DictionaryArray.from_arrays(pa.array(user - first), bucket.users.slice(first, last - first + 1))
    rest = shard.rename({"item_id": "item"}).select(columns).to_arrow()
    return rest.add_column(0, "user_id", ids)


def _documents(n_events: int, table: pa.Table, plan: sequences.SequencePlan, held: pa.StringArray) -> ShardRows:
    return n_events, None, documents_by_split(table, plan, held)


def _examples(n_events: int, table: pa.Table, plan: examples.ExamplePlan) -> ShardRows:
    return n_events, plan.domain, examples.sft_examples(table, plan)


def _target_step(plan: examples.ExamplePlan, trained: int, used: int) -> Step:
    every = plan.train_targets == "every"
    name, reason = ("targets", "first of their user") if every else ("lines", "alone in a window")
    return Step(f"training events as {name} of {plan.domain}", trained, used, {reason: trained - used})


def _sizes(documents: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One of each document, its tokens and its items, each float64 [documents]."""
    items = pc.list_value_length(documents["item_ids"]).to_numpy()
    return np.ones(len(items)), documents["n_tokens"].to_numpy().astype(np.float64), items.astype(np.float64)


def _n_items(lists: pa.ChunkedArray) -> int:
    return pc.sum(pc.list_value_length(lists)).as_py() or 0
