"""The whole way in minutes: `recipes/tiny/` through the same verbs that run every other recipe.

cprec demo        # writes outputs/tiny/ in the current folder
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cprec_hf.errors import InputError
from cprec_hf.recipes import shipped

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
PUSHES = "recipes/tiny/hub.yaml"
LOAD_BACK = "tiny/from_the_hub.py"


def run_demo(cprec: Callable[[list[str]], int]) -> None:
    """Run every step, each as its own command; the last in a fresh process that knows only repo ids.

    The Hub is the one `HF_ENDPOINT` names, with the token of the environment; without it, one on this machine. One
    that is named is looked at first, as `cprec hub doctor` does, so that hours of training do not end at its door.

    Args:
        cprec: the command line, `cli.main`.

    Raises:
        InputError: the Hub that is named does not answer or its token may not push there, said before the first step;
            or a step failed, and the message says which.
    """
    begin = time.monotonic()
    if os.environ.get("HF_ENDPOINT"):
        _require_hub()
    for number, (what, command) in enumerate(STEPS, 1):
        _announce(number, what, f"cprec {command}", begin)
        if status := cprec([*shlex.split(command), "--overwrite"]):
            raise SystemExit(status)
    with _hub() as environment:
        endpoint, publish = environment["HF_ENDPOINT"].rstrip("/"), ["hub", "push", "--config", PUSHES]
        _announce(len(STEPS) + 1, f"All of it goes to the Hub at {endpoint}", shlex.join(["cprec", *publish]), begin)
        pushed = _fresh(["-m", "cprec_hf.cli", *publish], environment)
        repos = [
            line.split("/commit/")[0].removeprefix(f"{endpoint}/") for line in pushed.split() if "/commit/" in line
        ]
        model, metric = (next(r for r in repos if r.endswith(name)) for name in ("/cprec-tiny-music", "/ranking_at_k"))
        script = [str(shipped("recipes") / LOAD_BACK), model, metric.removeprefix("spaces/")]
        what = "A fresh process loads corpus, metric and model from there, and recommends"
        _announce(len(STEPS) + 2, what, f"python recipes/{LOAD_BACK} {' '.join(script[1:])}", begin)
        _fresh(script, environment)
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"\nDone in {minutes} min {seconds:02d} s. The report with its plots: {OUTPUT / 'report' / 'report.md'}")


def _require_hub() -> None:
    """Raise `InputError` if the Hub of the environment is not fit for the pushes at the end."""
    from cprec_hf.hub.doctor import diagnose

    for finding in diagnose(PUSHES, folders=False):
        if not finding.ok:
            raise InputError(
                f"{finding.what}: {finding.said}; or unset HF_ENDPOINT, and the demo pushes to a Hub on this machine"
            )


@contextmanager
def _hub() -> Iterator[dict[str, str]]:
    """The environment of processes that use the Hub. One on this machine gets a client cache of its own beside it."""
    if os.environ.get("HF_ENDPOINT"):
        yield dict(os.environ)
        return
    from cprec_hf.hub.loopback import LoopbackHub

    with LoopbackHub(OUTPUT / "hub") as hub:
        yield {**os.environ, **hub.env, "HF_HOME": str((OUTPUT / "hub-cache").resolve())}


def _fresh(arguments: list[str], environment: dict[str, str]) -> str:
    """Run Python in a process of its own, which imports nothing of this one; show what it prints, and return it."""
    package = str(Path(__file__).parent.parent)
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, *arguments], env={**environment, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise InputError(f"`python {' '.join(arguments)}` failed with status {process.returncode}")
    return "".join(lines)


def _announce(number: int, what: str, command: str, begin: float) -> None:
    minutes, seconds = divmod(int(time.monotonic() - begin), 60)
    print(f"\n[{number}/{len(STEPS) + 2}] {what}  (at {minutes}:{seconds:02d})\n    {command}", flush=True)
