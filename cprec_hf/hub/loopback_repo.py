"""One repo of the loopback Hub on disk: commits, branches, tags; every content stored once, by its hash.

    <user>/<name>/
        repo.json              visibility, dates, Space SDK
        refs.json              branch and tag names -> commit ids; replacing it IS the commit
        commits/<id>.json      parent, title, author, date and the whole tree: path -> content
        objects/<aa>/<sha256>  contents

Everything is written under a temporary name and renamed, contents first and `refs.json` last, so a commit is there
whole or not at all, whenever the process is killed. Nothing waits for the disk (fsync): what a killed process wrote is
the system's to keep, and surviving a power cut is not this Hub's task.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cprec_hf.files import atomic_file

# What a new repo's .gitattributes sends to large-file storage, as on the public Hub; larger files go there too.
LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".npz", ".parquet", ".png", ".pt", ".pth", ".safetensors", ".zip", ".zst")
LFS_FROM_BYTES = 10 * 1024 * 1024
DEFAULT_BRANCH = "main"


class HubError(Exception):
    """An answer other than success: HTTP status, the client's `X-Error-Code` (empty if none), and a message."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


@dataclass(frozen=True)
class Entry:
    """One file of a tree: its content's sha256 and size, whether it is a large file, and the commit that wrote it."""

    sha256: str
    size: int
    oid: str  # git's blob id: of the content, or of the pointer for a large file
    lfs: bool
    commit: str

    @property
    def etag(self) -> str:
        """What the client compares contents by: sha256 of a large file, git blob id of any other."""
        return self.sha256 if self.lfs else self.oid

    def lfs_info(self) -> dict[str, Any]:
        """The `lfs` object of the tree listings."""
        return {"oid": self.sha256, "size": self.size, "pointerSize": len(_pointer(self.sha256, self.size))}


@dataclass(frozen=True)
class Commit:
    """One commit with its whole tree."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: dict[str, Entry]


@dataclass(frozen=True)
class Operation:
    """One line of a commit: put the object `sha256` at `path` (`large` or not), or delete a file or a folder."""

    kind: Literal["put", "delete", "delete_folder"]
    path: str
    sha256: str = ""
    large: bool = False


class Repo:
    """One repo on disk. Whatever changes `refs.json` or `repo.json` holds the lock."""

    def __init__(self, folder: Path, kind: str, repo_id: str, lock: threading.RLock) -> None:
        self.folder, self.kind, self.id, self._lock = folder, kind, repo_id, lock
        self.owner = repo_id.split("/")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Visibility, creation date, Space SDK. Raises `HubError` RepoNotFound if the repo was deleted meanwhile."""
        return self._read("repo.json")

    def update_settings(self, **changes: Any) -> None:
        """Replace some of the settings."""
        with self._lock:
            write_json(self.folder / "repo.json", {**self.settings, **changes})

    def refs(self) -> dict[str, dict[str, str]]:
        """`{"branches": {name: commit id}, "tags": {...}}`. Raises `HubError` RepoNotFound as `settings` does."""
        return self._read("refs.json")

    def resolve(self, revision: str) -> str:
        """The commit id of a branch, a tag, a full ref or a commit id. Raises `HubError` RevisionNotFound."""
        refs = self.refs()
        for kind, prefix in (("branches", "refs/heads/"), ("tags", "refs/tags/")):
            for name in (revision, revision.removeprefix(prefix)):
                if name in refs[kind]:
                    return refs[kind][name]
        if re.fullmatch("[0-9a-f]{40}", revision) and (self.folder / "commits" / f"{revision}.json").is_file():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, revision: str) -> Commit:
        """The commit a revision stands for. Raises `HubError` RevisionNotFound."""
        stored = read_json(self.folder / "commits" / f"{self.resolve(revision)}.json")
        return Commit(**{**stored, "tree": {path: Entry(**entry) for path, entry in stored["tree"].items()}})

    def history(self, revision: str) -> Iterator[Commit]:
        """A commit and its ancestors, newest first."""
        following: str | None = revision
        while following is not None:
            commit = self.commit(following)
            yield commit
            following = commit.parent

    def object_path(self, sha256: str) -> Path:
        """Where a content lies, if it does. Raises `HubError` for what is no sha256."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise HubError(400, f"not a sha256: {sha256!r}")
        return self.folder / "objects" / sha256[:2] / sha256

    def put_object(self, chunks: Iterator[bytes], expected: str | None = None, max_bytes: int | None = None) -> str:
        """Store a content and return its sha256.

        Raises:
            HubError: it is not the `expected` one (400), is larger than `max_bytes` (413), or the repo is gone (404).
        """
        incoming = self.folder / "objects" / f".{secrets.token_hex(16)}.tmp"
        digest, size = hashlib.sha256(), 0
        try:
            with incoming.open("wb") as out:
                for chunk in chunks:
                    size += len(chunk)
                    if max_bytes is not None and size > max_bytes:
                        raise HubError(413, f"the content is larger than the {max_bytes} bytes announced")
                    digest.update(chunk)
                    out.write(chunk)
            sha256 = digest.hexdigest()
            if expected is not None and sha256 != expected:
                raise HubError(400, f"the content has sha256 {sha256}, announced was {expected}")
            target = self.object_path(sha256)
            target.parent.mkdir(exist_ok=True)
            incoming.replace(target)
        except FileNotFoundError:  # never made anew: a repo deleted during an upload must not come back as a husk
            raise _not_found() from None
        finally:
            incoming.unlink(missing_ok=True)
        return sha256

    def add_commit(
        self,
        branch: str,
        operations: Sequence[Operation],
        *,
        title: str,
        message: str,
        author: str,
        parent: str | None = None,
    ) -> Commit:
        """Commit to a branch, all operations or none.

        Raises:
            HubError: no such branch (404 RevisionNotFound), `parent` is no longer the head (412), a file to delete that
                is not there (404 EntryNotFound), a path that is not allowed or both file and folder, or a content that
                was never uploaded (400).
        """
        with self._lock:
            refs = self.refs()
            branch = branch.removeprefix("refs/heads/")
            if branch not in refs["branches"]:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head = refs["branches"][branch]
            if parent is not None and parent != head:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            commit_id = secrets.token_hex(20)
            tree = dict(self.commit(head).tree)
            for operation in operations:
                self._apply(tree, operation, commit_id)
            _refuse_file_as_folder(tree)
            return self.save(Commit(commit_id, head, title, message, author, now(), tree), refs, branch)

    def set_ref(self, kind: Literal["branches", "tags"], name: str, commit: str | None) -> None:
        """Create or delete (`commit` None) a branch or a tag. Raises `HubError`: 409 if it exists, 404 if not."""
        if len(name) > 250 or " " in name or name.startswith("refs/") or re.fullmatch("[0-9a-f]{40}", name):
            raise HubError(400, f"Invalid reference name: {name!r}")
        check_path(name)
        with self._lock:
            refs = self.refs()
            if commit is None:
                if name not in refs[kind]:
                    raise HubError(404, f"no such reference: {name}", "RevisionNotFound")
                if kind == "branches" and name == DEFAULT_BRANCH:
                    raise HubError(403, "Cannot delete the default branch")
                del refs[kind][name]
            elif name in refs[kind]:
                raise HubError(409, f"Reference already exists: {name}")
            else:
                refs[kind][name] = commit
            write_json(self.folder / "refs.json", refs)

    def save(self, commit: Commit, refs: dict[str, dict[str, str]], branch: str) -> Commit:
        """Write a commit and let `branch` of `refs` point to it; the second write is the one that counts."""
        write_json(self.folder / "commits" / f"{commit.id}.json", dataclasses.asdict(commit))
        refs["branches"][branch] = commit.id
        write_json(self.folder / "refs.json", refs)
        return commit

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.folder / name)
        except FileNotFoundError:
            raise _not_found() from None

    def _apply(self, tree: dict[str, Entry], operation: Operation, commit_id: str) -> None:
        path = check_path(operation.path.rstrip("/") if operation.kind == "delete_folder" else operation.path)
        if operation.kind == "put":
            tree[path] = self.entry(operation, commit_id)
            return
        inside = [path] if operation.kind == "delete" else [p for p in tree if p.startswith(f"{path}/")]
        if not inside or inside[0] not in tree:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for found in inside:
            del tree[found]

    def entry(self, operation: Operation, commit_id: str) -> Entry:
        """The tree's entry for a content that was stored before. Raises `HubError` 400 if it was not."""
        file = self.object_path(operation.sha256)
        if not file.is_file():
            raise HubError(400, f"{operation.path}: its content was never uploaded")
        size = file.stat().st_size
        content = _pointer(operation.sha256, size) if operation.large else file.read_bytes()
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Entry(operation.sha256, size, oid, operation.large, commit_id)


def check_path(path: str) -> str:
    """A relative path of plain segments, or `HubError` 400: not absolute, no `..` or `.git`, no control characters."""
    segments = path.split("/")
    if len(path) > 1000 or any(s in ("", ".", "..", ".git") or any(ord(c) < 32 for c in s) for s in segments):
        raise HubError(400, f"not a path a repo can hold: {path!r}")
    return path


def now() -> str:
    """The time, as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse_file_as_folder(tree: dict[str, Entry]) -> None:
    for path in tree:
        for parent in Path(path).parents:
            if parent.as_posix() in tree:
                raise HubError(400, f"{parent.as_posix()} cannot be a file and a folder")


def _not_found() -> HubError:
    return HubError(404, "Repository not found", "RepoNotFound")


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def read_json(path: Path) -> Any:
    """A JSON file's value."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
