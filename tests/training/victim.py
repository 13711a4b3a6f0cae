"""A run in a process of its own, to be killed: by whoever started it, or by itself at a certain touch of its folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

# What Python tells of files before it acts; what torch and safetensors write lies between two of these.
_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


def place(event: str, args: tuple[Any, ...], out: str) -> str | None:
    """Where in a run's folder a file event is: `save`, `final` or `elsewhere`; None outside of it."""
    paths = [os.fspath(a) for a in args if isinstance(a, (str, os.PathLike))] if event in _EVENTS else []
    if not any(path.startswith(out) for path in paths):
        return None
    names = {"/.saving.tmp": "save", "/.final.tmp": "final"}
    return next((place for name, place in names.items() if any(name in path for path in paths)), "elsewhere")


def run(argv: list[str], out: str, said: Path, seen: Path, die: tuple[str, int] | None) -> None:
    """Run `cpt` with `argv`.

    Args:
        argv: its command line.
        out: its output folder.
        said: the file that what it prints goes to.
        seen: the folder for what it did: `steps.jsonl` (step and hash of each batch), `places.json` (events by place).
        die: the place and the how-manyth event there before which the process kills itself.
    """
    descriptor = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # others leave the locks of a killed process on the machine
    from cprec_hf.training import cpt
    from cprec_hf.training.trainer import StageTrainer

    events: Counter[str | None] = Counter()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        events[where := place(event, args, out)] += 1
        if die is not None and where == die[0] and events[where] == die[1]:
            os.kill(os.getpid(), signal.SIGKILL)

    train = StageTrainer.training_step

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        digest = sha256(inputs["input_ids"].numpy().tobytes()).hexdigest()
        with (seen / "steps.jsonl").open("a") as file:
            file.write(json.dumps([self.state.global_step, digest]) + "\n")
        return train(self, model, inputs, *args, **kwargs)

    StageTrainer.training_step = training_step  # type: ignore[method-assign]
    seen.mkdir()
    sys.addaudithook(hook)
    cpt.main(argv)
    del events[None]
    (seen / "places.json").write_text(json.dumps(events))
