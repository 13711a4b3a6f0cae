"""Branch an anneal from a trunk: the learning rate falls over its own steps, on its own mixture.

    python -m cprec_hf.training.anneal --config recipes/tiny/anneal.yaml
    python -m cprec_hf.training.anneal --config my/anneal.yaml --from me/my-shop-cpt@trunk-step-450

`init_from` (the flag `--from` is short for it) is a trunk's folder (its newest complete checkpoint is taken), one
`checkpoint-N`, or a revision of a Hub repo, `repo@trunk-step-N`. Weights, optimizer and
peak learning rate are the trunk's, so steps count on from it: N trunk steps + `anneal_steps`. The shape is given by
`lr_scheduler_kwargs: {anneal_shape: ..., min_lr_ratio: ...}`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cprec_hf.command import run_as_command
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.tokenizer import load_tokenizer
from cprec_hf.errors import InputError
from cprec_hf.ranking.loading import load_model
from cprec_hf.training.arguments import AnnealArguments, parse_stage
from cprec_hf.training.mixed_rows import order_and_draws, training_rows
from cprec_hf.training.mixture import before_anneal, follow_mixture, mixture_of
from cprec_hf.training.stage import (
    item_table,
    make_record,
    quiet_and_resumable,
    read_facts,
    refuse_own_input,
    run_phases,
)
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.trunks import find_start, resume_point
from cprec_hf.training.validation import pretraining_probe, validation_groups


def main(argv: Sequence[str] | None = None) -> Path:
    """Run the stage; returns the folder of the annealed model.

    Args:
        argv: `--config RECIPE` and flags; the process's own if None.

    Raises:
        InputError: something in the recipe is wrong, or the trunk is not in its stable phase; before training starts.
    """
    argv = spell_out(sys.argv[1:] if argv is None else argv)
    with quiet_and_resumable("anneal", argv):
        arguments, training, model_arguments, given = parse_stage("anneal", AnnealArguments, argv)
        start = find_start(arguments.init_from, "init_from")
        trunk = start.folder
        refuse_own_input(training, str(trunk), arguments.corpus)
        resume = resume_point(training.resume_from_checkpoint, training.output_dir, overwrite=arguments.overwrite)
        facts = read_facts(arguments)
        if "max_length" not in given:
            training.max_length = facts["template"]["window_tokens"]
        trunk_record = ModelRecord.load(trunk)
        trunk_step = follow_trunk(training, trunk, trunk_record.schedule, arguments.anneal_steps)
        phases = run_phases(training)

        attention = model_arguments.attn_implementation  # no weight depends on it, and no model file records it
        tokenizer, model = load_tokenizer(trunk), load_model(trunk, trainable=True, attn_implementation=attention)
        encoder = Encoder(tokenizer)
        mix = mixture_of(arguments, stage="anneal")
        if arguments.continue_data:
            mix = follow_mixture(mix, trunk_record.schedule.get("data") or {})
        data = training_rows(mix, arguments, facts, encoder, model, training)
        held_out = validation_groups(arguments, facts, encoder, model, training)
        probe = pretraining_probe(arguments, facts, encoder, training, given)
        order, draws = order_and_draws(data, arguments, training, phases)
        if arguments.continue_data:
            check_order(trunk_record, order, facts["content_sha256"])

        record = make_record(
            "anneal", arguments, training, facts, phases,
            tokenizer=tokenizer, base=start.source, base_revision=start.commit, data=order,
        )  # fmt: skip
        record = dataclasses.replace(record, base=start.name)
        trainer = StageTrainer(
            model,
            training,
            data.rows,
            eval_rows=held_out,
            tokenizer=tokenizer,
            record=record,
            phases=phases,
            items=item_table(arguments),
            start=trunk_step,
            continues=arguments.continue_data,
            probe=probe,
            resume=resume or trunk,
            draws=draws,
            average=arguments.average_checkpoints,
            loss_head=arguments.loss_head,
        )
        return trainer.run()


def spell_out(argv: Sequence[str]) -> list[str]:
    """A command line with `--from` as the key that it is short for."""
    return [re.sub("^--from(?==|$)", "--init_from", word) for word in argv]


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


def check_order(trunk: ModelRecord, order: dict[str, Any], corpus_hash: str) -> None:
    """Refuse to go on in the trunk's data where the recipe's rows or their order are others.

    Raises:
        InputError: with what differs.
    """
    data = {"corpus": trunk.corpus_hash, **before_anneal(trunk.schedule.get("data") or {})}
    ours = {"corpus": corpus_hash, **before_anneal(order)}
    differ = [key for key in data if data[key] != ours.get(key)]  # an older release recorded fewer keys
    if differ or len(data) == 1:
        said = "; ".join(f"{key} was {data[key]!r} and is {ours.get(key)!r}" for key in differ) or "it recorded none"
        raise InputError(
            f"`continue_data`: this is not the trunk's data: {said}; make them equal, or leave the key out to read the "
            "data from its beginning"
        )


if __name__ == "__main__":
    run_as_command(main)
