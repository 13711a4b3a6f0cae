"""The loopback Hub's endpoints that move contents: preupload, large files, commit, resolve, and the card's check."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from cprec_hf.hub import loopback_info as info
from cprec_hf.hub.loopback_api import Hub, Request, Response, json_object, route
from cprec_hf.hub.loopback_repo import LFS_FROM_BYTES, LFS_SUFFIXES, HubError, Operation, Repo, check_path

_LFS_TYPE = {"Content-Type": "application/vnd.git-lfs+json"}


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: Hub, request: Request) -> Response:
    """Whether a card's metadata could be read: 400 with `errors` if not, a warning if there is none."""
    content = str(request.json().get("content", ""))
    try:
        card = info.front_matter(content)
        for key in ("tags", "datasets", "configs"):
            if not isinstance(card.get(key, []), list) and not (key == "datasets" and isinstance(card[key], str)):
                raise HubError(400, f'"{key}" must be an array')
    except HubError as error:
        return Response({"errors": [{"message": error.message}], "warnings": []}, 400)
    empty = [] if card else [{"message": "empty or missing yaml metadata in repo card"}]
    return Response({"errors": [], "warnings": empty})


@route("POST", "/api/{T}/{repo}/preupload/{revision}")
def preupload(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """How each file is to be sent, and the hash of what stands at its path now."""
    repo = hub.writable(request, kind, owner, name)
    tree = repo.commit(revision).tree
    files = []
    for file in request.json().get("files", []):
        path = check_path(str(file.get("path")))
        large = path.endswith(LFS_SUFFIXES) or int(file.get("size", 0)) >= LFS_FROM_BYTES
        known = {"oid": tree[path].etag} if path in tree else {}
        files.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **known})
    return Response({"files": files})


@route("POST", "/(datasets/|spaces/|){repo}.git/info/lfs/objects/batch")
def lfs_batch(hub: Hub, request: Request, prefix: str, owner: str, name: str) -> Response:
    """For each large file that is not here yet, the signed address to PUT it to, and the one to confirm it at."""
    kind = prefix.rstrip("/") or "models"
    repo = hub.writable(request, kind, owner, name)
    objects = []
    for asked in request.json().get("objects", []):
        oid, size = str(asked.get("oid")), int(asked.get("size", 0))
        item: dict[str, Any] = {"oid": oid, "size": size}
        if not repo.object_path(oid).is_file():
            path = f"/lfs/{kind}/{repo.id}/{oid}/{size}"
            verify = f"{hub.url}/{prefix}{repo.id}.git/info/lfs/verify"
            item["actions"] = {"upload": {"href": f"{hub.url}{path}/{hub.sign(path)}"}, "verify": {"href": verify}}
        objects.append(item)
    return Response({"transfer": "basic", "objects": objects}, headers=_LFS_TYPE)


@route("PUT", "/lfs/{T}/{repo}/{oid}/{size}/{signature}")
def lfs_put(
    hub: Hub, request: Request, kind: str, owner: str, name: str, oid: str, size: str, signature: str
) -> Response:
    """Take one large file; whoever holds the signed address may send it (no Authorization comes with it)."""
    repo = hub.store.find(kind, f"{owner}/{name}")
    if repo is None or signature != hub.sign(f"/lfs/{kind}/{owner}/{name}/{oid}/{size}"):
        raise HubError(403, "this upload address is not one that was given out")
    repo.put_object(request.chunks, expected=oid, max_bytes=int(size))
    return Response({})


@route("POST", "/(datasets/|spaces/|){repo}.git/info/lfs/verify")
def lfs_verify(hub: Hub, request: Request, prefix: str, owner: str, name: str) -> Response:
    """Whether a large file has arrived whole."""
    asked = request.json()
    file = hub.writable(request, prefix.rstrip("/") or "models", owner, name).object_path(str(asked.get("oid")))
    if not file.is_file() or file.stat().st_size != asked.get("size"):
        raise HubError(404, "this object has not arrived", "EntryNotFound")
    return Response({}, headers=_LFS_TYPE)


@route("POST", "/api/{T}/{repo}/commit/{revision}")
def commit(hub: Hub, request: Request, kind: str, owner: str, name: str, revision: str) -> Response:
    """Commit the lines of an ndjson body to a branch, all of them or none."""
    repo = hub.writable(request, kind, owner, name)
    if request.flag("create_pr"):
        raise HubError(400, "the loopback Hub has no pull requests; commit to a branch")
    lines = [json_object(line) for line in request.body().splitlines() if line.strip()]
    if not lines or lines[0].get("key") != "header":
        raise HubError(400, "the first line of a commit must be its header")
    header = lines[0]["value"]
    if not header.get("summary"):
        raise HubError(400, "a commit needs a summary")
    made = repo.add_commit(
        revision,
        [_operation(repo, line) for line in lines[1:]],
        title=str(header["summary"]),
        message=str(header.get("description") or ""),
        author=str(request.user),
        parent=header.get("parentCommit"),
    )
    prefix = "" if kind == "models" else f"{kind}/"
    return Response(
        {"success": True, "commitOid": made.id, "commitUrl": f"{hub.url}/{prefix}{repo.id}/commit/{made.id}"}
    )


@route("GET", "/(datasets/|spaces/|){repo}/resolve/{revision}/(.+)")
def resolve(hub: Hub, request: Request, prefix: str, owner: str, name: str, revision: str, path: str) -> Response:
    """A file's content at a revision, or the part of it that `Range` asks for."""
    repo = hub.readable(request, prefix.rstrip("/") or "models", owner, name)
    found = repo.commit(revision)
    entry = found.tree.get(path)
    if entry is None:
        raise HubError(404, "Entry not found", "EntryNotFound", found.id)
    headers = {
        "X-Repo-Commit": found.id,
        "ETag": f'"{entry.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    file = repo.object_path(entry.sha256)
    start, end = _range(request.headers.get("range"), entry.size)
    if (start, end) == (0, entry.size):
        return Response(file=file, length=entry.size, headers=headers)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    return Response(status=206, file=file, start=start, length=end - start, headers=headers)


def _range(header: str | None, size: int) -> tuple[int, int]:
    """The bytes asked for, as [start, end). Raises `HubError` 416 if they do not exist."""
    unit, _, spec = (header or "").partition("=")
    first, dash, last = spec.partition("-")
    if unit.strip() != "bytes" or not dash or not (first + last).isdigit():
        return 0, size  # none, or one the standard lets a server ignore
    if not first:
        return max(0, size - int(last)), size
    start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise HubError(416, f"bytes */{size}")
    return start, end


def _operation(repo: Repo, line: dict[str, Any]) -> Operation:
    key, value = line.get("key"), line.get("value", {})
    path = str(value.get("path"))
    if key == "file":
        try:
            content = base64.b64decode(value["content"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise HubError(400, f"{path}: its content is not base64") from None
        check_path(path)
        return Operation("put", path, repo.put_object(iter([content])))
    if key == "lfsFile":
        return Operation("put", path, str(value.get("oid")), large=True)
    if key == "deletedFile":
        return Operation("delete", path)
    if key == "deletedFolder":
        return Operation("delete_folder", path)
    raise HubError(400, f"not an operation of a commit: {key!r}")
