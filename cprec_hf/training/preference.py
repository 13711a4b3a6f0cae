"""Preference learning on one domain: DPO with one negative, the softmax DPO (S-DPO) with many.

    python -m cprec_hf.training.preference --config recipes/tiny/preference.yaml

The paper names it as future work; every choice here is ours. It begins from a fine-tuned model, which is the reference
too (with `use_peft: true` it is the base below the adapter). Each training row's target is preferred to `negatives`
items: see `negatives.py` for where they come from. `log.jsonl` has the margin between the rewards of the target and the
mean negative, and the share of rows whose target is ahead of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import trl

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.few_shot import RANK
from cprec_hf.corpus.template import load_template
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.training.adapter import new_adapter
from cprec_hf.training.arguments import PreferenceArguments, parse_stage
from cprec_hf.training.data import check_model, corpus_table
from cprec_hf.training.negatives import COLUMNS, negatives_of
from cprec_hf.training.preference_rows import preference_rows
from cprec_hf.training.preference_trainer import PreferenceTrainer
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
    with quiet_and_resumable("preference", argv):
        arguments, training, model_arguments, given = parse_stage(
            "preference", PreferenceArguments, argv, trl.DPOConfig
        )
        refuse_own_input(training, model_arguments.model_name_or_path, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        domain, config = choose_domain(arguments, facts)
        sizes = facts["template"]
        if "max_length" not in given:
            training.max_length = sizes["window_tokens"]
        callbacks = stop_early(arguments.early_stopping_patience, training, given)

        model, tokenizer = load_start(model_arguments)
        encoder, items = Encoder(tokenizer), item_table(arguments)
        catalogue = Catalogue(items, domain, encoder, load_template(sizes["version"]))
        data = {}
        for split in ["train"] if training.eval_strategy == "no" else ["train", "validation"]:
            table = corpus_table(arguments.corpus, arguments.corpus_revision, config, split, COLUMNS, [RANK])
            key = f"{facts['name']}/{training.seed}/{domain}"
            if split == "train":
                table = few_users(table, arguments.train_share, arguments.subset_seed)
            negatives = negatives_of(table, catalogue, arguments.negatives, key)
            data[split] = preference_rows(table, catalogue, negatives, sizes, int(training.max_length))
            check_model(model, data[split], int(training.max_length), "chosen_ids")
        fix_run_length(training, len(data["train"]))
        phases = run_phases(training)

        probe = None
        if "validation" in data:
            revision = arguments.corpus_revision
            probe = RankingProbe(arguments.corpus, revision, domain, config, encoder, arguments.probe_users)
        base, commit = str(model_arguments.model_name_or_path), model_arguments.model_revision
        about = data_order(training, len(data["train"]), None, 0.0)
        about |= {"negatives": arguments.negatives, "beta": training.beta}
        about |= subset_of(arguments)
        record = make_record(
            "preference", arguments, training, facts, phases,
            tokenizer=tokenizer, base=base, base_revision=commit, domain=domain, data=about,
        )  # fmt: skip
        trainer = PreferenceTrainer(
            model,
            training,
            data["train"],
            eval_rows=data.get("validation"),
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


if __name__ == "__main__":
    run_as_command(main)
