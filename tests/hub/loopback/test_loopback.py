"""The loopback Hub as a server: where it listens, what it logs, and what it refuses."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.loopback_api import ROUTES, Endpoint

from .calls import content, request, status

FIELDS = [
    "key", "value", "path", "content", "summary", "oid", "size", "objects", "files", "name", "organization", "type",
    "fromRepo", "toRepo", "repository", "visibility", "tag", "startingPoint", "paths",
]  # fmt: skip
ODD = ["..", "%2e%2e", "%2F", "%00", "%ff", "refs%2Fheads%2Fmain", "0" * 64, "", "-", "?", "%2e%2e%2f%2e%2e%2fout"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["../../out", "/abs", "main"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=6,
)
segments = st.tuples(*(st.sampled_from([usual] * 20 + ODD) for usual in ("ada", "r", "main", "a.txt", "1")))
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6).map(lambda one: [one]) | st.lists(
    values, max_size=3
)


def test_it_persists_and_refuses_a_second_server(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    oid = ada.upload_file(path_or_fileobj=b"a", path_in_repo="a.safetensors", repo_id="ada/r").oid
    with pytest.raises(InputError, match="another loopback Hub serves this folder"):
        LoopbackHub(tmp_path / "hub")
    hub.__exit__(None, None, None)
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_new"}) as again:
        api = HfApi(endpoint=again.url, token="hf_new")
        assert api.model_info("ada/r").sha == oid and content(api, tmp_path, "a.safetensors") == b"a"
        port = int(again.url.rsplit(":", 1)[1])
        with pytest.raises(InputError, match=f"cannot listen on port {port}"):
            LoopbackHub(tmp_path / "other", port=port)


def test_it_listens_on_this_machine_only_and_logs_no_token(
    hub: LoopbackHub, ada: HfApi, caplog: pytest.LogCaptureFixture
) -> None:
    assert hub.url.startswith("http://127.0.0.1:") and hub._server.server_address[0] == "127.0.0.1"
    with caplog.at_level(logging.DEBUG):
        ada.create_repo("ada/r")
        ada.upload_file(path_or_fileobj=b"w", path_in_repo="w.safetensors", repo_id="ada/r")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("cprec_hf")]
    assert any("/api/models/ada/r/commit/main" in line for line in ours)
    assert not any(hub.token in line or "/lfs/models" in line for line in ours)


def test_a_body_that_is_too_large_is_refused(hub: LoopbackHub, ada: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    ada.create_repo("ada/r")
    monkeypatch.setattr("cprec_hf.hub.loopback_api.MAX_BODY_BYTES", 1_000_000)
    large = {"path_or_fileobj": b"x" * 5_000_000, "path_in_repo": "x.txt", "repo_id": "ada/r"}
    assert status(lambda: ada.upload_file(**large)) == 413  # the client, still sending, reads the answer
    assert ada.list_repo_files("ada/r") == [".gitattributes"]
    ada.upload_file(**{**large, "path_in_repo": "x.safetensors"})  # large files are not held in memory
    assert ada.list_repo_files("ada/r") == [".gitattributes", "x.safetensors"]


@pytest.mark.parametrize("path", ["../../out", "/abs", "a/../../../out", ".git/config", "a//b", "", "a\nb", "."])
def test_paths_that_leave_a_repo_are_refused(hub: LoopbackHub, ada: HfApi, tmp_path: Path, path: str) -> None:
    ada.create_repo("ada/r")
    lines = [
        {"key": "header", "value": {"summary": "s"}},
        {"key": "file", "value": {"path": path, "content": "YQ==", "encoding": "base64"}},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    assert request(hub, "POST", "/api/models/ada/r/commit/main", body).status == 400
    assert ada.list_repo_files("ada/r") == [".gitattributes"]


@pytest.mark.parametrize("repo", ["..%2F..", "ada%2Fx", "%2e%2e", "ada/..", "../etc"])
def test_repo_names_that_leave_the_root_are_not_found(hub: LoopbackHub, repo: str) -> None:
    for path in (f"/{repo}/r/resolve/main/a", f"/api/models/{repo}/r", f"/api/models/{repo}"):
        assert request(hub, "GET", path).status == 404


@settings(max_examples=150)
@given(st.sampled_from(ROUTES), segments, bodies)
def test_whatever_is_asked_nothing_outside_the_root_or_half_done_comes_of_it(
    hub: LoopbackHub,
    ada: HfApi,
    tmp_path: Path,
    whole: Callable[[Path], object],
    route: tuple[str, re.Pattern[str], Endpoint],
    found: tuple[str, ...],
    body: list[object],
) -> None:
    ada.create_repo("ada/r", exist_ok=True)
    method, pattern, endpoint = route
    pieces = iter(found)
    path = re.sub(r"\(\[\^/\]\+\)|\(\.[+*]\)", lambda _: next(pieces), pattern.pattern)
    path = re.sub(r"\((?:\?:)?([a-z/]+)\|[^)]*\)", r"\1", path).replace("(?:", "").replace(")?", "")
    lines = [{"key": "header", "value": {"summary": "s"}}] if endpoint.__name__ == "commit" else []
    request(hub, method, path, b"\n".join(json.dumps(value).encode() for value in [*lines, *body])).read()
    assert whole(tmp_path / "hub") is not None and [p.name for p in tmp_path.iterdir()] == ["hub"]
    assert ada.whoami()["name"] == "ada"


def test_nothing_is_answered_after_the_end(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_ada"}) as hub:
        api = HfApi(endpoint=hub.url, token="hf_ada")
        assert api.whoami()["name"] == "ada"
    with pytest.raises(httpx2.TransportError):  # though the client kept its connection
        api.create_repo("ada/r")
    with LoopbackHub(tmp_path / "hub") as again:
        assert list(HfApi(endpoint=again.url).list_models()) == []
