"""A run pushes what it saves while it goes on: in order, none left out, and never at the cost of the training.

    push_to_hub: true
    hub_model_id: me/my-shop-cpt         # the output folder's name under the token's user, if not given
    hub_strategy: all_checkpoints        # end, every_save or all_checkpoints
    hub_private_repo: false              # new repos are private otherwise

`end` pushes the finished model to `main`; `every_save` each save's model to `main` as well, a commit each;
`all_checkpoints` each save with its resume state to a branch of its own instead, which is `trunk-step-N` where a CPT
run is in its stable phase and `checkpoint-N` elsewhere. The default is `all_checkpoints` for `cpt`, `end` for the rest.

What waits to be pushed stands as hard links in `to-push/`, so that no rotation can delete it, and a resumed run goes on
with what an interrupted one left there.
"""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import sys
import threading
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

from httpx2 import TransportError
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import HubStrategy

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder
from cprec_hf.hub.doctor import refused_write
from cprec_hf.hub.published import is_local, published, remember
from cprec_hf.hub.push_process import Answer, PushJob, PushProcess
from cprec_hf.training.progress import LOG, say

STAGED = "to-push"
WAITS = (30.0, 60.0, 120.0, 300.0, 600.0)  # seconds before the next try while the run goes on; the last is repeated
LAST_WAITS = (10.0, 30.0)  # once it is over: then the Hub counts as down


@dataclass(frozen=True)
class _Waiting:
    """A push that is still to be made."""

    kind: Literal["checkpoint", "model"]
    folder: Path
    """A staged copy of a checkpoint, or the finished model."""
    origin: Path
    """Where the run itself keeps it."""

    def command(self, repo: str, private: bool) -> str:
        """What pushes it by hand."""
        words = ["cprec", "hub", "push", self.kind, str(self.origin if self.origin.is_dir() else self.folder), repo]
        return shlex.join([*words, *([] if private else ["--public"])])


class Pusher(TrainerCallback):
    """Pushes in the background, of the main process of a run. A context: what waits when it is left early is said.

    Args:
        stage: for messages.
        output_dir: of the run.
        repo: `user/name`, or `name` under the token's user.
        strategy: `end`, `every_save` or `all_checkpoints`.
        private: whether a new repo is private.
    """

    def __init__(self, stage: str, output_dir: str, repo: str, strategy: str, *, private: bool) -> None:
        self.stage, self.folder, self.repo, self.strategy, self.private = (
            stage,
            Path(output_dir),
            repo,
            strategy,
            private,
        )
        self._process, self._queue = PushProcess(), queue.Queue[_Waiting | None]()
        self._waiting: list[_Waiting] = []  # in order; the worker takes out what is done
        self._made: list[tuple[_Waiting, Answer]] = []
        self._failed: list[tuple[_Waiting, str]] = []
        self._run_is_over, self._stopped = threading.Event(), threading.Event()
        self._worker = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Pusher:
        self._worker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        self._run_is_over.set()
        self._process.end()
        self._note()
        if kind is not None and (left := [*(waiting for waiting, _ in self._failed), *self._waiting]):
            commands = "\n".join(f"  {waiting.command(self.repo, self.private)}" for waiting in left)
            print(
                f"\n{self.stage}: not pushed yet; a resumed run begins with it, or push by hand:\n{commands}",
                file=sys.stderr,
                flush=True,
            )

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on with what an interrupted run did not push."""
        left = [path for path in (self.folder / STAGED).glob("*") if path.name.isdecimal()]
        for path in sorted(left, key=lambda path: int(path.name)):
            name = f"checkpoint-{path.name}"
            self._add(path / name, self.folder / name)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stage the checkpoint that was just saved, and queue it."""
        if self.strategy == "end":
            return
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        try:
            with atomic_folder(self.folder / STAGED / str(state.global_step), overwrite=True) as temporary:
                shutil.copytree(checkpoint, temporary / checkpoint.name, copy_function=_link)
                shutil.copyfile(self.folder / LOG, temporary / LOG)  # the run's own goes on; the card draws from it
            self._add(self.folder / STAGED / str(state.global_step) / checkpoint.name, checkpoint)
        except OSError:  # no room: then from where it stands, while it stands
            self._add(checkpoint, checkpoint)

    def finish(self) -> None:
        """Push the finished model, wait for all that is left, and say what arrived and what did not."""
        self._queue_up(_Waiting("model", self.folder, self.folder))
        self._queue.put(None)
        self._run_is_over.set()
        left = len(self._waiting)
        say(f"{self.stage}  {left} {'push' if left == 1 else 'pushes'} to {self.repo} still to be made", stays=True)
        with tqdm(desc="pushing", total=left, unit="push", delay=2, disable=None, leave=False) as bar:
            while self._worker.is_alive():
                self._worker.join(0.2)
                bar.update(left - len(self._waiting) - bar.n)
        self._note()
        arrived = list(dict.fromkeys(answer.pushed.branch for _, answer in self._made if answer.pushed))
        if arrived:
            say(f"{self.stage}  pushed to {self.repo}: {', '.join(arrived)}", stays=True)
        if self._failed:
            for waiting, _ in self._failed:
                if waiting.origin != waiting.folder and waiting.origin.is_dir():
                    shutil.rmtree(waiting.folder.parent, ignore_errors=True)
            n, asked = len(self._failed), len(self._failed) + len(self._made)
            commands = "\n".join(f"  {w.command(self.repo, self.private)}\n    {why}" for w, why in self._failed)
            print(
                f"{self.stage}: {n} of {asked} pushes failed; the model is complete in {self.folder}. Push by "
                f"hand, in this order:\n{commands}",
                file=sys.stderr,
                flush=True,
            )
        if (self.folder / STAGED).is_dir() and not any((self.folder / STAGED).iterdir()):
            (self.folder / STAGED).rmdir()

    def _add(self, folder: Path, origin: Path) -> None:
        self._queue_up(_Waiting("model" if self.strategy == "every_save" else "checkpoint", folder, origin))

    def _queue_up(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._queue.put(waiting)

    def _work(self) -> None:
        """The worker's life: one push after the other, each until it is made or cannot be."""
        down = ""
        while (waiting := self._queue.get()) is not None:
            answer = Answer(failed=down) if down else self._insist(waiting)
            if self._stopped.is_set():
                return
            if answer.pushed is None:
                self._failed.append((waiting, answer.failed))
                down = answer.failed if answer.may_pass else down
            else:
                self._made.append((waiting, answer))
                if waiting.origin != waiting.folder:
                    shutil.rmtree(waiting.folder.parent, ignore_errors=True)
            self._waiting.remove(waiting)

    def _insist(self, waiting: _Waiting) -> Answer:
        """Push, again after each failure that may pass: while the run goes on for as long as it takes."""
        last = iter(LAST_WAITS)
        for pause in chain(WAITS, repeat(WAITS[-1])):
            over = self._run_is_over.is_set()  # asked before: what fails while the run ends gets all its last tries
            answer = self._process.push(PushJob(waiting.kind, str(waiting.folder), self.repo, self.private))
            if answer.pushed is not None or not answer.may_pass or self._stopped.is_set():
                return answer
            if over and (pause := next(last, 0.0)) == 0.0:
                return answer
            name = (
                "the finished model"
                if waiting.kind == "model" and waiting.origin == self.folder
                else waiting.origin.name
            )
            goes_on = "" if over else "; the training goes on"
            say(
                f"{self.stage}  {name} was not pushed: {answer.failed}; pushing it again in {pause:.0f} s{goes_on}",
                stays=True,
            )
            (self._stopped if over else self._run_is_over).wait(pause)
        raise AssertionError("repeat() does not end")

    def _note(self) -> None:
        """Note in the run's folders where they were pushed to. Not the worker's: it might write into a rotation."""
        for waiting, answer in self._made:
            if answer.pushed is not None:
                remember(waiting.origin, answer.pushed, answer.endpoint)


def check_pushes(stage: str, given: set[str], training: Any, where: str) -> None:
    """Check a recipe's keys of pushing, and the token, before any work; sets the stage's default strategy.

    Args:
        stage: of the run.
        given: the keys that the recipe or a flag gave.
        training: the parsed trl.SFTConfig.
        where: the recipe, for messages.

    Raises:
        InputError: keys that do not go together, a name that is none, or no token that the Hub takes. A Hub that does
            not answer is no error: it may when there is something to push.
    """
    if not training.push_to_hub:
        for key in sorted(given & {"hub_strategy", "hub_private_repo"}):
            raise InputError(f"{where}: `{key}` has no place in {stage} without `push_to_hub: true`")
        return
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if "hub_strategy" not in given:
        training.hub_strategy = HubStrategy.ALL_CHECKPOINTS if stage == "cpt" else HubStrategy.END
    if training.hub_strategy == HubStrategy.CHECKPOINT:
        raise InputError(f"{where}: `hub_strategy` is end, every_save or all_checkpoints (a branch for each)")
    if training.hub_strategy == HubStrategy.ALL_CHECKPOINTS and training.save_only_model:
        raise InputError(f"{where}: `hub_strategy: all_checkpoints` pushes resume states; `save_only_model` saves none")
    try:
        validate_repo_id(_repo(training))
    except HFValidationError as error:
        raise InputError(f"{where}: `hub_model_id`: {error}") from None
    if training.process_index:
        return
    if get_token() is None:
        raise InputError(f"{where}: `push_to_hub` needs a token; set HF_TOKEN")
    try:
        user = HfApi().whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise InputError(f"{where}: `push_to_hub`: the Hub refuses the token; set a valid HF_TOKEN") from None
        return
    except TransportError:
        return
    name = _repo(training)
    if refusal := refused_write(user, name if "/" in name else f"{user['name']}/{name}", "model"):
        raise InputError(f"{where}: `hub_model_id` {name}: {refusal}")


def take_pushes(training: Any, record: ModelRecord) -> Pusher | None:
    """The run's pusher, on its main process, if it pushes; transformers' own pushing is switched off for it.

    Args:
        training: the run's arguments, which `check_pushes` passed.
        record: of the model.

    Raises:
        InputError: a public repo for a corpus that may not be published again.
    """
    if not training.push_to_hub:
        return None
    training.push_to_hub, private = False, training.hub_private_repo is not False
    if not private and not record.corpus_redistributable:
        raise InputError(
            f"`hub_private_repo: false`: {record.corpus} has a source that may not be published again; leave it out"
        )
    if training.process_index:
        return None
    strategy = training.hub_strategy.value
    return Pusher(record.stage, training.output_dir, _repo(training), strategy, private=private)


def refuse_local_base(model: Any) -> None:
    """Raise `InputError` if a model is an adapter of a base that is not on the Hub."""
    for adapter in (getattr(model, "peft_config", None) or {}).values():
        base = adapter.base_model_name_or_path
        if is_local(base) and published(base)[1] is None:
            raise InputError(f"`push_to_hub`: the adapter's base {base} is a folder here; push that model first")


def _repo(training: Any) -> str:
    return training.hub_model_id or Path(training.output_dir).resolve().name


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
