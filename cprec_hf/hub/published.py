"""Which repo a local folder was pushed to: later pushes name that repo and commit instead of a path of this machine.

A push leaves `.cprec-hub.json` in the folder (never pushed itself): for each Hub, repo and commit, with the hash of the
folder's record, so that a folder that was made anew since counts as not pushed. A repo of one Hub means nothing on
another, so records name what was pushed to the Hub they go to; every `endpoint` below is its address, that of
`HF_ENDPOINT` if not given. A loopback Hub that comes back on another port is another Hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_file

FILENAME = ".cprec-hub.json"
RECORDS = ("cprec-corpus.json", "cprec.json")  # what a corpus and a model say of themselves


@dataclass(frozen=True)
class Pushed:
    """Where a push arrived."""

    repo_id: str
    branch: str
    commit: str
    url: str


def remember(folder: Path, pushed: Pushed, endpoint: str) -> None:
    """Note in a corpus' or a model's folder where it was pushed; other folders are named by no record."""
    record = _record_hash(folder)
    if record is None:
        return
    where = {"repo_id": pushed.repo_id, "branch": pushed.branch, "commit": pushed.commit}
    values = {_address(endpoint): {**where, "record": record}}
    values = {hub: noted for hub, noted in _noted(folder).items() if noted["record"] == record} | values
    with atomic_file(folder / FILENAME) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def published(name: str, endpoint: str | None = None) -> tuple[str, str | None]:
    """A name in a record, as it may leave this machine for a Hub, and the commit that was pushed there.

    A folder that was pushed there becomes its repo; one that was not, and any other path, its last part; a repo id
    stays.
    """
    noted = _pushed(name, endpoint)
    return (noted["repo_id"], noted["commit"]) if noted else (without_path(name), None)


def without_path(name: str) -> str:
    """A repo id as it is; of a local path only its last part, which says nothing of the machine."""
    is_path = Path(name).exists() or name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def is_local(value: Any) -> bool:
    """Whether a value is a path of this machine."""
    return isinstance(value, str) and (value.startswith(("/", "~", ".")) or Path(value).exists())


def relocated_record(record: Mapping[str, Any], endpoint: str | None = None) -> dict[str, Any]:
    """A model's record (`cprec.json`), its corpus, base and parents as they may leave this machine."""
    corpus, corpus_commit = published(record["corpus"], endpoint)
    base, base_commit = published(record["base"], endpoint)
    branch = (_pushed(record["base"], endpoint) or {}).get("branch", "main")
    return {
        **record,
        "corpus": corpus,
        "corpus_revision": corpus_commit or record["corpus_revision"],
        "base": base if branch == "main" or "/" in branch else f"{base}@{branch}",
        "base_revision": base_commit or record.get("base_revision"),
        "parents": ["@".join(filter(None, published(parent, endpoint))) for parent in record["parents"]],
    }


def relocated_adapter(path: Path, endpoint: str | None = None) -> dict[str, Any]:
    """An `adapter_config.json` whose base is a repo.

    Raises:
        InputError: its base is a folder here that was not pushed to that Hub.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    base, commit = published(values["base_model_name_or_path"], endpoint)
    if commit is None and is_local(values["base_model_name_or_path"]):
        raise InputError(f"{path.parent} is an adapter of {base}, a folder here; push that model first")
    return {**values, "base_model_name_or_path": base, "revision": commit or values.get("revision")}


def relocated_results(results: Mapping[str, Any], endpoint: str | None = None) -> dict[str, Any]:
    """An evaluation's `results.json`, its corpus and models as they may leave this machine."""
    location, commit = published(results["corpus"]["location"], endpoint)
    corpus = {**results["corpus"], "location": location, "revision": commit or results["corpus"]["revision"]}
    methods = [_relocated_method(method, endpoint) for method in results["methods"]]
    curves = [published(curve, endpoint)[0] for curve in results["curves"]]
    return {**results, "corpus": corpus, "methods": methods, "curves": curves}


def _relocated_method(method: Mapping[str, Any], endpoint: str | None) -> dict[str, Any]:
    if not method.get("model"):
        return dict(method)
    model, commit = published(method["model"], endpoint)
    moved = {**method, "model": model, "revision": commit or method["revision"]}
    return {**moved, "record": relocated_record(method["record"], endpoint)} if "record" in method else moved


def _pushed(name: str, endpoint: str | None) -> dict[str, str] | None:
    """The note of a folder's last push to a Hub, if the folder is still what was pushed."""
    noted = _noted(Path(name)).get(_address(endpoint))
    return noted if noted is not None and noted["record"] == _record_hash(Path(name)) else None


def _noted(folder: Path) -> dict[str, dict[str, str]]:
    """Address of a Hub -> repo_id, branch, commit and record of the folder's last push there; empty without a note."""
    try:
        values = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
        needed = ("repo_id", "commit", "record")  # an older release noted no branch
        return {hub: {"branch": "main", **noted, **{k: noted[k] for k in needed}} for hub, noted in values.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or an older release's, of no Hub
        return {}


def _address(endpoint: str | None) -> str:
    from huggingface_hub import constants

    return (endpoint or constants.ENDPOINT).rstrip("/")


def _record_hash(folder: Path) -> str | None:
    for name in RECORDS:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return None
