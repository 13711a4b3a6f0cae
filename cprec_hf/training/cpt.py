"""Continual pre-training of any causal language model on a corpus' behaviour documents, under WSA.

    python -m cprec_hf.training.cpt --config recipes/tiny/cpt.yaml
    accelerate launch --config_file recipes/accelerate/ddp.yaml -m cprec_hf.training.cpt --config recipes/tiny/cpt.yaml

By default the run is a trunk: it warms up, stays at its peak learning rate and never anneals, so that any number of
anneals (`cprec_hf.training.anneal`) can branch from its checkpoints. For one run through all three phases give
`lr_scheduler_kwargs: {anneal_ratio: 0.1}`. `use_peft: true` trains an adapter on all linear layers; with
`lora_modules_to_save: [embed_tokens]` (and `lm_head`, where the two are not tied) the embeddings are trained whole
beside it. `new_tokens` extends the vocabulary (`vocabulary.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.training.adapter import new_adapter
from cprec_hf.training.arguments import CptArguments, parse_stage
from cprec_hf.training.budget import fix_length
from cprec_hf.training.mixed_rows import order_and_draws, training_rows
from cprec_hf.training.mixture import mixture_of
from cprec_hf.training.stage import (
    item_table,
    load_start,
    make_record,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.trunks import resume_point
from cprec_hf.training.validation import pretraining_probe, validation_groups
from cprec_hf.training.vocabulary import NewTokenWarmup, extend_vocabulary, new_tokens_of


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the finished model, with the trunk's checkpoints in it.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: the recipe, the corpus, the model or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("cpt", argv):
        arguments, training, model_arguments, given = parse_stage("cpt", CptArguments, argv)
        refuse_own_input(training, model_arguments.model_name_or_path, arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]
        be_a_trunk(training)

        new_tokens = new_tokens_of(arguments, training, model_arguments)
        model, tokenizer = load_start(model_arguments)
        new_ids = extend_vocabulary(model, tokenizer, new_tokens) if new_tokens else []
        encoder = Encoder(tokenizer)
        data = training_rows(mixture_of(arguments), arguments, facts, encoder, model, training)
        held_out = validation_groups(arguments, facts, encoder, model, training)
        probe = pretraining_probe(arguments, facts, encoder, training, given)
        fix_length(training, arguments.token_budget, data, given)
        phases = run_phases(training)

        order, draws = order_and_draws(data, arguments, training, phases)
        base, commit = str(model_arguments.model_name_or_path), model_arguments.model_revision
        record = make_record(
            "cpt", arguments, training, facts, phases, tokenizer=tokenizer, base=base, base_revision=commit, data=order
        )
        if new_tokens:
            record.schedule.update(new_tokens=len(new_tokens), new_token_steps=arguments.new_token_steps)
        trainer = StageTrainer(
            model,
            training,
            data.rows,
            eval_rows=held_out,
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=item_table(arguments),
            probe=probe,
            resume=resume,
            draws=draws,
            token_budget=arguments.token_budget,
            average=arguments.average_checkpoints,
            peft_config=new_adapter(model_arguments, model),
            callbacks=[NewTokenWarmup(new_ids, arguments.new_token_steps)] if arguments.new_token_steps else [],
            loss_head=arguments.loss_head,
        )
        return trainer.run()


def be_a_trunk(training: Any) -> None:
    """Under WSA, leave the anneal out unless the recipe gives its length."""
    options = dict(training.lr_scheduler_kwargs or {})
    if training.lr_scheduler_type == "wsa" and not {"anneal_ratio", "num_anneal_steps"} & options.keys():
        training.lr_scheduler_kwargs = {**options, "anneal_ratio": 0.0}


if __name__ == "__main__":
    run_as_command(main)
