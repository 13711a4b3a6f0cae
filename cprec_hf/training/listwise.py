"""List-wise fine-tuning on one domain: at every position of a history, the item that came against K that did not.

    python -m cprec_hf.training.listwise --config recipes/tiny/listwise.yaml
    accelerate launch --config_file recipes/accelerate/ddp.yaml -m cprec_hf.training.listwise --config RECIPE

Ours, not the paper's (which names preference learning as future work). Likelihood spends a model's capacity on how
titles are spelled; to recommend, the item that comes must be likelier than the others. A history is read once, as a
trunk, and at each of its items K siblings branch off what stands before it, so that one forward pass gives the
log-likelihood of every target and of all its negatives (`ranking/layout.py`). `listwise_loss.py` has the loss,
`listwise_negatives.py` says what siblings are.

`log.jsonl` has, under `listwise/`: the rank loss, the LM loss (nats a token), nats per item (of the targets; beside it
the log of the number of titles, which knowing nothing but the titles would cost) and the share of lists whose target is
ahead of all its siblings; at evaluations hr@1 and ndcg@10 of the probe.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.few_shot import RANK
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.ranking.branch_attention import BRANCHES
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.layout import Form, choose_form, read_apart
from cprec_hf.ranking.reader import choose_method
from cprec_hf.training.adapter import new_adapter
from cprec_hf.training.arguments import ListwiseArguments, parse_stage
from cprec_hf.training.data import check_model, corpus_table
from cprec_hf.training.listwise_batches import ListwiseBatches
from cprec_hf.training.listwise_negatives import Siblings
from cprec_hf.training.listwise_rows import COLUMNS, Trunks, item_events, refuse_empty_titles, trunks_of
from cprec_hf.training.listwise_trainer import ListwiseTrainer
from cprec_hf.training.partitioned import weights_are_partial
from cprec_hf.training.probe import RankingProbe
from cprec_hf.training.sft import choose_domain, stop_early
from cprec_hf.training.stage import (
    data_order,
    fix_run_length,
    item_table,
    load_start,
    make_record,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.subset import few_users, subset_of
from cprec_hf.training.trunks import resume_point


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: the recipe, the corpus, the model or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("listwise", argv):
        arguments, training, model_arguments, given = parse_stage("listwise", ListwiseArguments, argv)
        _check(arguments)
        refuse_own_input(training, model_arguments.model_name_or_path, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        domain, config = choose_domain(arguments, facts)
        sizes = facts["template"]
        if sizes["candidate_list_in_prompt"]:
            raise InputError(
                f"the prompts of {arguments.corpus} list the candidates of one target, and a history is laid out once "
                "for all its targets; build the corpus without `candidate_list_in_prompt`, or use `preference`"
            )
        training.packing = False
        if "max_length" not in given:
            training.max_length = sizes["window_tokens"]
        callbacks = stop_early(arguments.early_stopping_patience, training, given)

        model, tokenizer = load_start(model_arguments)
        encoder, items = Encoder(tokenizer), item_table(arguments)
        refuse_empty_titles(items, domain)
        catalogue = Catalogue(items, domain, encoder, load_template(sizes["version"]))
        tables = {}
        for split in ["train"] if training.eval_strategy == "no" else ["train", "validation"]:
            tables[split] = corpus_table(arguments.corpus, arguments.corpus_revision, config, split, COLUMNS, [RANK])
        tables["train"] = few_users(tables["train"], arguments.train_share, arguments.subset_seed)
        every = facts.get("recipe", {}).get("train_targets", "window") == "every"
        siblings = Siblings(
            catalogue, arguments.negatives, arguments.negative_source,
            item_events(tables["train"], catalogue, every=every), _categories(arguments, domain),
        )  # fmt: skip
        trunks = {
            split: trunks_of(
                table, catalogue, f"{facts['name']}/{training.seed}/{domain}/{split}",
                length=int(training.max_length), positions=arguments.positions if split == "train" else "last",
                min_history=arguments.min_history, negatives=arguments.negatives, every=every and split == "train",
            )
            for split, table in tables.items()
        }  # fmt: skip
        _say_skipped(trunks["train"], arguments)
        read = pa.concat_arrays([trunks["train"].ids.take(np.array([0])).to_arrow(), catalogue.codes.to_arrow()])
        check_model(model, datasets.Dataset(pa.table({"input_ids": read})), int(training.max_length))
        longest = int(catalogue.codes.lengths.max()) * arguments.negatives
        form = set_attention(model, model_arguments.attn_implementation, training, [*trunks.values()], longest)
        fix_run_length(training, len(trunks["train"]))
        phases = run_phases(training)

        probe = None
        if "validation" in trunks:
            revision = arguments.corpus_revision
            probe = RankingProbe(arguments.corpus, revision, domain, config, encoder, arguments.probe_users)
        base, commit = str(model_arguments.model_name_or_path), model_arguments.model_revision
        record = make_record(
            "listwise", arguments, training, facts, phases,
            tokenizer=tokenizer, base=base, base_revision=commit, domain=domain,
            data=data_order(training, len(trunks["train"]), None, 0.0) | _loss_of(arguments) | subset_of(arguments),
        )  # fmt: skip
        batches = {split: ListwiseBatches(found, catalogue, siblings, form) for split, found in trunks.items()}
        trainer = ListwiseTrainer(
            model,
            training,
            batches["train"],
            arguments,
            eval_batches=batches.get("validation"),
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=items,
            probe=probe,
            resume=resume,
            peft_config=new_adapter(model_arguments, model),
            callbacks=callbacks,
        )
        return trainer.run()


def set_attention(model: Any, asked: str | None, training: Any, trunks: Sequence[Trunks], siblings: int) -> Form:
    """Choose how branches are kept apart, and set the model's attention so; see `ranking.layout`.

    On a CPU, `cprec_branches` is taken where the model can do it and the recipe does not ask for another. On a GPU it
    has not been measured, so there it must be asked for.

    Args:
        model: as it was loaded; put on the run's device.
        asked: the recipe's `attn_implementation`.
        training: the run.
        trunks: what will be read.
        siblings: most tokens that branch off at one place.

    Raises:
        InputError: the model cannot read branches as it reads each sequence alone.
    """
    width = max(found.largest_tree(siblings) for found in trunks)
    depth = min(int(training.max_length), max(int(found.ids.lengths.max()) for found in trunks))
    partial = weights_are_partial(training)
    if not partial:
        model.to(training.device)
    if asked is None and training.device.type == "cpu" and not partial:
        before = model.config._attn_implementation
        try:
            model.set_attn_implementation(BRANCHES)
            if read_apart(model, form := choose_form(model, depth), depth, width):
                return form
        except Exception:  # an architecture that takes no attention from outside
            pass
        model.set_attn_implementation(before)
    used, form = model.config._attn_implementation, choose_form(model, depth)
    if used not in ("sdpa", "eager", BRANCHES):
        raise InputError(
            f"`attn_implementation: {used}` takes no mask as it is, so branches of a history would see one another; "
            f"use `sdpa`, `eager` or `{BRANCHES}`"
        )
    # Weights in parts cannot be tried; the rule by which ranking trusts a mask must do.
    if not (choose_method(model, depth) == "mask" if partial else read_apart(model, form, depth, width)):
        raise InputError(
            f"{type(model).__name__} with `attn_implementation: {used}` does not read branches of a history as it "
            f"reads each alone ({depth} tokens deep, {width} side by side): recurrent layers, position biases or "
            "tables, or attention with rules of its own. Try `attn_implementation: eager`; else use `preference`, "
            "which reads one sequence a row"
        )
    return form


def _check(arguments: ListwiseArguments) -> None:
    if arguments.beta <= 0:
        raise InputError(f"`beta` is {arguments.beta}; give more than 0")
    if arguments.lm_weight < 0:
        raise InputError(f"`lm_weight` is {arguments.lm_weight}; give 0 or more")


def _categories(arguments: ListwiseArguments, domain: str) -> pa.Array | None:
    """Of the domain's items, in the order of the corpus; None where they have none, or are not asked for."""
    if arguments.negative_source != "category":
        return None
    items = corpus_table(arguments.corpus, arguments.corpus_revision, "items", "train", ["domain"], ["category"])
    if "category" not in items.column_names:
        return None
    return items.filter(pc.equal(items["domain"], domain))["category"].combine_chunks()


def _loss_of(arguments: ListwiseArguments) -> dict[str, Any]:
    """What the record says of the loss, and a resumed run must have alike."""
    names = (
        "negatives", "negative_source", "positions", "min_history", "lm_weight", "reference", "beta",
        "length_normalise",
    )  # fmt: skip
    return {name: getattr(arguments, name) for name in names}


def _say_skipped(trunks: Trunks, arguments: ListwiseArguments) -> None:
    n_lists = len(trunks.target)
    said = [f"skipped {n:,} {what}" for what, n in trunks.skipped.items() if n]
    print(
        f"listwise  {len(trunks):,} histories, {n_lists:,} targets with {arguments.negatives} siblings each "
        f"({arguments.negative_source}){''.join('; ' + words for words in said)}",
        flush=True,
    )


if __name__ == "__main__":
    run_as_command(main)
