"""The loopback Hub's disk: a server killed at any moment has each commit whole or not at all."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cprec_hf.hub.loopback_repo import HubError, Operation, check_path
from cprec_hf.hub.loopback_store import Store

ROOT = Path(__file__).parents[2]
PUSHING = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
from cprec_hf.hub.loopback import LoopbackHub

with LoopbackHub(sys.argv[1], {"ada": "t"}) as hub:
    api = HfApi(endpoint=hub.url, token="t")
    api.create_repo("ada/r", exist_ok=True)
    for i in range(10_000):
        both = [CommitOperationAdd(f"{name}.{kind}", b"%d" % i) for name in "ab" for kind in ("txt", "safetensors")]
        api.create_commit("ada/r", both, commit_message=str(i))
        print(i, flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_leaves_whole_commits(tmp_path: Path, seed: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_XET": "1"}
    server = subprocess.Popen([sys.executable, "-c", PUSHING, tmp_path], env=environment, stdout=subprocess.PIPE)
    assert server.stdout is not None
    for _ in range(random.Random(seed).randint(1, 5)):
        assert server.stdout.readline()
    time.sleep(random.Random(seed).random() / 50)
    server.send_signal(signal.SIGKILL)
    answered = [int(line) for line in server.communicate()[0].split()]
    repo = Store(tmp_path).repo("models", "ada/r")
    assert repo is not None
    head = repo.commit("main")
    contents = {repo.object_path(e.sha256).read_bytes() for p, e in head.tree.items() if p != ".gitattributes"}
    assert contents == {head.title.encode()} and len(head.tree) == 5
    assert int(head.title) >= max(answered, default=0)  # what was answered is there
    assert [c.title for c in repo.history("main")] == [
        *(str(i) for i in range(int(head.title), -1, -1)),
        "initial commit",
    ]


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
