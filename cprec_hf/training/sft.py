"""Supervised fine-tuning on one domain: full or LoRA, for a number of steps or until the ranking stops improving.

    python -m cprec_hf.training.sft --config recipes/tiny/sft.yaml
    python -m cprec_hf.training.sft --config recipes/tiny/sft.yaml --use_peft --lora_r 8

The loss is over all positions, which suits a corpus whose training rows are windows (`train_targets: window`);
`completion_only_loss: true` suits `every`. Rows are packed whole, never split.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.adapter import new_adapter
from cprec_hf.training.arguments import SftArguments, parse_stage
from cprec_hf.training.data import sft_rows
from cprec_hf.training.probe import RankingProbe
from cprec_hf.training.stage import (
    data_order,
    fix_run_length,
    item_table,
    load_start,
    make_record,
    prepare_rows,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.subset import subset_of
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.trunks import resume_point


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the fine-tuned model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: the recipe, the corpus, the model or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("sft", argv):
        arguments, training, model_arguments, given = parse_stage("sft", SftArguments, argv)
        refuse_own_input(training, model_arguments.model_name_or_path, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        domain, config = choose_domain(arguments, facts)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]
        callbacks = stop_early(arguments.early_stopping_patience, training, given)

        model, tokenizer = load_start(model_arguments)
        encoder, only = Encoder(tokenizer), bool(training.completion_only_loss)
        training.completion_only_loss = only
        data = {}
        for split in ["train"] if training.eval_strategy == "no" else ["train", "validation"]:
            share = arguments.train_share if split == "train" else None
            rows = sft_rows(
                arguments.corpus, arguments.corpus_revision, encoder, config, split,
                completion_only=only, share=share, subset_seed=arguments.subset_seed,
            )  # fmt: skip
            where = f"{arguments.corpus} {config}/{split}"
            data[split] = prepare_rows(rows, model, training, split_long=False, where=where)
        fix_run_length(training, len(data["train"]))
        phases = run_phases(training)

        probe = None
        if "validation" in data:
            revision = arguments.corpus_revision
            probe = RankingProbe(arguments.corpus, revision, domain, config, encoder, arguments.probe_users)
        base, commit = str(model_arguments.model_name_or_path), model_arguments.model_revision
        record = make_record(
            "sft", arguments, training, facts, phases,
            tokenizer=tokenizer, base=base, base_revision=commit, domain=domain,
            data=data_order(training, len(data["train"]), None, 0.0) | subset_of(arguments),
        )  # fmt: skip
        trainer = StageTrainer(
            model,
            training,
            data["train"],
            eval_rows=data.get("validation"),
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=item_table(arguments),
            probe=probe,
            resume=resume,
            peft_config=new_adapter(model_arguments, model),
            loss_head=arguments.loss_head,
            callbacks=callbacks,
        )
        return trainer.run()


def choose_domain(arguments: SftArguments, facts: dict[str, Any]) -> tuple[str, str]:
    """The domain to fine-tune on and its config.

    Raises:
        InputError: the corpus has no such domain for fine-tuning, or several and none is named.
    """
    slugs = {name: d["slug"] for name, d in facts["domains"].items() if d["role"] == "downstream"}
    domain = arguments.domain or (next(iter(slugs)) if len(slugs) == 1 else None)
    if domain is None or domain not in slugs:
        asked = "missing key `domain`" if domain is None else f"`domain` is {domain!r}"
        raise InputError(f"{asked}; {arguments.corpus} has rows to fine-tune on for {', '.join(slugs)}")
    return domain, f"sft-{slugs[domain]}"


def stop_early(patience: int | None, training: Any, given: set[str]) -> list[EarlyStoppingCallback]:
    """With a patience, evaluate and save every `eval_steps`, and keep the model that ranked best.

    The metric is `eval_ndcg@10` unless the recipe names another as `metric_for_best_model` (`eval_hr@1`, `eval_loss`).

    Raises:
        InputError: a patience without `eval_steps`, or below 1.
    """
    if patience is None:
        return []
    if patience < 1 or not training.eval_steps:
        raise InputError("`early_stopping_patience` counts evaluations: give at least 1, and `eval_steps`")
    training.eval_strategy, training.save_strategy = IntervalStrategy.STEPS, SaveStrategy.STEPS
    training.save_steps = training.eval_steps
    training.load_best_model_at_end = True
    training.restore_callback_states_from_checkpoint = bool(training.resume_from_checkpoint)
    if "metric_for_best_model" not in given:
        training.metric_for_best_model, training.greater_is_better = "eval_ndcg@10", True
    if "save_total_limit" not in given:
        training.save_total_limit = 1  # the best and the last are always kept
    return [EarlyStoppingCallback(early_stopping_patience=patience)]


if __name__ == "__main__":
    run_as_command(main)
