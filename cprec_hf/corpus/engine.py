"""Where a corpus' events are worked on: in this process (`engine: polars`) or on a Spark cluster (`engine: spark`).

A build asks either for the same things in the same order, and gets the same rows and the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import polars as pl

from cprec_hf.behaviors.account import Account, Step
from cprec_hf.behaviors.schema import Behaviors
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.control_rows import ControlAccount
from cprec_hf.corpus.examples import ExamplePlan
from cprec_hf.corpus.prepare import DomainFigures, Frames, Prepared, domain_figures, prepare
from cprec_hf.corpus.sequences import SequencePlan
from cprec_hf.corpus.splits import TimeCuts, split_downstream
from cprec_hf.corpus.training_counts import TrainingCounts
from cprec_hf.corpus.write import Parts, PretrainingUsers, ShardRows


class Source(Protocol):
    """A source, read and filtered."""

    @property
    def items(self) -> pl.DataFrame:
        """`catalogue.read_items` of the items that stay."""
        ...

    @property
    def account(self) -> Account:
        """Of reading and filtering."""
        ...

    def figures(self) -> dict[str, DomainFigures]:
        """Figures of every domain, events or not."""
        ...

    def divide(self, config: CorpusConfig, order: str) -> Divided:
        """Split the downstream events, and find what pre-training may see of the others (`splits.py`).

        Args:
            config: downstream domains, split, most test users and seed.
            order: the source's kind of order, "time" or "position".

        Raises:
            InputError: a time split of a source without times, or a split that leaves a domain without a part.
        """
        ...


class Divided(Protocol):
    """A source's events, divided.

    Attributes:
        cuts: of the time policy, else None.
        steps: of the split.
        counts: downstream events by (domain, split), those in no split left out.
    """

    cuts: TimeCuts | None
    steps: tuple[Step, ...]
    counts: Counter[tuple[str, str]]

    def pretraining_users(
        self, kinds: Iterable[str], counts: TrainingCounts, *, share: float, seed: int
    ) -> PretrainingUsers:
        """Count the events for pre-training, and draw the users whose documents validate.

        Args:
            kinds: of document.
            counts: given all training events to count too.
            share: of the users with documents that are drawn, at least one of them.
            seed: of that draw.
        """
        ...

    def rows(
        self, plan: SequencePlan, example_plans: Mapping[str, ExamplePlan], controls: ControlAccount
    ) -> Iterator[ShardRows]:
        """The rows of the corpus, shard by shard; those of a config come in the order of their users.

        Args:
            plan: for `sequences.cpt_sequences`.
            example_plans: for `examples.sft_examples`, by downstream domain.
            controls: to count in (`held` and `late`).
        """
        ...


class LocalSource:
    """`Source` in this process: buckets on disk, one after another."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.items, self.account = prepared.items, prepared.account

    def figures(self) -> dict[str, DomainFigures]:
        """See `Source`."""
        return domain_figures(self.prepared)

    def divide(self, config: CorpusConfig, order: str) -> Parts:
        """See `Source`."""
        split = split_downstream(
            Frames(self.prepared, config.downstream), config.split, order=order, max_test_users=config.max_test_users,
            seed=config.seed,
        )  # fmt: skip
        return Parts(self.prepared, split, config.downstream)


def open_source(behaviors: Behaviors, config: CorpusConfig, folder: Path) -> Source:
    """Read a source where `config.engine` says.

    Args:
        behaviors: with a `log` or to be validated, see `prepare.prepare`.
        config: engine, filters, pseudonyms and memory.
        folder: to be made, for what the work needs on disk; under Spark all workers must see it.

    Raises:
        InputError: what `prepare.prepare` refuses, or an engine that is not there.
    """
    if config.engine == "spark":
        from cprec_hf.corpus.spark import prepare_on_spark

        return prepare_on_spark(behaviors, config, folder)
    return LocalSource(prepare(behaviors, config, folder))
