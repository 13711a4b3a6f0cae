"""A repo of the Hub as a push sees it: its branches, what a commit holds, and commits that are made once.

Every request is repeated when the Hub fails in passing (`retry`), so each method bears being carried out twice.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError
from cprec_hf.hub.files import RepoType
from cprec_hf.hub.retry import insist, may_pass

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Source = Path | bytes  # a local file, or content
_KEPT = (".gitattributes",)  # the Hub's own: not deleted when a push has none


@dataclass(frozen=True)
class Remote:
    """One repo."""

    api: HfApi
    repo_id: str
    repo_type: RepoType

    def make(self, *, private: bool) -> bool:
        """Make the repo if there is none; whether it was made here.

        Raises:
            InputError: it is there, public, and a private one was asked for.
        """
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

        def private_there() -> bool | None:
            """Whether the repo is private; None if there is none."""
            with suppress(RepositoryNotFoundError):
                return insist(lambda: self.api.repo_info(self.repo_id, repo_type=self.repo_type)).private
            return None

        tries = itertools.count(1)
        sdk = "gradio" if self.repo_type == "space" else None

        def create() -> None:
            next(tries)
            self.api.create_repo(self.repo_id, repo_type=self.repo_type, private=private, space_sdk=sdk)

        is_private = private_there()
        if is_private is None:
            try:
                insist(create)
                return True
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
            is_private = private_there()
            if next(tries) > 2 and is_private == private:
                return True  # an earlier try made it, and only its answer was lost
        if private and not is_private:
            raise InputError(
                f"{self.repo_type} {self.repo_id} is public; ask for a public push to push there all the same"
            )
        return False

    def remove_if_empty(self) -> None:
        """Remove the repo if it holds nothing but its first commit."""
        commits = self.api.list_repo_commits(self.repo_id, repo_type=self.repo_type)
        if [*self.heads()] == ["main"] and len(list(itertools.islice(commits, 2))) == 1:
            self.api.delete_repo(self.repo_id, repo_type=self.repo_type)

    def heads(self) -> dict[str, str]:
        """Branch -> its commit."""
        refs = insist(lambda: self.api.list_repo_refs(self.repo_id, repo_type=self.repo_type))
        return {branch.name: branch.target_commit for branch in refs.branches}

    def branch(self, name: str, commit: str) -> None:
        """Make a branch at a commit.

        Raises:
            InputError: there is one at another commit.
        """
        insist(
            lambda: self.api.create_branch(
                self.repo_id, branch=name, revision=commit, repo_type=self.repo_type, exist_ok=True
            )
        )
        if self.heads().get(name) != commit:
            raise InputError(f"{self.repo_id}: someone else made branch {name} in this moment; push again")

    def drop_branch(self, name: str) -> None:
        """Remove a branch, if it is there."""
        from huggingface_hub.errors import RevisionNotFoundError

        with suppress(RevisionNotFoundError):
            insist(lambda: self.api.delete_branch(self.repo_id, branch=name, repo_type=self.repo_type))

    def tree(self, commit: str) -> dict[str, tuple[str, bool]]:
        """Path -> the id the Hub knows its content by (see `Content`), and whether it is a large file."""
        from huggingface_hub.hf_api import RepoFile

        entries = insist(
            lambda: list(
                self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit, repo_type=self.repo_type)
            )
        )
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {f.path: (f.lfs.sha256, True) if f.lfs else (f.blob_id, False) for f in files}

    def text(self, name: str, commit: str) -> str:
        """A text file at a commit, "" if it has none of that name."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        try:
            path = insist(
                lambda: hf_hub_download(
                    self.repo_id,
                    name,
                    repo_type=self.repo_type,
                    revision=commit,
                    endpoint=self.api.endpoint,
                    token=self.api.token,
                )
            )
        except RemoteEntryNotFoundError:
            return ""
        return Path(path).read_text(encoding="utf-8", errors="replace")

    def commit(self, branch: str, head: str, files: Mapping[str, Source], message: str) -> str:
        """Let `branch`, whose head is `head`, hold exactly the files, in one commit; returns the commit that does.

        There is none to make if `head` holds them. After a failure the branch is looked at: the commit may have been
        made and only its answer lost, or the client have asked twice.

        Raises:
            InputError: the commit that was made does not hold the files.
        """
        import httpx2
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        wanted = {name: Content.of(source) for name, source in files.items()}
        there = self.tree(head)
        if _holds(there, wanted):
            return head
        adds = [CommitOperationAdd(name, source) for name, source in files.items()]
        deletes = [CommitOperationDelete(name, is_folder=False) for name in sorted({*there} - {*wanted, *_KEPT})]

        def send() -> str:
            try:
                with warnings.catch_warnings():  # a model's items are a data file on purpose
                    warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                    return self.api.create_commit(
                        self.repo_id,
                        operations=[*adds, *deletes],
                        commit_message=message,
                        repo_type=self.repo_type,
                        revision=branch,
                        parent_commit=head,
                    ).oid
            except (HfHubHTTPError, httpx2.TransportError, RuntimeError) as raised:
                error = raised.__cause__ if isinstance(raised, RuntimeError) else raised  # of a large file's upload
                if not isinstance(error, HfHubHTTPError | httpx2.TransportError):
                    raise
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status == 412 or may_pass(error):
                    now = self.heads()[branch]
                    if now != head and _holds(self.tree(now), wanted):
                        return now
                raise error from None

        made = insist(send)
        if not _holds(self.tree(made), wanted):
            raise InputError(f"{self.repo_id}: commit {made[:12]} does not hold what was pushed; push again")
        return made


@dataclass(frozen=True)
class Content:
    """What the Hub knows a file by: the sha256 of a large one, git's id of any other."""

    sha256: str
    git: str

    @classmethod
    def of(cls, source: Source) -> Content:
        """Of a local file or content."""
        sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {size(source)}\0".encode(), usedforsecurity=False)
        for chunk in _chunks(source):
            sha256.update(chunk)
            git.update(chunk)
        return cls(sha256.hexdigest(), git.hexdigest())


def size(source: Source) -> int:
    """In bytes."""
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _chunks(source: Source) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(1024 * 1024):
            yield chunk


def _holds(there: Mapping[str, tuple[str, bool]], wanted: Mapping[str, Content]) -> bool:
    mine = {name: known for name, known in there.items() if name in wanted or name not in _KEPT}
    return mine.keys() == wanted.keys() and all(
        known == (wanted[name].sha256 if large else wanted[name].git) for name, (known, large) in mine.items()
    )
