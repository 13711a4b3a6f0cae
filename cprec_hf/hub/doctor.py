"""Is everything fit for what a recipe is about to do? Endpoint, token and its rights, disk, cache, and what it reads.

    cprec hub doctor recipes/tiny/hub.yaml

Nothing is changed by looking, and no token is shown.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprec_hf.hub.recipe import HubConfig
from cprec_hf.recipes import find_recipe, from_mapping, read_yaml

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LITTLE_SPACE = 2 * 10**9  # bytes; below this a small run's outputs or downloads may not fit
_READS = {
    "corpus": "dataset",
    "model": "model",
    "model_name_or_path": "model",
    "init_from": "model",
}  # recipe keys that name a repo
_WRITES = ("output", "output_dir")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    said: str
    """What was found, and if it is not fit, what to do."""

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.what}: {self.said}"


def diagnose(recipe: str | Path | None = None, api: HfApi | None = None) -> Iterator[Finding]:
    """Look at all that a recipe needs of the Hub and the disk, one finding at a time.

    Args:
        recipe: of a stage, an evaluation, or of pushes (`HubConfig`); without one only what every run needs.
        api: a client with another endpoint or token than the environment's.

    Raises:
        InputError: the recipe cannot be read.
    """
    from huggingface_hub import HfApi, constants

    api = api or HfApi()
    values = {} if recipe is None else read_yaml(find_recipe(str(recipe)))
    pushes = from_mapping(values, HubConfig, str(recipe)) if "push" in values else None
    yield _endpoint(api)
    user, token = _token(api, needed=pushes is not None)
    yield token
    yield _disk("the Hub cache", Path(constants.HF_HUB_CACHE))
    for key in _WRITES:
        if isinstance(values.get(key), str):
            yield _disk(f"`{key}`", Path(values[key]))
    for key, repo_type in _READS.items():
        if isinstance(values.get(key), str):
            yield _readable(api, f"`{key}`", values[key], repo_type, values.get(f"{key}_revision"))
    for method in _methods(values):
        yield _readable(api, "`model`", method["model"], "model", method.get("revision"))
    if pushes is not None and user is not None:
        yield from _writable(api, user, pushes)


def _endpoint(api: HfApi) -> Finding:
    from huggingface_hub import constants

    what = f"endpoint {api.endpoint}"
    if constants.is_offline_mode():
        return Finding(what, False, "HF_HUB_OFFLINE is set, so nothing is asked; unset it")
    error = _failure(lambda: list(api.list_models(limit=1, token=False)))
    if error:
        return Finding(what, False, f"{error}; check HF_ENDPOINT and the network")
    if "127.0.0.1" in api.endpoint and not constants.HF_HUB_DISABLE_XET:
        return Finding(what, False, "a loopback Hub has no Xet storage; set HF_HUB_DISABLE_XET=1")
    return Finding(what, True, "answers")


def _token(api: HfApi, *, needed: bool) -> tuple[dict[str, Any] | None, Finding]:
    """Who the token belongs to (None without one that works), and the finding."""
    from huggingface_hub import get_token

    if not (api.token or get_token()):
        said = "none; set HF_TOKEN to push" if needed else "none; public repos can be read, nothing can be pushed"
        return None, Finding("token", not needed, said)
    try:
        user = api.whoami()
    except Exception as error:
        return None, Finding("token", False, f"{_said(error)}; set a valid HF_TOKEN")
    token = user.get("auth", {}).get("accessToken", {})
    role = token.get("role", "unknown")
    if needed and role == "read":
        return user, Finding("token", False, f"of {user['name']}, may only read; make one that may write")
    return user, Finding("token", True, f"of {user['name']}, role {role}")


def _disk(what: str, path: Path) -> Finding:
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    what = f"{what} {path}"
    if not folder.is_dir():
        return Finding(what, False, f"{folder} is a file; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding(what, False, f"{folder} cannot be written ({error.strerror}); choose another folder")
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:,.1f} GB free"
    return Finding(what, True, said) if free >= LITTLE_SPACE else Finding(what, False, f"only {said}; make room")


def _readable(api: HfApi, what: str, name: str, repo_type: str, revision: str | None) -> Finding:
    if os.path.exists(os.path.expandvars(name)):  # noqa: PTH110  (a repo id is no path)
        return Finding(f"{what} {name}", True, "a folder here")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return Finding(f"{what} {name}", False, "no such folder; run the stage that makes it first")
    error = _failure(lambda: api.repo_info(name, repo_type=repo_type, revision=revision))
    at = f" at {revision}" if revision else ""
    said = f"{error}; no folder here, and no {repo_type} repo{at} that this token may read" if error else "a repo"
    return Finding(f"{what} {name}{at}", not error, said)


def _writable(api: HfApi, user: Mapping[str, Any], config: HubConfig) -> Iterator[Finding]:
    """Whether each push finds its folder, and the token may write to its repo."""
    mine = {user["name"], *(org["name"] for org in user.get("orgs", []))}
    for entry in config.push:
        what = f"push {entry.kind} to {entry.repo}"
        owner, _, name = entry.repo.rpartition("/")
        repo_type = {"corpus": "dataset", "results": "dataset", "metric": "space"}.get(entry.kind, "model")
        repo_id = f"{owner or user['name']}/{name}"
        if (owner or user["name"]) not in mine:
            yield Finding(what, False, f"the token of {user['name']} may not write under {owner}")
        elif not Path(entry.folder).exists() and entry.kind != "metric":
            yield Finding(what, False, f"{entry.folder} is not there yet; run the stage that makes it first")
        elif api.repo_exists(repo_id, repo_type=repo_type):
            yield Finding(what, True, "the repo is there, and holds what it holds until the push")
        else:
            yield Finding(what, True, f"a new repo, {'public' if config.public else 'private'}")


def _methods(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    methods = values.get("methods")
    return [m for m in methods if isinstance(m, Mapping) and m.get("model")] if isinstance(methods, list) else []


def _failure(call: Callable[[], Any]) -> str:
    """What went wrong, "" if nothing did."""
    try:
        call()
    except Exception as error:
        return _said(error)
    return ""


def _said(error: Exception) -> str:
    """A failure in a few words of ours: the client's own may quote requests."""
    response = getattr(error, "response", None)
    if response is None:
        return f"cannot be reached ({type(error).__name__})"
    return {401: "refuses this token", 404: "not found"}.get(response.status_code, f"status {response.status_code}")
