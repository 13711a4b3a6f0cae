"""Where training goes on from: a checkpoint in a folder here, or at a revision of a Hub repo.

    init_from: outputs/tiny/cpt/checkpoint-900
    init_from: me/tiny-cpt@trunk-step-900        # a branch, a tag or a commit

A revision is resolved to its commit once, and everything is read at that commit. Only what training needs is
downloaded: weights, tokenizer, records and the resume state, not the card, its picture or the items. The resume state
is pickled; the Trainer reads it with `weights_only=True`, so none of it is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cprec_hf.errors import InputError
from cprec_hf.files import refuse_existing, require_writable
from cprec_hf.hub.files import local_path, snapshot
from cprec_hf.training.checkpoints import find_checkpoint, has_nothing_yet, is_a_runs, is_complete, newest_checkpoint

_NEEDED = [
    *("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"),
    *("*.pt", "*.pth", "optimizer*.bin"),  # the resume state
]


@dataclass(frozen=True)
class Start:
    """A complete checkpoint, and what a record calls it."""

    folder: Path
    """With its files: the folder that was named, or a commit's in the Hub cache."""
    source: str
    """What a model can be loaded from, with `commit`: that folder, or the repo."""
    name: str
    """The same with the revision as it was given, `me/tiny-cpt@trunk-step-900`."""
    commit: str | None = None
    """Of the repo; None for a folder."""


def find_start(named: str, key: str) -> Start:
    """The checkpoint that a recipe names: a folder (a run's newest one is taken), or `repo@revision`.

    Args:
        named: the folder, or the repo with its revision.
        key: the recipe key that named it, for messages.

    Raises:
        InputError: nothing there, no complete checkpoint, or a repo without a revision.
    """
    if "@" not in named or Path(named).expanduser().exists():
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", named) and not Path(named).exists():
            raise InputError(
                f"`{key}`: no such folder: {named}; of a Hub repo say which checkpoint, {named}@trunk-step-N"
            )
        folder = find_checkpoint(named, key)
        return Start(folder, str(folder), str(folder))
    repo, _, revision = named.partition("@")
    try:
        commit = local_path(repo, "cprec.json", revision).parent.name
        folder = snapshot(repo, commit, allow_patterns=_NEEDED)
    except InputError as error:
        raise InputError(f"`{key}`: {error}") from None
    if not is_complete(folder):
        raise InputError(
            f"`{key}`: {named} is no complete checkpoint, to go on from with its resume state{_trunks(repo)}"
        )
    # A branch with a slash in its name would read as a path; a commit says no more than itself.
    plain = "/" in revision or commit.startswith(revision)
    return Start(folder, repo, repo if plain else named, commit)


def resume_point(resume_from_checkpoint: str | None, output_dir: str, *, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run, which must have its output folder for itself.

    Args:
        resume_from_checkpoint: a checkpoint, a run's folder, a Hub repo's `repo@revision`, or `true`: the newest of
            output_dir, and a fresh run if none was complete yet, so that one command begins a run and goes on with it
            after whatever killed it.
        output_dir: where the run writes.
        overwrite: whether a fresh run may replace what stands there.

    Raises:
        InputError: nothing to resume from, or output_dir is taken or cannot be written.
    """
    require_writable(output_dir)
    checkpoint = None
    if resume_from_checkpoint and resume_from_checkpoint.lower() != "false":
        if resume_from_checkpoint.lower() != "true":
            checkpoint = find_start(resume_from_checkpoint, "resume_from_checkpoint").folder
        elif (checkpoint := newest_checkpoint(output_dir)) is None:
            overwrite = overwrite or has_nothing_yet(Path(output_dir))
        if checkpoint is not None and checkpoint.parent.resolve() == Path(output_dir).resolve():
            return checkpoint
    refuse_existing(output_dir, overwrite=overwrite)
    if Path(output_dir).is_dir() and any(Path(output_dir).iterdir()) and not is_a_runs(Path(output_dir)):
        raise InputError(
            f"{output_dir} was not written by a training stage, so --overwrite leaves it alone; remove it yourself"
        )
    return checkpoint


def _trunks(repo: str) -> str:
    """The branches of a repo that are checkpoints, as the end of a sentence."""
    from huggingface_hub import HfApi

    names = [branch.name for branch in HfApi().list_repo_refs(repo).branches]
    steps = sorted(
        (n for n in names if re.fullmatch(r"(trunk-step|checkpoint)-\d+", n)), key=lambda n: int(n.split("-")[-1])
    )
    return f"; it has {', '.join(steps)}" if steps else ""
