"""Continual pre-training of any causal language model on a corpus' behaviour documents, under WSA.

    python -m cprec_hf.training.cpt --config recipes/tiny/cpt.yaml
    accelerate launch --config_file recipes/accelerate/ddp.yaml -m cprec_hf.training.cpt --config recipes/tiny/cpt.yaml

By default the run is a trunk: it warms up, stays at its peak learning rate and never anneals, so that any number of
anneals (`cprec_hf.training.anneal`) can branch from its checkpoints. For one run through all three phases give
`lr_scheduler_kwargs: {anneal_ratio: 0.1}`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import trl

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.training.arguments import CptArguments, parse_stage
from cprec_hf.training.checkpoints import resume_point
from cprec_hf.training.data import cpt_rows, item_rows, mix_in
from cprec_hf.training.stage import (
    data_order,
    fix_run_length,
    item_table,
    load_model,
    make_record,
    prepare_rows,
    quiet_and_resumable,
    read_facts,
    run_as_command,
    run_phases,
)
from cprec_hf.training.trainer import StageTrainer


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the finished model, with the trunk's checkpoints in it.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: the recipe, the corpus, the model or the output folder is wrong; said before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("cpt", argv):
        arguments, training, model_arguments, given = parse_stage(CptArguments, argv)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]
        if training.lr_scheduler_type == "wsa":
            training.lr_scheduler_kwargs = {"anneal_ratio": 0.0, **(training.lr_scheduler_kwargs or {})}

        model, tokenizer = load_model(model_arguments)
        encoder = Encoder(tokenizer)
        data = {}
        for split in ["train"] if training.eval_strategy == "no" else ["train", "validation"]:
            rows = cpt_rows(arguments.corpus, arguments.corpus_revision, encoder, arguments.kinds, split)
            if split == "train":
                items = item_rows(arguments.corpus, arguments.corpus_revision, encoder)
                rows = mix_in(rows, items, arguments.item_share, training.seed)
            where = f"{arguments.corpus} cpt/{split}"
            data[split] = prepare_rows(rows, model, training, split_long=True, where=where)
        fix_run_length(training, len(data["train"]))
        phases = run_phases(training)

        order = data_order(training, len(data["train"]), arguments.kinds, arguments.item_share)
        base = str(model_arguments.model_name_or_path)
        trainer = StageTrainer(
            model,
            training,
            data["train"],
            eval_rows=data.get("validation"),
            tokenizer=tokenizer,
            record=make_record("cpt", arguments, training, facts, phases, tokenizer=tokenizer, base=base, data=order),
            phases=phases,
            items=item_table(arguments),
            peft_config=trl.get_peft_config(model_arguments),
        )
        return trainer.run(resume)


if __name__ == "__main__":
    run_as_command(main)
