"""Which repo a local folder was pushed to: later pushes name that repo and commit instead of a path of this machine.

A push leaves `.cprec-hub.json` in the folder (never pushed itself), with the hash of the folder's record, so that a
folder that was made anew since counts as not pushed.
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


def remember(folder: Path, pushed: Pushed) -> None:
    """Note in a corpus' or a model's folder where it was pushed; other folders are named by no record."""
    record = _record_hash(folder)
    if record is None:
        return
    values = {"repo_id": pushed.repo_id, "commit": pushed.commit, "record": record}
    with atomic_file(folder / FILENAME) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def published(name: str) -> tuple[str, str | None]:
    """A name in a record, as it may leave this machine, and the commit that was pushed.

    A folder that was pushed becomes its repo; one that was not, and any other path, its last part; a repo id stays.
    """
    folder = Path(name)
    try:
        values = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
        if values["record"] == _record_hash(folder):
            return values["repo_id"], values["commit"]
    except (OSError, ValueError, KeyError):
        pass
    return without_path(name), None


def without_path(name: str) -> str:
    """A repo id as it is; of a local path only its last part, which says nothing of the machine."""
    is_path = Path(name).exists() or name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_path else name


def is_local(value: Any) -> bool:
    """Whether a value is a path of this machine."""
    return isinstance(value, str) and (value.startswith(("/", "~", ".")) or Path(value).exists())


def relocated_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A model's record (`cprec.json`), its corpus, base and parents as they may leave this machine."""
    (corpus, corpus_commit), (base, base_commit) = published(record["corpus"]), published(record["base"])
    return {
        **record,
        "corpus": corpus,
        "corpus_revision": corpus_commit or record["corpus_revision"],
        "base": base,
        "base_revision": base_commit or record.get("base_revision"),
        "parents": ["@".join(filter(None, published(parent))) for parent in record["parents"]],
    }


def relocated_adapter(path: Path) -> dict[str, Any]:
    """An `adapter_config.json` whose base is a repo.

    Raises:
        InputError: its base is a folder here that was not pushed.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    base, commit = published(values["base_model_name_or_path"])
    if commit is None and is_local(values["base_model_name_or_path"]):
        raise InputError(f"{path.parent} is an adapter of {base}, a folder here; push that model first")
    return {**values, "base_model_name_or_path": base, "revision": commit or values.get("revision")}


def relocated_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's `results.json`, its corpus and models as they may leave this machine."""
    location, commit = published(results["corpus"]["location"])
    corpus = {**results["corpus"], "location": location, "revision": commit or results["corpus"]["revision"]}
    methods = [_relocated_method(method) for method in results["methods"]]
    curves = [published(curve)[0] for curve in results["curves"]]
    return {**results, "corpus": corpus, "methods": methods, "curves": curves}


def _relocated_method(method: Mapping[str, Any]) -> dict[str, Any]:
    if not method.get("model"):
        return dict(method)
    model, commit = published(method["model"])
    moved = {**method, "model": model, "revision": commit or method["revision"]}
    return {**moved, "record": relocated_record(method["record"])} if "record" in method else moved


def _record_hash(folder: Path) -> str | None:
    for name in RECORDS:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return None
