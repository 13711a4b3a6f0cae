"""The loopback Hub's disk.

root/
    .lock                                      held by the process that serves this folder
    moved.json                                 old name -> new name
    repos/<models|datasets|spaces>/<user>/<name>/    see `loopback_repo`
    trash/                                     what is being deleted
"""

from __future__ import annotations

import fcntl
import secrets
import shutil
import threading
from pathlib import Path
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder
from cprec_hf.hub.loopback_repo import (
    DEFAULT_BRANCH,
    LFS_SUFFIXES,
    Commit,
    HubError,
    Operation,
    Repo,
    now,
    read_json,
    write_json,
)


class Store:
    """All repos under one root folder.

    Raises:
        InputError: the folder cannot be written, holds something else, or another process serves it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.lock = threading.RLock()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if (
                any(self.root.iterdir()) and not (self.root / ".lock").exists()
            ):  # files are cleaned away here, see below
                raise InputError(f"{root} holds other files; give the loopback Hub a folder of its own")
            self._lock_file = (self.root / ".lock").open("w")
            for folder in ("repos", "trash"):
                (self.root / folder).mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{root}: the loopback Hub cannot keep its repos there: {error.strerror}") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        except BlockingIOError:
            raise InputError(f"{root}: another loopback Hub serves this folder") from None
        self._moved = self.root / "moved.json"
        self._clean()

    def close(self) -> None:
        """Let another process serve the folder."""
        self._lock_file.close()

    def repos(self, kind: str) -> list[Repo]:
        """All repos of a kind, private ones too, by id."""
        folders = sorted(p.parent for p in (self.root / "repos" / kind).glob("*/*/repo.json"))
        shown = [p for p in folders if not p.name.startswith(".")]
        return [Repo(p, kind, f"{p.parent.name}/{p.name}", self.lock) for p in shown]

    def repo(self, kind: str, repo_id: str) -> Repo | None:
        """The repo of that id, or None. `repo_id` must be valid (`check_repo_id`), so it cannot leave the root."""
        folder = self.root / "repos" / kind / check_repo_id(repo_id)
        return Repo(folder, kind, repo_id, self.lock) if (folder / "repo.json").is_file() else None

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repo of that id, or the one that was moved away from it, or None."""
        moved = read_json(self._moved) if self._moved.exists() else {}
        asked: set[str] = set()
        while (repo := self.repo(kind, repo_id)) is None and repo_id not in asked:  # two moves can make a circle
            asked.add(repo_id)
            repo_id = moved.get(f"{kind}/{repo_id}", repo_id)
        return repo

    def create(self, kind: str, repo_id: str, **settings: Any) -> Repo:
        """A new repo with its first commit, which holds `.gitattributes`. The folder appears whole."""
        folder = self.root / "repos" / kind / check_repo_id(repo_id)
        with self.lock, atomic_folder(folder) as temporary:
            repo = Repo(temporary, kind, repo_id, self.lock)
            (temporary / "objects").mkdir()
            write_json(temporary / "repo.json", {"createdAt": now(), **settings})
            lines = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
            commit_id = secrets.token_hex(20)
            attributes = Operation("put", ".gitattributes", repo.put_object(iter([lines.encode()])))
            tree = {attributes.path: repo.entry(attributes, commit_id)}
            first = Commit(commit_id, None, "initial commit", "", repo.owner, now(), tree)
            repo.save(first, {"branches": {}, "tags": {}}, DEFAULT_BRANCH)
        return Repo(folder, kind, repo_id, self.lock)

    def move(self, repo: Repo, repo_id: str) -> None:
        """Rename a repo. The caller has checked that the new name is free."""
        moved = read_json(self._moved) if self._moved.exists() else {}
        write_json(self._moved, {**moved, f"{repo.kind}/{repo.id}": repo_id})  # no harm while the repo still stands
        target = self.root / "repos" / repo.kind / check_repo_id(repo_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        repo.folder.replace(target)

    def duplicate(self, repo: Repo, repo_id: str, **settings: Any) -> Repo:
        """A second repo with the same history. The caller has checked that the new name is free."""
        folder = self.root / "repos" / repo.kind / check_repo_id(repo_id)
        with self.lock, atomic_folder(folder) as temporary:
            shutil.copytree(repo.folder, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*.tmp"))
            write_json(temporary / "repo.json", {**repo.settings, "createdAt": now(), **settings})
        return Repo(folder, repo.kind, repo_id, self.lock)

    def delete(self, repo: Repo) -> None:
        """Remove a repo: out of sight in one rename, then off the disk."""
        gone = self.root / "trash" / secrets.token_hex(8)
        repo.folder.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _clean(self) -> None:
        """Remove what a killed process left: deleted repos, and files and folders that never got their name."""
        leftovers = [*(self.root / "trash").iterdir(), *self.root.glob(".*.tmp"), *self.root.glob("repos/**/.*.tmp")]
        for path in leftovers:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_repo_id(repo_id: str) -> str:
    """`user/name` as the real client allows it (no `..`, no leading dot), or `HubError` 404 RepoNotFound."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise HubError(404, f"Repository not found: {repo_id!r}", "RepoNotFound") from None
    if repo_id.count("/") != 1:
        raise HubError(404, f"Repository not found: {repo_id!r}", "RepoNotFound")
    return repo_id
