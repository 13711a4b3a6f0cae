"""Pushes in a process of their own, asked for line by line: `python -m cprec_hf.hub.push_process`, see `PushProcess`.

A training run that pushes while it trains hashes and sends gigabytes: here that takes none of its interpreter's time,
leaves its random state alone, and can be ended at any moment, in the midst of an upload too. A push is one commit, so
a repo never holds half of one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import cprec_hf
from cprec_hf.errors import InputError
from cprec_hf.hub.published import Pushed


class PushJob(NamedTuple):
    """One push: `folder` as the branch its kind goes to, see `kinds.plan_checkpoint` and `kinds.plan_model`."""

    kind: Literal["checkpoint", "model"]
    folder: str
    repo: str
    private: bool


class Answer(NamedTuple):
    """What became of a push."""

    pushed: Pushed | None = None
    """Where it arrived; None if it did not."""
    endpoint: str = ""
    """The Hub it went to."""
    failed: str = ""
    """Why it did not arrive."""
    may_pass: bool = False
    """Whether pushing again later may help."""


class PushProcess:
    """The parent's end: started with the first push, and again if it died. One push at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._ended = False

    def push(self, job: PushJob) -> Answer:
        """Push, and wait for it; never raises for what a push meets."""
        if self._ended:
            return Answer(failed="it was stopped", may_pass=True)
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        line = ""
        try:
            assert self._process.stdin is not None and self._process.stdout is not None
            print(json.dumps(job), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            pass
        if not line:
            return Answer(failed="the process that pushes died", may_pass=True)
        pushed, *rest = json.loads(line)
        return Answer(pushed and Pushed(*pushed), *rest)

    def end(self) -> None:
        """End the process at once, in the midst of a push too. May be called from another thread."""
        self._ended = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        root = str(Path(cprec_hf.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", __name__],
            env={**os.environ, **quiet, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the run's; it ends this process itself
        )


def carry_out(job: PushJob) -> Answer:
    """Plan and publish one push, in this process. The folder gets no note of it: whoever asked leaves that."""
    from huggingface_hub import constants

    from cprec_hf.hub.kinds import plan_checkpoint, plan_model
    from cprec_hf.hub.publish import publish
    from cprec_hf.hub.retry import HubUnavailable

    plan = plan_checkpoint if job.kind == "checkpoint" else plan_model
    try:
        push = dataclasses.replace(plan(job.folder, job.repo, private=job.private), folder=None)
        return Answer(publish(push), constants.ENDPOINT)
    except HubUnavailable as error:
        return Answer(failed=str(error), may_pass=True)
    except InputError as error:
        return Answer(failed=str(error))
    except Exception as error:  # a push that fails in a way nobody thought of is one that failed, too
        return Answer(failed=f"{type(error).__name__}: {error}")


def main() -> None:
    """Answer jobs until there are no more; both are JSON lines."""
    from cprec_hf.hub import retry

    retry.WAITS = retry.WAITS[:1]  # a run has patience of its own, and all the time it takes to train
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        for line in sys.stdin:
            answer = carry_out(PushJob(*json.loads(line)))
            pushed = answer.pushed and dataclasses.astuple(answer.pushed)
            print(json.dumps([pushed, *answer[1:]]), file=answers, flush=True)


if __name__ == "__main__":
    main()
