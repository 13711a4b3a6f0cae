"""The whole way in minutes: `recipes/tiny/` through the same verbs that run every other recipe.

cprec demo        # writes outputs/tiny/ in the current folder
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cprec_hf.errors import InputError

OUTPUT = Path("outputs/tiny")
STEPS = (
    ("Logs of a simulated marketplace become an audited corpus", "corpus build recipes/tiny/corpus.yaml"),
    ("A base LM learns the words: item descriptions, no behaviour", "train base --config recipes/tiny/base.yaml"),
    ("Continual pre-training on five domains: a WSA trunk", "train cpt --config recipes/tiny/cpt.yaml"),
    ("An anneal branches from the trunk", "anneal --config recipes/tiny/anneal.yaml"),
    ("Fine-tuning on the unseen domain", "train sft --config recipes/tiny/sft.yaml"),
    (
        "The same fine-tuning without continual pre-training, equal steps",
        "train sft --config recipes/tiny/sft-only.yaml",
    ),
    ("... and until validation stops improving", "train sft --config recipes/tiny/sft-only-long.yaml"),
    ("Ranking, baselines, ceilings, significance, report", "evaluate --config recipes/tiny/evaluate.yaml"),
)
LAST = "recommend outputs/tiny/sft --example 0 --score pmi"


def run_demo(cprec: Callable[[list[str]], int]) -> None:
    """Run every step, each as its own command; the last in a fresh process that knows only the model's folder.

    Args:
        cprec: the command line, `cli.main`.

    Raises:
        InputError: a step failed; the message says which.
    """
    begin = time.monotonic()
    for number, (what, command) in enumerate(STEPS, 1):
        _announce(number, what, command, begin)
        if status := cprec([*shlex.split(command), "--overwrite"]):
            raise SystemExit(status)
    _announce(len(STEPS) + 1, "A fresh process loads the model and recommends", LAST, begin)
    done = subprocess.run([sys.executable, "-m", "cprec_hf.cli", *shlex.split(LAST)], check=False)
    if done.returncode:
        raise InputError(f"`cprec {LAST}` failed with status {done.returncode}")
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"\nDone in {minutes} min {seconds:02d} s. The report with its plots: {OUTPUT / 'report' / 'report.md'}")


def _announce(number: int, what: str, command: str, begin: float) -> None:
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"\n[{number}/{len(STEPS) + 1}] {what}  (at {minutes}:{seconds:02d})\n    cprec {command}", flush=True)
