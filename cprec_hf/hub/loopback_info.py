"""What the loopback Hub says of its repos: the JSON of info, tree and paths-info, and of a card's metadata."""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePosixPath
from typing import Any

import yaml

from cprec_hf.hub.loopback_repo import Commit, Entry, HubError, Repo


def repo_info(repo: Repo, revision: str, *, blobs: bool = False) -> dict[str, Any]:
    """All that `GET /api/{T}/{repo}` says of a revision; sizes and hashes of files with `blobs`."""
    commit, settings = repo.commit(revision), repo.settings
    card = card_data(repo, commit)
    known = {
        "_id": hashlib.sha1(f"{repo.kind}/{repo.id}".encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.owner,
        "sha": commit.id,
        "createdAt": settings["createdAt"],
        "lastModified": commit.date,
        "private": settings["visibility"] == "private",
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": _tags(card),
        "cardData": card,
        "siblings": [_sibling(path, entry, blobs) for path, entry in sorted(commit.tree.items())],
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
    }
    if repo.kind == "models":
        known |= {"modelId": repo.id, "config": {}}
        known |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    if repo.kind == "spaces":
        known["sdk"] = settings["sdk"]
    return known


def tree(repo: Repo, revision: str, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """Files and folders below `folder` ("" for the root), by path. Raises `HubError` EntryNotFound."""
    commit = repo.commit(revision)
    inside = [path for path in commit.tree if not folder or path.startswith(f"{folder}/")]
    if not inside and folder:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound", commit.id)
    depth = len(PurePosixPath(folder).parts)
    listed = set(inside)
    for path in inside:
        listed |= {str(parent) for parent in PurePosixPath(path).parents if len(parent.parts) > depth}
    shown = [path for path in sorted(listed) if recursive or len(PurePosixPath(path).parts) == depth + 1]
    return _describe(repo, commit, shown, expand)


def paths(repo: Repo, revision: str, asked: list[str], expand: bool) -> list[dict[str, Any]]:
    """Those of the paths that are files or folders of a revision."""
    commit = repo.commit(revision)
    folders = {str(parent) for path in commit.tree for parent in PurePosixPath(path).parents}
    return _describe(repo, commit, [path for path in asked if path in commit.tree or path in folders], expand)


def card_data(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The YAML front matter of README.md, {} without one."""
    entry = commit.tree.get("README.md")
    text = "" if entry is None else repo.object_path(entry.sha256).read_text(encoding="utf-8", errors="replace")
    try:
        card = front_matter(text)
    except HubError:
        return {}
    return json.loads(json.dumps(card, default=str))


def front_matter(text: str) -> dict[str, Any]:
    """The mapping between the first two `---` lines, {} without them. Raises `HubError` 400 if it is none."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        raise HubError(400, "the YAML front matter is not closed by a line of ---")
    try:
        loaded = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise HubError(400, f"the front matter is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, dict | None):
        raise HubError(400, "the front matter must be a mapping")
    return loaded or {}


def _describe(repo: Repo, commit: Commit, listed: list[str], expand: bool) -> list[dict[str, Any]]:
    dates: dict[str, Commit] = {}
    if expand:
        dates = {entry.commit: repo.commit(entry.commit) for entry in commit.tree.values()}
    described = []
    for path in listed:
        entry = commit.tree.get(path)
        below = [entry] if entry else [e for p, e in commit.tree.items() if p.startswith(f"{path}/")]
        if entry:
            item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
            item |= {"lfs": entry.lfs_info()} if entry.lfs else {}
        else:
            oid = hashlib.sha1("".join(sorted(e.oid for e in below)).encode()).hexdigest()
            item = {"type": "directory", "oid": oid, "size": 0, "path": path}
        if expand:
            last = max((dates[e.commit] for e in below), key=lambda c: c.date)
            item["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
        described.append(item)
    return described


def _sibling(path: str, entry: Entry, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    lfs = entry.lfs_info()
    large = {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}} if entry.lfs else {}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid, **large}


def _tags(card: dict[str, Any]) -> list[str]:
    tags = [str(tag) for tag in card["tags"]] if isinstance(card.get("tags"), list) else []
    for key, prefix in (("datasets", "dataset:"), ("base_model", "base_model:"), ("license", "license:")):
        values = card.get(key, [])
        tags += [f"{prefix}{value}" for value in (values if isinstance(values, list) else [values])]
    tags += [str(card[key]) for key in ("library_name", "pipeline_tag") if key in card]
    return tags
