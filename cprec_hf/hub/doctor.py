"""Is everything fit for what a recipe is about to do? Endpoint, token and its rights, disk, cache, and what it reads.

    cprec hub doctor recipes/tiny/hub.yaml

Nothing is changed by looking, and no token is shown.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cprec_hf.hub.files import RepoType
from cprec_hf.hub.needs import bytes_to_download, bytes_to_save, parameters_here, parameters_there
from cprec_hf.hub.recipe import HubConfig, PushConfig
from cprec_hf.recipes import find_recipe, from_mapping, read_yaml

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROOM = 10**8  # bytes, besides what is known to be needed: logs, reports, tables
_READS: dict[str, tuple[RepoType, str]] = {
    "corpus": ("dataset", "corpus_revision"),
    "model": ("model", "revision"),
    "model_name_or_path": ("model", "model_revision"),
}  # recipe keys that name a folder or a repo -> its type, and the key of its revision
_WRITES = ("output", "output_dir")
_TYPES: dict[str, RepoType] = {"corpus": "dataset", "results": "dataset", "metric": "space"}  # others: model


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    said: str
    """What was found, and if it is not fit, what to do."""

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.what}: {self.said}"


def diagnose(recipe: str | Path | None = None, api: HfApi | None = None, *, folders: bool = True) -> Iterator[Finding]:
    """Look at all that a recipe needs of the Hub and the disk, one finding at a time.

    Args:
        recipe: of a stage, an evaluation, or of pushes (`HubConfig`); without one only what every run needs.
        api: a client with another endpoint or token than the environment's.
        folders: whether what is to be pushed must be there already.

    Raises:
        InputError: the recipe cannot be read.
    """
    from huggingface_hub import HfApi, constants

    api = api or HfApi()
    values = {} if recipe is None else read_yaml(find_recipe(str(recipe)))
    pushes = from_mapping(values, HubConfig, str(recipe)) if "push" in values else None
    yield _endpoint(api)
    run = values if values.get("push_to_hub") is True and isinstance(values.get("output_dir"), str) else None
    user, token = _token(api, needed=pushes is not None or run is not None)
    yield token
    downloads = parameters = 0
    for what, name, repo_type, revision, revision_key in _reads(values):
        finding, download = _readable(api, what, name, repo_type, revision, revision_key)
        yield finding
        downloads += download
        if what in ("`model_name_or_path`", "`init_from`") and finding.ok:
            parameters = parameters_here(Path(name)) if not download else parameters_there(api, name, revision)
    if isinstance(values.get("init_from"), str) and not _at_revision(values["init_from"]):
        trunk = Path(values["init_from"])
        yield _folder("`init_from`", trunk)
        parameters = max([parameters_here(folder) for folder in (trunk, *trunk.glob("checkpoint-*"))])
    yield _disk("the Hub cache", Path(constants.HF_HUB_CACHE), downloads)
    for key in _WRITES:
        if isinstance(values.get(key), str):
            yield _disk(f"`{key}`", Path(values[key]), bytes_to_save(values, parameters))
    if pushes is not None and user is not None:
        for entry in pushes.push:
            yield _writable(api, user, entry, public=pushes.public, folders=folders)
    if run is not None and user is not None:  # of a run that pushes while it trains
        folder = run["output_dir"]
        entry = PushConfig(kind="model", folder=folder, repo=run.get("hub_model_id") or Path(folder).resolve().name)
        yield _writable(api, user, entry, public=run.get("hub_private_repo") is False, folders=False)


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


def _disk(what: str, path: Path, known: int) -> Finding:
    """Whether a folder can be written, on a disk with room for `known` bytes and a little more."""
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
    free, needed = shutil.disk_usage(folder).free, known + ROOM
    said = f"{free / 1e9:,.1f} GB free, about {needed / 1e9:,.1f} GB needed"
    return Finding(what, True, said) if free >= needed else Finding(what, False, f"only {said}; make room")


def _reads(values: Mapping[str, Any]) -> Iterator[tuple[str, str, RepoType, str | None, str]]:
    """What a recipe reads: the key, the folder or repo, its type, its revision, and the key of that."""
    for key, (repo_type, revision_key) in _READS.items():
        if isinstance(values.get(key), str):
            yield f"`{key}`", values[key], repo_type, values.get(revision_key), revision_key
    if isinstance(values.get("init_from"), str) and _at_revision(values["init_from"]):
        repo, _, revision = values["init_from"].partition("@")
        yield "`init_from`", repo, "model", revision, "init_from"
    methods = values.get("methods")
    for method in methods if isinstance(methods, list) else []:
        if isinstance(method, Mapping) and isinstance(method.get("model"), str):
            yield "`model`", method["model"], "model", method.get("revision"), "revision"


def _at_revision(name: str) -> bool:
    """Whether a trunk is named as `repo@revision`."""
    return "@" in name and not Path(name).exists()


def _folder(what: str, folder: Path) -> Finding:
    there = folder.is_dir()
    said = "a folder here" if there else "no such folder; run the stage that makes it first"
    return Finding(f"{what} {folder}", there, said)


def _readable(
    api: HfApi, what: str, name: str, repo_type: RepoType, revision: str | None, revision_key: str
) -> tuple[Finding, int]:
    """Whether a folder is there, or a repo that the token may read; and how many bytes are to be downloaded."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(name).expanduser()
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        return _folder(what, folder), 0
    what = f"{what} {name}"
    repo_id, at, inside = name.partition("@")
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return Finding(what, False, "no such folder, and no repo id, which looks like user/name"), 0
    if at:
        return Finding(what, False, f"a name takes no @; write {repo_id}, and `{revision_key}: {inside}`"), 0
    at = f" at {revision}" if revision else ""
    try:
        download = bytes_to_download(api, name, repo_type, revision)
    except Exception as error:
        said = f"{_said(error)}; no folder here, and no {repo_type} repo{at} that this token may read"
        return Finding(f"{what}{at}", False, said), 0
    return Finding(f"{what}{at}", True, f"a repo, {download / 1e9:,.1f} GB to download"), download


def _writable(api: HfApi, user: Mapping[str, Any], entry: PushConfig, *, public: bool, folders: bool) -> Finding:
    """Whether a push finds its folder, and would not be refused by its repo."""
    what = f"push {entry.kind} to {entry.repo}"
    owner, _, name = entry.repo.rpartition("/")
    owner = owner or user["name"]
    repo_id, repo_type = f"{owner}/{name}", _TYPES.get(entry.kind, "model")
    if refusal := refused_write(user, repo_id, repo_type):
        return Finding(what, False, refusal)
    if folders and not Path(entry.folder).exists() and entry.kind != "metric":
        return Finding(what, False, f"{entry.folder} is not there yet; run the stage that makes it first")
    try:
        private = api.repo_info(repo_id, repo_type=repo_type).private
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) != 404:
            return Finding(what, False, f"{_said(error)}; try again later")
        return Finding(what, True, f"a new repo, {'public' if public else 'private'}")
    if not private and not public:
        return Finding(what, False, "the repo is public; ask for a public push, make it private, or name another")
    return Finding(what, True, "the repo is there, and holds what it holds until the push")


def refused_write(user: Mapping[str, Any], repo_id: str, repo_type: RepoType) -> str:
    """Why a token may not write to a repo, "" if it may.

    Args:
        user: the Hub's answer to whoami. A fine-grained token lists what it may do with which user, organisation or
            repo; an organisation, the user's role in it.
        repo_id: `owner/name`.
        repo_type: which kind of repo the id names.
    """
    owner, token = repo_id.split("/")[0], user.get("auth", {}).get("accessToken", {})
    orgs = {org["name"] for org in user.get("orgs", []) if org.get("roleInOrg") != "read"}
    if owner not in {user["name"], *orgs}:
        return f"the token of {user['name']} may not write under {owner}"
    if token.get("role") != "fineGrained":
        return ""
    reached = ((("user", "org"), owner), ((repo_type,), repo_id))
    for scope in token.get("fineGrained", {}).get("scoped", []):
        entity = scope["entity"]
        if "repo.write" in scope["permissions"] and any(
            entity["type"] in types and entity.get("name") == name for types, name in reached
        ):
            return ""
    return f"this fine-grained token may not write there; give it write access to the repos of {owner}"


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
