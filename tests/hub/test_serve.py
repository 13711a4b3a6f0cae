"""`cprec hub serve` as a process: the line it prints, how it ends, and that a kill during pushes loses nothing."""

import os
import random
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.serve import serve

ROOT = Path(__file__).parents[2]
TOKEN = "hf_ada_secret"


class Served:
    """A serving process, and what the line it printed sets."""

    def __init__(self, root: Path, users: str = f"ada:{TOKEN}", faults: tuple[str, ...] = ()) -> None:
        flags = [*(f"--user={user}" for user in users.split()), *(f"--fail={fault}" for fault in faults)]
        command = [sys.executable, "-m", "cprec_hf.cli", "hub", "serve", "--root", str(root), *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        word, *pairs = shlex.split(self.process.stdout.readline())
        assert word == "export"
        self.env = dict(pair.split("=", 1) for pair in pairs)
        self.api = HfApi(endpoint=self.env["HF_ENDPOINT"], token=self.env["HF_TOKEN"])

    def end(self, by: signal.Signals) -> tuple[int, str]:
        """Send a signal; the exit status and all that was printed after the line."""
        self.process.send_signal(by)
        return self.process.wait(), "".join(self.process.communicate())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`served(users=..., faults=...)` on one root."""
    made: list[Served] = []

    def start(**given: object) -> Served:
        made.append(Served(tmp_path / "hub", **given))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def test_the_line_sets_up_a_client_and_sigterm_ends_it(served: Callable[..., Served]) -> None:
    one = served(users=f"ada:{TOKEN} bob:hf_bob_secret", faults=("whoami:500:1",))
    assert one.env["HF_TOKEN"] == TOKEN and one.env["HF_HUB_DISABLE_XET"] == "1"
    assert one.env["HF_ENDPOINT"].startswith("http://127.0.0.1:")
    assert "127.0.0.1" in one.env["NO_PROXY"] and one.env["no_proxy"] == one.env["NO_PROXY"]
    with pytest.raises(HfHubHTTPError, match="an injected fault"):
        one.api.whoami()
    assert one.api.whoami()["name"] == "ada"
    assert HfApi(endpoint=one.env["HF_ENDPOINT"], token="hf_bob_secret").whoami()["name"] == "bob"
    one.api.create_repo("ada/r")
    assert one.end(signal.SIGTERM) == (0, "")


def test_ctrl_c_ends_it_too(served: Callable[..., Served]) -> None:
    assert served().end(signal.SIGINT) == (130, "\ncprec: interrupted; nothing was left half-written\n")
    again = served(users="")  # the root is free again; one user is made where none is given
    assert again.api.whoami()["name"] == "local" and len(again.env["HF_TOKEN"]) > 30


@contextmanager
def said(text: str) -> Iterator[None]:
    with pytest.raises(InputError, match=text) as raised:
        yield
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("users", "text"),
    [
        (["hf_secret"], "a user is given as NAME:TOKEN"),
        (["ada:"], "a user is given as NAME:TOKEN"),
        ([":hf_secret"], "a user is given as NAME:TOKEN"),
        (["../x:hf_secret"], "cannot be a user's name"),
        (["a b:hf_secret"], "cannot be a user's name"),
        (["a/b:hf_secret"], "cannot be a user's name"),
        (["ada:hf secret"], "the token of ada must be of visible ASCII"),
        (["ada:hf_sécret"], "the token of ada must be of visible ASCII"),
        (["ada:hf_secret", "ada:hf_secret2"], "ada is given twice"),
        (["ada:hf_secret", "bob:hf_secret"], "two users have the same token"),
    ],
)
def test_a_bad_user_is_told(tmp_path: Path, users: list[str], text: str) -> None:
    with said(text):
        serve(0, tmp_path / "hub", users)
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("commit", "KIND:FAULT:N"),
        ("commit:500", "KIND:FAULT:N"),
        ("commit:500:x", "KIND:FAULT:N"),
        ("commit:500:1:1", "KIND:FAULT:N"),
        ("comit:500:1", "no requests of kind 'comit'"),
        ("commit:200:1", "a status from 400 to 599, cut or lost"),
        ("commit:gone:1", "a status from 400 to 599, cut or lost"),
        ("commit:500:0", "at least once"),
    ],
)
def test_a_bad_fault_is_told_and_nothing_is_served(
    tmp_path: Path, fault: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with said(text):
        serve(0, tmp_path / "hub", ["ada:hf_secret"], [fault])
    assert capsys.readouterr().out == ""
    with LoopbackHub(tmp_path / "hub"):
        pass


def test_a_port_or_a_root_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        port = int(hub.url.rsplit(":", 1)[1])
        with said(f"cannot listen on port {port}: Address already in use"):
            serve(port, tmp_path / "other")
        with said("another loopback Hub serves this folder"):
            serve(0, tmp_path / "hub")
    with said("cannot listen on port 70000: ports are 0 to 65535"):
        serve(70000, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with said("cannot keep its repos there"):
        serve(0, tmp_path / "file")
    with LoopbackHub(tmp_path / "other"):  # what failed holds no lock
        pass


def test_kills_during_pushes_lose_nothing_that_was_answered(
    served: Callable[..., Served],
    tmp_path: Path,
    whole: Callable[[Path], dict[str, dict[str, list[str]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client's waits between its tries
    rng, answered, asked = random.Random(0), ["initial commit"], 0
    for _ in range(8):
        one = served()
        one.api.create_repo("ada/r", exist_ok=True)
        killer = threading.Timer(rng.random() / 20, one.process.kill)
        # What a push raises when its server dies; the second is the client's for a large file.
        with suppress(httpx2.TransportError, RuntimeError):
            while True:
                asked += 1
                files = [f"{name}.{kind}" for name in "ab" for kind in ("txt", "safetensors")]
                adds = [CommitOperationAdd(name, b"%d %d" % (asked, i) * 9000) for i, name in enumerate(files)]
                one.api.create_commit("ada/r", adds, commit_message=str(asked))
                answered.insert(0, str(asked))
                if killer.ident is None:  # at least one push a life
                    killer.start()
        killer.join()
        there = whole(tmp_path / "hub")["models/ada/r"]["main"]
        assert there in (answered, [str(asked), *answered])  # what was on its way is there, or is not
        answered = there
    last = served()
    assert [c.title for c in last.api.list_repo_commits("ada/r")] == answered
    assert last.end(signal.SIGTERM) == (0, "")
    assert not list((tmp_path / "hub").rglob("*.tmp"))
