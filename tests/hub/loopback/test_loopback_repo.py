"""One repo of the loopback Hub: contents by hash, git's own hashes, paths and names a repo can hold."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cprec_hf.hub.loopback_repo import HubError, Operation, check_path
from cprec_hf.hub.loopback_store import Store


def test_contents_are_stored_once(tmp_path: Path) -> None:
    repo = Store(tmp_path).create("models", "ada/r", visibility="public")
    before = len(list((repo.folder / "objects").glob("*/*")))
    sha = {repo.put_object(iter([b"same"])) for _ in range(3)}
    assert len(sha) == 1 and len(list((repo.folder / "objects").glob("*/*"))) == before + 1
    with pytest.raises(HubError, match="announced was"):
        repo.put_object(iter([b"sa", b"me"]), expected="0" * 64)
    assert not [p for p in (repo.folder / "objects").iterdir() if p.is_file()]


def test_git_and_lfs_hashes_are_gits_own(tmp_path: Path) -> None:
    """Values from `git hash-object` of the content and of its LFS pointer."""
    repo = Store(tmp_path).create("models", "ada/r", visibility="public")
    sha = repo.put_object(iter([b"hello\n"]))
    plain = repo.entry(Operation("put", "a", sha), "c")
    large = repo.entry(Operation("put", "a", sha, large=True), "c")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize 6\n".encode()
    command = ["git", "hash-object", "--stdin"]
    git = [subprocess.check_output(command, input=data).decode().strip() for data in (b"hello\n", pointer)]
    assert [plain.oid, large.oid] == git and (plain.etag, large.etag) == (plain.oid, sha)
    assert large.lfs_info() == {"oid": sha, "size": 6, "pointerSize": len(pointer)}


@pytest.mark.parametrize(
    "path", ["", ".", "..", "/a", "a/", "a//b", "a/../b", ".git", "x/.git/config", "a\0b", "a" * 1001]
)
def test_paths_a_repo_cannot_hold(path: str) -> None:
    with pytest.raises(HubError):
        check_path(path)
    assert check_path("a b/.gitignore") == "a b/.gitignore"


@pytest.mark.parametrize(
    "name", ["", "a b", "a//b", "/a", "a/", "../a", "refs/pr/1", "refs/heads/x", "0" * 40, "a" * 251]
)
def test_names_a_branch_cannot_have(tmp_path: Path, name: str) -> None:
    repo = Store(tmp_path).create("models", "ada/r", visibility="public")
    with pytest.raises(HubError, match=r"Invalid reference name|not a path") as raised:
        repo.set_ref("branches", name, repo.resolve("main"))
    assert raised.value.status == 400 and set(repo.refs()["branches"]) == {"main"}


def test_a_repo_deleted_during_an_upload_does_not_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    repo = store.create("models", "ada/r", visibility="public")

    def chunks() -> Iterator[bytes]:
        yield b"first"
        store.delete(repo)
        yield b"second"

    with pytest.raises(HubError, match="Repository not found"):
        repo.put_object(chunks())
    with pytest.raises(HubError, match="Repository not found"):
        repo.add_commit("main", [], title="t", message="", author="ada")
    assert not repo.folder.exists() and store.create("models", "ada/r", visibility="public").refs()


def test_no_more_is_taken_than_was_announced(tmp_path: Path) -> None:
    repo = Store(tmp_path).create("models", "ada/r", visibility="public")
    with pytest.raises(HubError, match="larger than the 3 bytes") as raised:
        repo.put_object(iter([b"ab", b"cd"]), max_bytes=3)
    assert raised.value.status == 413
    assert len(repo.put_object(iter([b"ab", b"c"]), max_bytes=3)) == 64
