"""SIGKILL a run wherever it is, start the same command again, and nobody can tell: weights, log and data are the same.

CPREC_KILLS=20 kills each kind of model that often, and at any touch of the run's folder; `make e2e` does.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from training import victim
from training.runs import half_written, untimed, weights

KILLS = int(os.environ.get("CPREC_KILLS", "3"))
RUN = {
    "max_steps": 8, "save_steps": 2, "save_total_limit": 2, "gradient_accumulation_steps": 2, "logging_steps": 3,
    "mixture": {"stable": {"domain": 1, "all_domain": 2}, "anneal": {"all_domain": 1, "items": 1}}, "warmup_steps": 1,
    "lr_scheduler_kwargs": {"num_anneal_steps": 3}, "average_checkpoints": 2, "resume_from_checkpoint": "true",
}  # fmt: skip


@pytest.fixture(scope="module")
def start():
    """`start(...)`: `victim.run` in a process forked from one that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cprec_hf.training.cpt"])

    def start(*args):
        process = context.Process(target=victim.run, args=args)
        process.start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1])  # the new process imports `victim` too
        yield start


@pytest.fixture(scope="module", params=["without dropout", "with dropout"])
def whole(request, start, flags_in, base_model, byte_level_tokenizer, tmp_path_factory):
    """The undisturbed run: its folder, the command line for another name, what it read, its file events by place."""
    folder = tmp_path_factory.mktemp("kills")
    model = AutoModelForCausalLM.from_pretrained(base_model)
    model.config.attention_dropout = 0.2 if request.param == "with dropout" else 0.0
    model.save_pretrained(folder / "model")
    byte_level_tokenizer.save_pretrained(folder / "model")

    def command(name):
        return flags_in(folder, name, **RUN, model_name_or_path=folder / "model")

    out = folder / "whole"
    process = start(command("whole"), str(out), folder / "said.txt", folder / "seen", None)
    process.join()
    assert process.exitcode == 0, (folder / "said.txt").read_text()
    return out, command, read(folder / "seen"), json.loads((folder / "seen" / "places.json").read_text())


def read(seen):
    """What a process trained on: the step and a hash of each batch."""
    path = seen / "steps.jsonl"
    lines = path.read_text().splitlines(True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def test_killed_and_started_again(whole, start):
    out, _, expected, places = whole
    assert len(expected) == RUN["max_steps"] * 2
    assert places["save"] > 20 and places["final"] > 20 and places["elsewhere"] > 10
    rng, kills, rounds = random.Random(0), 0, 0
    while kills < KILLS:
        rounds += 1
        kinds = ["save", "moment"] if rounds == 1 else rng.choices(["save", "moment", "elsewhere"], k=2)
        kills += one_round(out.parent / f"round-{rounds}", [*kinds, "final"], rng, *whole, start)
        assert rounds < 10 * KILLS


def one_round(folder, kinds, rng, whole, command, expected, places, start):
    """A run that is killed once in each way, until it is done; returns how often it was."""
    folder.mkdir()
    out, said, kills, read_so_far = folder / "out", folder / "said.txt", 0, []
    argv = command(f"{folder.name}/out")
    for attempt in range(len(kinds) + 1):
        kind = kinds[attempt] if attempt < len(kinds) else None
        seen = folder / f"seen-{attempt}"
        die = (kind, rng.randint(1, places[kind])) if kind in places else None
        process = start(argv, str(out), said, seen, die)
        if kind == "moment":
            while process.is_alive() and not read(seen):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
        # The batches that each attempt read follow one another, from a step whose predecessors were saved.
        batches = read(seen)
        if batches:
            first = expected.index(batches[0])
            assert first <= len(read_so_far)
            read_so_far = read_so_far[:first] + batches
            assert read_so_far == expected[: len(read_so_far)]
        if process.exitcode == 0:
            break
        kills += 1
    assert process.exitcode == 0
    assert read_so_far == expected
    assert weights(out) == weights(whole)
    assert untimed(out) == untimed(whole)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    assert half_written(out) == []
    for checkpoint in whole.glob("checkpoint-*"):
        assert weights(out / checkpoint.name) == weights(checkpoint)
    return kills
