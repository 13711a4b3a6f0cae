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
from cprec_hf.hub.files import local_path, snapshot
from cprec_hf.training.checkpoints import find_checkpoint, is_complete

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


def _trunks(repo: str) -> str:
    """The branches of a repo that are checkpoints, as the end of a sentence."""
    from huggingface_hub import HfApi

    names = [branch.name for branch in HfApi().list_repo_refs(repo).branches]
    steps = sorted(
        (n for n in names if re.fullmatch(r"(trunk-step|checkpoint)-\d+", n)), key=lambda n: int(n.split("-")[-1])
    )
    return f"; it has {', '.join(steps)}" if steps else ""
