"""`cprec hub serve|push|doctor`: a Hub on this machine, publishing, and a look at whether all is fit for it.

cprec hub serve --root outputs/hub --user ada:hf_ada
cprec hub push recommender outputs/tiny/sft me/tiny-music --results outputs/tiny/report --dry-run
cprec hub push --config recipes/tiny/hub.yaml
cprec hub doctor recipes/tiny/hub.yaml
"""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from cprec_hf.errors import InputError
from cprec_hf.hub.recipe import HubConfig, Kind, PushConfig

if TYPE_CHECKING:
    from cprec_hf.hub.publish import Push

KINDS = typing.get_args(Kind)


class Where(TypedDict):
    """What every planner takes besides its folder and repo."""

    branch: str
    private: bool


def add_verbs(actions: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs to `cprec hub`; `verb` makes one with its help and example."""
    serve = verb(
        actions,
        "serve",
        "a Hub on this machine, for tests and without internet",
        "cprec hub serve --root outputs/hub --user ada:hf_ada",
    )
    serve.add_argument("--port", type=int, default=0, help="port; the system chooses one if not given")
    serve.add_argument("--root", default="outputs/hub", help="folder of the repos (default outputs/hub)")
    serve.add_argument("--user", action="append", default=[], metavar="NAME:TOKEN", help="a user; may be repeated")
    serve.add_argument(
        "--fail", action="append", default=[], metavar="KIND:FAULT:N", help="let the next N requests fail, for tests"
    )
    serve.set_defaults(run=_serve)

    push = verb(
        actions,
        "push",
        "publish a folder in one commit, or all that a recipe lists",
        "cprec hub push recommender outputs/tiny/sft me/tiny-music --results outputs/tiny/report",
    )
    push.add_argument("kind", nargs="?", choices=KINDS, help="what the folder is")
    push.add_argument("folder", nargs="?", help="a local folder")
    push.add_argument("repo", nargs="?", help="repo on the Hub, OWNER/NAME; NAME alone is under the token's user")
    push.add_argument("--config", metavar="RECIPE", help="a recipe of pushes, in place of KIND FOLDER REPO")
    push.add_argument("--branch", default="main", help="branch to push to (default main)")
    push.add_argument("--results", metavar="FOLDER", help="for models: an evaluation, for the card and .eval_results/")
    push.add_argument("--public", action="store_true", help="new repos are public; needs a redistributable source")
    push.add_argument("--dry-run", action="store_true", help="list files and sizes, look for secrets, push nothing")
    push.set_defaults(run=_push)

    doctor = verb(
        actions,
        "doctor",
        "endpoint, token, disk and cache: fit for a recipe?",
        "cprec hub doctor recipes/tiny/hub.yaml",
    )
    doctor.add_argument("recipe", nargs="?", help="a recipe; without one only what every run needs")
    doctor.set_defaults(run=_doctor)


def plan(entry: PushConfig, *, private: bool) -> Push:
    """The push of one entry of a recipe.

    Raises:
        InputError: what its kind's planner in `hub.kinds` refuses; a run without a complete checkpoint, for a trunk.
    """
    from cprec_hf.hub import kinds

    folder, where = Path(entry.folder), Where(branch=entry.branch, private=private)
    if entry.kind == "corpus":
        from cprec_hf.corpus.push import plan_audited_corpus

        return plan_audited_corpus(folder, entry.repo, **where)
    if entry.kind in ("trunk", "checkpoint"):
        from cprec_hf.training.checkpoints import find_checkpoint

        plan_it = kinds.plan_trunk if entry.kind == "trunk" else kinds.plan_checkpoint
        return plan_it(find_checkpoint(folder, "folder"), entry.repo, private=private)
    if entry.kind == "metric":
        shipped = Path(__file__).parent / "metrics" / entry.folder
        return kinds.plan_metric(folder if folder.is_dir() else shipped, entry.repo, **where)
    if entry.kind == "results":
        return kinds.plan_results(folder, entry.repo, **where)
    planners = {"model": kinds.plan_model, "adapter": kinds.plan_adapter, "recommender": kinds.plan_recommender}
    return planners[entry.kind](folder, entry.repo, results=entry.results, **where)


def _serve(given: argparse.Namespace) -> int:
    from cprec_hf.hub.serve import serve

    serve(given.port, given.root, given.user, given.fail)
    return 0


def _push(given: argparse.Namespace) -> int:
    from cprec_hf.hub.publish import publish

    config = _pushes(given)
    for entry in config.push:
        planned = plan(entry, private=not config.public)
        if given.dry_run:
            print(planned.listing(), flush=True)
        else:
            print(f"{entry.kind:<12} {entry.folder} -> {publish(planned).url}", flush=True)
    return 0


def _pushes(given: argparse.Namespace) -> HubConfig:
    from cprec_hf.recipes import read_recipe

    named = (given.kind, given.folder, given.repo)
    if given.config is not None:
        if any(named):
            raise InputError("give either --config or KIND FOLDER REPO")
        return read_recipe(given.config, HubConfig, {"public": True} if given.public else None)
    if not all(named):
        raise InputError("say what to push: KIND FOLDER REPO, or --config with a recipe")
    entry = PushConfig(
        kind=given.kind, folder=given.folder, repo=given.repo, branch=given.branch, results=given.results
    )
    return HubConfig(push=[entry], public=given.public)


def _doctor(given: argparse.Namespace) -> int:
    from cprec_hf.hub.doctor import diagnose

    fit = True
    for finding in diagnose(given.recipe):
        print(finding, flush=True)
        fit = fit and finding.ok
    return 0 if fit else 1
