"""Branch an anneal from a trunk: the learning rate falls over its own steps, on its own mixture.

    python -m cprec_hf.training.anneal --config recipes/tiny/anneal.yaml

`init_from` is a trunk's folder (its newest complete checkpoint is taken) or one `checkpoint-N`. Weights, optimizer and
peak learning rate are the trunk's, so steps count on from it: N trunk steps + `anneal_steps`. The shape is given by
`lr_scheduler_kwargs: {anneal_shape: ..., min_lr_ratio: ...}`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training.arguments import AnnealArguments, parse_stage
from cprec_hf.training.checkpoints import find_checkpoint, resume_point
from cprec_hf.training.data import cpt_rows, item_rows, mix_in
from cprec_hf.training.stage import (
    data_order,
    item_table,
    make_record,
    prepare_rows,
    quiet_and_resumable,
    read_facts,
    run_as_command,
    run_phases,
)
from cprec_hf.training.trainer import StageTrainer

_TRUNKS = {  # keys that a trunk has decided, and where it is said instead
    "max_steps": "give `anneal_steps`",
    "num_train_epochs": "give `anneal_steps`",
    "warmup_steps": "an anneal has no warmup of its own",
    "model_name_or_path": "give the trunk as `init_from`",
    "use_peft": "an adapter goes on as an adapter",
    "learning_rate": "the peak is the trunk's",
    "lr_scheduler_type": "an anneal is WSA's last phase",
}


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the annealed model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: something in the recipe is wrong, or the trunk is not in its stable phase; before training starts.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("anneal", argv):
        arguments, training, _, given = parse_stage(AnnealArguments, argv)
        for key in _TRUNKS.keys() & given:
            raise InputError(f"`{key}` has no place in an anneal: {_TRUNKS[key]}")
        trunk = find_checkpoint(arguments.init_from, "init_from")
        if Path(training.output_dir).resolve() in (trunk.parent.resolve(), trunk.resolve()):
            raise InputError(f"`output_dir` {training.output_dir} is the trunk's own folder; choose another")
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]
        trunk_record = ModelRecord.load(trunk)
        trunk_step = follow_trunk(training, trunk, trunk_record.schedule, arguments.anneal_steps)
        phases = run_phases(training)

        tokenizer = AutoTokenizer.from_pretrained(trunk)
        model = load_trunk(trunk)
        encoder, revision = Encoder(tokenizer), arguments.corpus_revision
        rows = cpt_rows(arguments.corpus, revision, encoder, arguments.kinds)
        rows = mix_in(rows, item_rows(arguments.corpus, revision, encoder), arguments.item_share, training.seed)
        rows = prepare_rows(rows, model, training, split_long=True, where=f"{arguments.corpus} cpt/train")
        order = data_order(training, len(rows), arguments.kinds, arguments.item_share)
        ours, trunks = (order, facts["content_sha256"]), (trunk_record.schedule.get("data"), trunk_record.corpus_hash)
        if arguments.continue_data and ours != trunks:
            raise InputError(
                f"`continue_data`: the trunk read {trunks[0]} of corpus {trunks[1][:12]}, and this recipe {ours[0]} "
                f"of corpus {ours[1][:12]}; make them equal, or leave the key out to read the data from its beginning"
            )

        base = str(trunk)
        record = make_record("anneal", arguments, training, facts, phases, tokenizer=tokenizer, base=base, data=order)
        trainer = StageTrainer(
            model,
            training,
            rows,
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=item_table(arguments),
            start=0 if arguments.continue_data else trunk_step,
        )
        return trainer.run(resume or trunk)


def follow_trunk(training: Any, trunk: Path, schedule: dict[str, Any], anneal_steps: int) -> int:
    """Set the run's schedule to the trunk's with an anneal behind it; returns the trunk's step.

    Raises:
        InputError: the trunk was not trained under WSA, or is not in its stable phase, or `anneal_steps` is below 1.
    """
    if schedule.get("type") != "wsa":
        raise InputError(f"{trunk} was trained under `{schedule.get('type')}`; an anneal branches from a WSA trunk")
    step, warmup, stable = schedule["step"], schedule["warmup_steps"], schedule["stable_steps"]
    if not warmup <= step <= warmup + stable:
        raise InputError(
            f"{trunk} is at step {step}, outside its stable phase (steps {warmup} to {warmup + stable}); choose a "
            "checkpoint from it, or train a trunk with `anneal_ratio: 0`"
        )
    if anneal_steps < 1:
        raise InputError(f"`anneal_steps` is {anneal_steps}; give at least 1")
    shape = dict(training.lr_scheduler_kwargs or {})
    for key in {"num_anneal_steps", "anneal_ratio"} & shape.keys():
        raise InputError(f"`lr_scheduler_kwargs`: `{key}` has no place in an anneal: give `anneal_steps`")
    training.max_steps = step + anneal_steps
    training.warmup_steps, training.learning_rate = warmup, schedule["learning_rate"]
    training.lr_scheduler_kwargs = {**shape, "num_anneal_steps": anneal_steps}
    return step


def load_trunk(trunk: Path) -> Any:
    """The trunk's model as it was trained: a whole model, or an adapter on its base."""
    if (trunk / "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(trunk, is_trainable=True)
    return AutoModelForCausalLM.from_pretrained(trunk)


if __name__ == "__main__":
    run_as_command(main)
