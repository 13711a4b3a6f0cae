"""A loopback Hub with two users, and real client processes that know it only by their environment."""

import json
import os
import subprocess
import sys
import textwrap
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
