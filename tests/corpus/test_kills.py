"""SIGKILL `cprec corpus build` and `push` wherever they are, give the same command again, and nobody can tell.

Two kills of a build and one of a push in the suite; CPREC_KILLS=20 kills each of them that often, as `make e2e` does.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi

from cprec_hf.hub.loopback import LoopbackHub

BUILDS, PUSHES = (int(os.environ.get("CPREC_KILLS", often)) for often in ("2", "1"))
REPO = "ada/small"
KILLED = -signal.SIGKILL


class Zygote:
    """See `zygote.py`."""

    def __init__(self, env: dict[str, str], said: Path) -> None:
        self.said = said
        code = Path(__file__).with_name("zygote.py")
        self.process = subprocess.Popen(
            [sys.executable, code], env=os.environ | env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *argv: object, watch: Path | None = None, die: int | None = None) -> int:
        """Start a command; returns its process id."""
        job = {"argv": [*map(str, argv)], "said": str(self.said), "watch": str(watch or "/nowhere"), "die": die}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def end(self) -> tuple[int, int | None]:
        """Wait for the command: exit status, negative for a signal, and the file events it met."""
        status, met = json.loads(self.process.stdout.readline())
        assert status in (0, KILLED), self.said.read_text()
        return status, met


@pytest.fixture(scope="module")
def hub_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills") / "hub"


@pytest.fixture(scope="module")
def hub(hub_root: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(hub_root, {"ada": "hf_ada_secret"}) as hub:
        yield hub


@pytest.fixture(scope="module")
def zygote(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    folder = tmp_path_factory.mktemp("zygote")
    root = str(Path(__file__).parents[2])
    zygote = Zygote({**hub.env, "HF_HOME": str(folder / "home"), "PYTHONPATH": root}, folder / "said.txt")
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait()


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_build_killed_and_started_again(zygote: Zygote, make_config: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "corpus.yaml"
    source = {"users": 30, "unseen_users": 60, "events_per_user": 10, "items_per_domain": 40}
    config = make_config(tmp_path / "unused")
    values = {**config.to_recipe(), "source": {**config.source, **source}, "tokenizer": {"vocab_size": 300}}
    recipe.write_text(yaml.safe_dump({**values, "output": "given by the flag"}))

    def command(out: Path) -> tuple[object, ...]:
        return ("corpus", "build", recipe, "--output", out)

    began = time.monotonic()
    whole = tmp_path / "whole" / "corpus"
    zygote.start(*command(whole), watch=whole.parent)
    status, places = zygote.end()
    longest = time.monotonic() - began
    assert status == 0 and places > 8
    expected, rng, kills, rounds = content(whole), random.Random(0), 0, 0
    assert "cprec-corpus.json" in expected and "figures/overlap.png" in expected
    while kills < BUILDS:
        rounds += 1
        assert rounds < 10 * BUILDS
        out = tmp_path / f"round-{rounds}" / "corpus"
        at_event = rounds % 2 == 1
        process = zygote.start(*command(out), watch=out.parent, die=rng.randint(1, places) if at_event else None)
        if not at_event:
            time.sleep(rng.uniform(0, longest))
            kill(process)
        status, _ = zygote.end()
        if status == 0:
            assert content(out) == expected
            continue
        kills += 1
        assert not out.exists() or content(out) == expected  # killed behind the last rename
        if out.exists():
            shutil.rmtree(out)
        zygote.start(*command(out))
        assert zygote.end()[0] == 0
        assert content(out) == expected
        assert [path.name for path in out.parent.iterdir()] == ["corpus"]


def standing(api: HfApi, cache: Path) -> dict[str, str] | None:
    """What the repo's main holds, downloaded past the cache of the push; None if there is no repo."""
    if not api.repo_exists(REPO, repo_type="dataset"):
        return None
    commit = api.repo_info(REPO, repo_type="dataset").sha
    found = content(Path(api.snapshot_download(REPO, repo_type="dataset", revision=commit, cache_dir=cache)))
    return {name: sha for name, sha in found.items() if name != ".gitattributes"}


def test_a_push_killed_and_started_again(
    zygote: Zygote, hub: LoopbackHub, hub_root: Path, corpus: Path, tmp_path: Path
) -> None:
    """At any moment main holds nothing or all of it, and large files that had arrived are not sent again."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    folder = shutil.copytree(corpus, tmp_path / "corpus")
    command = ("corpus", "push", folder, REPO)
    asked = sum(hub.seen.values())
    zygote.start(*command)
    assert zygote.end()[0] == 0
    requests = sum(hub.seen.values()) - asked
    expected = standing(api, tmp_path / "look")
    tree = api.list_repo_tree(REPO, repo_type="dataset", recursive=True)
    large = {entry.lfs.sha256 for entry in tree if getattr(entry, "lfs", None)}
    assert len(large) >= 7 and requests > 2 * len(large)
    objects = hub_root / "repos" / "datasets" / REPO / "objects"

    rng, kills, rounds = random.Random(1), 0, 0
    while kills < PUSHES:
        rounds += 1
        assert rounds < 10 * PUSHES
        api.delete_repo(REPO, repo_type="dataset")
        asked, moment = sum(hub.seen.values()), rng.randint(1, requests)
        process = zygote.start(*command)
        while sum(hub.seen.values()) - asked < moment and lives(process):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01))
        kill(process)
        status, _ = zygote.end()
        kills += status == KILLED
        found = standing(api, tmp_path / "look")
        assert found in (None, {}, expected)
        arrived = {path.name for path in objects.glob("*/*")} & large
        sent = hub.seen["lfs_put"]
        zygote.start(*command)
        assert zygote.end()[0] == 0
        assert hub.seen["lfs_put"] - sent <= len(large - arrived)
        assert standing(api, tmp_path / "look") == expected
        titles = [commit.title for commit in api.list_repo_commits(REPO, repo_type="dataset")]
        assert titles == ["Corpus small", "initial commit"]
        assert [branch.name for branch in api.list_repo_refs(REPO, repo_type="dataset").branches] == ["main"]
        assert content(folder).keys() - {".cprec-hub.json"} == content(corpus).keys()
