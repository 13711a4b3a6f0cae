"""What is measured between steps on held-out rows: their loss, exactly, and a ranking probe of pre-training.

The Trainer's own evaluation loss is a mean of batches' means, in which a short batch weighs as much as a long one. Here
it is the mean over all predicted tokens, in total and domain by domain: documents are packed among their own, so each
batch is of one domain. Nothing is drawn at random, so a run is the same with and without evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from cprec_hf.corpus.controls import CONTROLS
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.arguments import MixtureArguments
from cprec_hf.training.data import corpus_table, cpt_rows
from cprec_hf.training.kernels import IGNORED
from cprec_hf.training.probe import RankingProbe
from cprec_hf.training.stage import prepare_rows


class ValidatingTrainer(Trainer):
    """The part of a stage's trainer that measures the loss of validation rows, to be mixed in before TRL's.

    Attributes:
        groups: name -> validation rows, prepared as the training rows are.
    """

    groups: Mapping[str, datasets.Dataset]
    model: Any
    data_collator: Any

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The mean loss, in nats a predicted token: `eval_loss`, and of several groups `eval_loss_NAME` of each."""
        model: Any = self._wrap_model(self.model, training=False)
        model.eval()
        size, ranks, rank = self.args.eval_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        totals = torch.zeros(len(self.groups), 2, dtype=torch.float64, device=self.args.device)  # nats, tokens
        rows_in_all = sum(map(len, self.groups.values()))
        off = None if self.is_world_process_zero() else True
        bar = tqdm(desc="validation", total=rows_in_all, unit="row", delay=2, leave=False, disable=off)
        with bar, torch.no_grad():
            for group, rows in enumerate(self.groups.values()):
                for first in range(0, len(rows), size * ranks):
                    mine = range(first + rank * size, min(first + (rank + 1) * size, len(rows)))
                    # Each process takes part in each step, as FSDP needs, if only to be counted as nothing.
                    inputs = self._prepare_inputs(self.data_collator(rows.__getitems__([*mine] or [0])))
                    with self.compute_loss_context_manager():
                        mean: Any = self.compute_loss(model, inputs)
                    tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
                    if mine and tokens:
                        totals[group] += torch.stack([mean.double() * tokens, tokens])
                    bar.update(min(size * ranks, len(rows) - first))
        sums = self.accelerator.reduce(totals, "sum").cpu()
        metrics = {f"{metric_key_prefix}_loss": (sums[:, 0].sum() / sums[:, 1].sum()).item()}
        if len(self.groups) > 1:
            means = (sums[:, 0] / sums[:, 1]).tolist()
            metrics |= {f"{metric_key_prefix}_loss_{name}": m for name, m in zip(self.groups, means, strict=True)}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows_in_all)  # type: ignore[arg-type]


def validation_groups(
    arguments: MixtureArguments, facts: Mapping[str, Any], encoder: Encoder, model: Any, training: Any
) -> dict[str, datasets.Dataset] | None:
    """The validation documents of pre-training, those of each domain on their own; None if the run never evaluates.

    Args:
        arguments: name the corpus and the kinds of document.
        facts: of the corpus.
        encoder: the model's.
        model: that will read them.
        training: the run's arguments.

    Returns:
        A domain's slug, or for documents of all domains their kind, -> its rows, packed if the run packs; sorted.

    Raises:
        InputError: as `prepare_rows`.
    """
    if training.eval_strategy == "no":
        return None
    corpus, revision, kinds = arguments.corpus, arguments.corpus_revision, arguments.kinds
    if kinds is not None:  # a control is measured on what it is a control of: what people did
        kinds = sorted({CONTROLS.get(kind, kind) for kind in kinds})
    rows = cpt_rows(corpus, revision, encoder, kinds, "validation")
    table = corpus_table(corpus, revision, "cpt", "validation", ["kind", "domain"])
    if kinds is not None:
        table = table.filter(pc.is_in(table["kind"], pa.array(kinds, pa.string())))
    domains, slugs = [*facts["domains"]], pa.array([d["slug"] for d in facts["domains"].values()], pa.string())
    of_domain = slugs.take(pc.index_in(table["domain"].combine_chunks().cast(pa.string()), pa.array(domains)))
    names = pc.coalesce(of_domain, table["kind"].combine_chunks().cast(pa.string()))
    groups = {}
    for name in sorted(pc.unique(names).to_pylist()):
        (which,) = pc.equal(names, name).to_numpy(zero_copy_only=False).nonzero()
        where = f"{corpus} cpt/validation, {name}"
        groups[name] = prepare_rows(rows.select(which), model, training, split_long=True, where=where)
    return groups


def pretraining_probe(
    arguments: MixtureArguments, facts: Mapping[str, Any], encoder: Encoder, training: Any, given: set[str]
) -> RankingProbe | None:
    """How well a model in pre-training ranks a downstream domain's validation rows; None if no `probe_domain` is given.

    Args:
        arguments: with `probe_domain` and `probe_users`.
        facts: of the corpus.
        encoder: the model's.
        training: the run's arguments.
        given: the keys that the recipe or a flag gave.

    Raises:
        InputError: a domain that is not downstream, or keys that would do nothing.
    """
    domain = arguments.probe_domain
    if domain is None:
        if "probe_users" in given:
            raise InputError("`probe_users` has no place without `probe_domain`, the domain to rank in")
        return None
    if training.eval_strategy == "no":
        raise InputError("`probe_domain` is ranked at each evaluation: give `eval_strategy: steps` and `eval_steps`")
    slugs = {name: d["slug"] for name, d in facts["domains"].items() if d["role"] == "downstream"}
    if domain not in slugs:
        raise InputError(f"`probe_domain` is {domain!r}; {arguments.corpus} has candidates in {', '.join(slugs)}")
    config, users = f"sft-{slugs[domain]}", arguments.probe_users
    return RankingProbe(arguments.corpus, arguments.corpus_revision, domain, config, encoder, users)
