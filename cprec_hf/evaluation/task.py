"""What an evaluation works on: rows of one split, and what methods may be fitted on; checked before any method runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from cprec_hf.corpus.load import corpus_commit, load_corpus, load_facts
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.evaluation.baselines import title_words
from cprec_hf.evaluation.config import EMBEDDED, MODELS, NEED_A_SET, ORACLES, EvaluateConfig
from cprec_hf.evaluation.groups import Grouping, groupings
from cprec_hf.evaluation.models import check_embedder, check_model
from cprec_hf.evaluation.rows import Catalogue, Rows, Score, training_interactions
from cprec_hf.evaluation.sequential.sequences import training_sequences

if TYPE_CHECKING:
    from cprec_hf.behaviors.marketplace_oracle import MarketplaceOracle

_MOST_KEPT = 8 << 30  # bytes of parts' scores


@dataclass(frozen=True)
class Task:
    """What is evaluated: the rows of one split, and what methods may be fitted on."""

    config: EvaluateConfig
    facts: dict[str, Any]
    """The corpus' `cprec-corpus.json`."""
    splits: dict[str, pa.Table]
    """train, validation and test of the domain's fine-tuning config; of train the rows of `train_share`'s users."""
    all_train: pa.Table
    """The split train with all its users: what popularity is counted on where it describes, not predicts."""
    catalogue: Catalogue
    column: str | None
    """With the candidates; None for the whole catalogue."""
    rows: Rows
    """The rows that are scored."""
    fitted: dict[str, tuple[Score, dict[str, Any]]] = field(default_factory=dict, repr=False)
    """What `fit_method` keeps of methods that are parts of others, by name."""

    @classmethod
    def load(cls, config: EvaluateConfig) -> Task:
        """Read the corpus, at one commit if it is a repo, and check that every method can run, before any of them does.

        Raises:
            InputError: no such corpus, domain, split or model; fewer than two users; a k larger than the candidate
                sets; a model without whole weights or some of the items; an oracle without its marketplace or users;
                parts whose scores would not fit into memory, or a hybrid without two validation users.
        """
        config = replace(config, corpus_revision=corpus_commit(config.corpus, config.corpus_revision))
        facts = load_facts(config.corpus, config.corpus_revision)
        domains = facts["domains"]
        downstream = [name for name, about in domains.items() if about["role"] == "downstream"]
        if config.domain not in downstream:
            raise InputError(
                f"`domain` is {config.domain!r}; the downstream domains of {config.corpus} are {', '.join(downstream)}"
            )
        column = _column(config, facts)
        if column and max(config.k) > facts["candidates"]["count"]:
            raise InputError(
                f"`k` goes to {max(config.k)} and a row has {facts['candidates']['count']} candidates; lower it"
            )
        for method in config.methods:
            if method.kind in ORACLES and facts["source"].get("kind") != "marketplace":
                raise InputError(
                    f"method {method.name!r} is of kind {method.kind}, which only a corpus of the simulated "
                    f"marketplace has; {config.corpus} comes from {facts['source'].get('kind')!r}"
                )
        name = f"sft-{domains[config.domain]['slug']}"
        splits = {
            split: rows.with_format("arrow")[:]
            for split, rows in load_corpus(config.corpus, name, config.corpus_revision).items()
        }
        items = load_corpus(config.corpus, "items", config.corpus_revision)["train"].with_format("arrow")[:]
        catalogue = Catalogue.from_items(items, config.domain)
        rows = _rows(splits, config.split, catalogue, config.corpus, column)
        if column is None and max(config.k) > len(catalogue):
            raise InputError(f"`k` goes to {max(config.k)} and {config.domain!r} has {len(catalogue)} items; lower it")
        all_train = _table(splits, "train", config.corpus)
        if config.train_share is not None:
            from cprec_hf.training.subset import few_users

            splits["train"] = few_users(all_train, config.train_share, config.subset_seed)
        task = cls(config, facts, splits, all_train, catalogue, column, rows)
        if len(task.rows.user_ids) < 2:
            raise InputError(
                f"{config.corpus}, {config.split}: intervals over users need at least two of them, and there is one"
            )
        if any(method.kind in ORACLES for method in config.methods):
            _ = task.oracle
        if config.parts:
            _check_parts(task)
        ranked = np.arange(len(catalogue)) if column is None else task.rows.candidates
        wanted = np.union1d(ranked, task.rows.histories.values)
        for method in config.methods:
            if method.kind in EMBEDDED:
                check_embedder(method)
            if method.kind in MODELS:
                check_model(method, config, catalogue.item_ids.take(pa.array(wanted)))
        return task

    @cached_property
    def oracle(self) -> tuple[MarketplaceOracle, list[str]]:
        """The corpus' marketplace, and the user there of each user id of the rows.

        Raises:
            InputError: a user is nobody of the marketplace.
        """
        from cprec_hf.behaviors.marketplace import Marketplace, MarketplaceConfig
        from cprec_hf.behaviors.marketplace_oracle import MarketplaceOracle
        from cprec_hf.corpus.pseudonyms import pseudonymise
        from cprec_hf.recipes import from_mapping

        world = {key: value for key, value in self.facts["source"].items() if key != "kind"}
        market = Marketplace(from_mapping(world, MarketplaceConfig, f"{self.config.corpus}: source"))
        oracle = MarketplaceOracle(market, self.config.domain)
        raw = oracle.events["user_id"].unique(maintain_order=True).to_list()
        known = dict(zip(raw, raw, strict=True))
        if not set(self.rows.user_ids) <= known.keys():
            known = dict(zip(pseudonymise(raw), raw, strict=True))
            if missing := sorted(set(self.rows.user_ids) - known.keys()):
                raise InputError(
                    f"{self.config.corpus}: user {missing[0]} is nobody of its marketplace under this machine's key; "
                    "oracles need the key the corpus was built with (CPREC_USER_KEY)"
                )
        return oracle, [known[user] for user in self.rows.user_ids]

    @cached_property
    def train(self) -> sparse.csr_array:
        """Who did what before the cut, 0/1 [training users, items]."""
        return training_interactions(self.splits["train"], self.catalogue, f"{self.config.corpus}, train")

    @cached_property
    def popularity(self) -> np.ndarray:
        """How many training users had each item, `train_share` or not [items]."""
        everyone = training_interactions(self.all_train, self.catalogue, f"{self.config.corpus}, train")
        return np.asarray(everyone.sum(axis=0)).ravel()

    @cached_property
    def title_words(self) -> sparse.csr_array:
        """How often each title has each word [items, words]."""
        return title_words(self.catalogue.titles)

    @cached_property
    def groupings(self) -> list[Grouping]:
        """The groups whose figures are taken apart."""
        return groupings(self.rows, self.popularity)

    @cached_property
    def sequences(self) -> Ragged:
        """Each training user's items before the cut, every event once, oldest first [training users][any]."""
        every = self.facts.get("recipe", {}).get("train_targets") == "every"
        return training_sequences(self.splits["train"], self.catalogue, f"{self.config.corpus}, train", every=every)

    @cached_property
    def validation(self) -> Rows:
        """The rows baselines choose their settings on."""
        return _rows(self.splits, "validation", self.catalogue, self.config.corpus, self.column)


def _check_parts(task: Task) -> None:
    """Raise `InputError` if the parts' scores would take too much memory, or there are too few users to fit on."""
    splits = [task.rows, task.validation] if task.config.split != "validation" else [task.rows]
    hybrids = any(method.kind == "hybrid" for method in task.config.methods)
    if hybrids and len(task.validation.user_ids) < 2:
        raise InputError("a hybrid's weights are cross-validated over users, and validation has only one")
    # Kept once, and standardised and parted into folds while weights are fitted.
    needed = 3 * 8 * len(task.config.parts) * sum(rows.candidates.size for rows in splits)
    if needed > _MOST_KEPT:
        raise InputError(
            f"{len(task.config.parts)} `parts` would hold {needed / 2**30:.0f} GiB of scores of "
            f"{task.rows.candidates.shape[1]:,} candidates a row, and {_MOST_KEPT / 2**30:.0f} are allowed; "
            "evaluate on a frozen set of candidates"
        )


def _table(splits: dict[str, pa.Table], name: str, corpus: str) -> pa.Table:
    if name not in splits:
        raise InputError(f"{corpus}: no {name} split; it has {', '.join(splits)}")
    return splits[name]


def _rows(splits: dict[str, pa.Table], name: str, catalogue: Catalogue, corpus: str, column: str | None) -> Rows:
    return Rows.from_table(_table(splits, name, corpus), catalogue, f"{corpus}, {name}", column, name)


def _column(config: EvaluateConfig, facts: dict[str, Any]) -> str | None:
    """The column of the set that is asked for; None for the whole catalogue.

    Raises:
        InputError: the corpus has no such set, or what is asked for does not go with a whole catalogue.
    """
    sets: dict[str, str] = facts["candidates"].get("sets", {"candidates": "uniform"})
    column = next((name for name, policy in sets.items() if config.candidates in (policy, None)), None)
    if config.candidates == "all" or (not sets and config.candidates is None):
        column = None
    elif column is None:
        known = ", ".join([*sets.values(), "all"])
        raise InputError(f"`candidates` is {config.candidates}; {config.corpus} has {known}")
    if column is None:
        if facts["template"]["candidate_list_in_prompt"]:
            raise InputError(
                f"`candidates` is all, and prompts of {config.corpus} begin with a list of candidates "
                "(candidate_list_in_prompt), which a whole catalogue does not fit"
            )
        if needs := [method.name for method in config.methods if method.kind in NEED_A_SET]:
            raise InputError(f"{config.corpus} has no frozen candidates, which method {needs[0]!r} needs")
    return column
