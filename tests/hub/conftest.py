"""A loopback Hub with two users, and real client processes that know it only by their environment."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.hub.loopback import LoopbackHub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A running loopback Hub; `hub.env` is Ada's."""
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_ada_secret", "bob": "hf_bob_secret"}) as hub:
        yield hub


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Callable[..., Any]:
    """`client(code, *args, **env)`: run code in a fresh process and a fresh cache; returns the JSON it printed last."""

    def run(code: str, *args: object, **env: str) -> Any:
        outside = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            env={**os.environ, **hub.env, **outside, **env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "_secret" not in done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def whole() -> Callable[[Path], dict[str, dict[str, list[str]]]]:
    """`whole(root)` reads a loopback Hub's disk by its documented layout alone, and finds every commit whole.

    Returns: repo (`models/ada/r`) -> branch or tag -> the titles of its commits, newest first.
    """

    def read(root: Path) -> dict[str, dict[str, list[str]]]:
        found = [path for path in root.glob("repos/*/*/*") if not path.name.startswith(".")]
        return {path.relative_to(root / "repos").as_posix(): _read_repo(path) for path in found}

    return read


def _read_repo(folder: Path) -> dict[str, list[str]]:
    assert json.loads((folder / "repo.json").read_text())["visibility"] in ("public", "private")
    for stored in folder.glob("objects/*/*"):
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == stored.name
    refs = json.loads((folder / "refs.json").read_text())
    titles: dict[str, list[str]] = {}
    for name, commit_id in {**refs["branches"], **refs["tags"]}.items():
        titles[name] = []
        while commit_id is not None:
            commit = json.loads((folder / "commits" / f"{commit_id}.json").read_text())
            assert commit["id"] == commit_id
            for entry in commit["tree"].values():
                content = (folder / "objects" / entry["sha256"][:2] / entry["sha256"]).read_bytes()
                assert len(content) == entry["size"]
                if not entry["lfs"]:
                    assert hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == entry["oid"]
            titles[name].append(commit["title"])
            commit_id = commit["parent"]
    return titles


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a client would have waited between its tries; it does not. Threads of earlier tests sleep as ever."""
    sleep, older = time.sleep, set(threading.enumerate()) - {threading.current_thread()}
    slept: list[float] = []

    def note(seconds: float) -> None:
        (sleep if threading.current_thread() in older else slept.append)(seconds)

    monkeypatch.setattr("time.sleep", note)
    return slept
