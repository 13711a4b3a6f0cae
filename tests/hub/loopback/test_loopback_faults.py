"""Faults on demand, seen by the real client: what was not carried out left nothing, what was lost is there."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.loopback_faults import Faults


@pytest.fixture
def ada(hub: LoopbackHub) -> HfApi:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("ada/r")
    hub.seen.clear()
    return api


def push(api: HfApi, name: str = "a.txt", content: bytes = b"a") -> str:
    return api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="ada/r").oid


@pytest.mark.parametrize("fault", [500, 503, 429, 413, 418])
def test_a_status_is_answered_and_the_commit_not_carried_out(hub: LoopbackHub, ada: HfApi, fault: int) -> None:
    hub.inject("commit", fault)
    with pytest.raises(HfHubHTTPError, match="an injected fault") as raised:
        push(ada)
    headers = raised.value.response.headers
    assert raised.value.response.status_code == fault
    assert headers.get("Retry-After") == ("0" if fault in (429, 503) else None)
    assert ada.list_repo_files("ada/r") == [".gitattributes"]
    push(ada)
    assert ada.list_repo_files("ada/r") == [".gitattributes", "a.txt"] and hub.seen["commit"] == 2


@pytest.mark.parametrize(("fault", "there"), [("cut", False), ("lost", True)])
def test_a_cut_commit_is_not_there_and_a_lost_one_is(hub: LoopbackHub, ada: HfApi, fault: str, there: bool) -> None:
    hub.inject("commit", fault)
    with pytest.raises(httpx2.TransportError):
        push(ada)
    assert ("a.txt" in ada.list_repo_files("ada/r")) == there


@pytest.mark.parametrize("fault", ["cut", "lost"])
def test_a_refusal_does_not_arrive_either(hub: LoopbackHub, ada: HfApi, fault: str) -> None:
    hub.inject("create_branch", fault)
    with pytest.raises(httpx2.TransportError):
        ada.create_branch("ada/r", branch="main")
    hub.inject("resolve", fault)
    with pytest.raises(httpx2.TransportError):
        httpx2.get(f"{hub.url}/ada/r/resolve/main/none.txt")


def test_a_large_file_cut_in_its_middle_is_sent_again(hub: LoopbackHub, ada: HfApi, waits: list[float]) -> None:
    content = bytes(range(256)) * 20_000
    hub.inject("lfs_put", "cut")
    hub.inject("lfs_put", 503)
    hub.inject("lfs_put", "lost")
    push(ada, "w.safetensors", content)
    assert hub.seen["lfs_put"] == 4 and len(waits) == 3
    (entry,) = ada.get_paths_info("ada/r", "w.safetensors")
    assert entry.lfs.sha256 == hashlib.sha256(content).hexdigest()
    objects = hub._server.hub.store.repo("models", "ada/r").folder / "objects"
    assert not list(objects.glob(".*"))


def test_a_download_cut_in_its_middle_resumes_where_it_stopped(
    hub: LoopbackHub, ada: HfApi, tmp_path: Path, waits: list[float]
) -> None:
    content = bytes(range(256)) * 20_000
    push(ada, "w.safetensors", content)
    hub.seen.clear()
    hub.inject("resolve", "cut", times=2)
    where = {"endpoint": hub.url, "token": hub.token, "cache_dir": tmp_path / "cache"}
    assert Path(hf_hub_download("ada/r", "w.safetensors", **where)).read_bytes() == content
    assert (hub.seen["resolve"], hub.seen["head"], len(waits)) == (3, 1, 2)


def test_what_a_client_asks_before_a_download_can_fail_too(
    hub: LoopbackHub, ada: HfApi, tmp_path: Path, waits: list[float]
) -> None:
    push(ada)
    where = {"endpoint": hub.url, "token": hub.token, "cache_dir": tmp_path / "cache"}
    hub.inject("head", "cut")
    with pytest.raises(httpx2.TransportError):
        hf_hub_download("ada/r", "a.txt", **where)
    hub.seen.clear()
    hub.inject("head", 503)
    assert Path(hf_hub_download("ada/r", "a.txt", **where)).read_bytes() == b"a"
    assert (hub.seen["head"], hub.seen["resolve"]) == (2, 1)


def test_injections_queue_and_any_meets_every_kind(hub: LoopbackHub, ada: HfApi) -> None:
    hub.inject("commit", 500, times=2)
    hub.inject("any", 502)
    hub.inject("commit", 507)

    def status(call: Callable[[], object]) -> int:
        with pytest.raises(HfHubHTTPError) as raised:
            call()
        return raised.value.response.status_code

    assert status(ada.whoami) == 502
    assert [status(lambda: push(ada)) for _ in range(3)] == [500, 500, 507]
    push(ada)
    assert hub.seen["whoami"] == 1 and hub.seen["commit"] == 4


def test_what_cannot_be_injected_is_said(hub: LoopbackHub) -> None:
    with pytest.raises(InputError, match=r"no requests of kind 'comit'; choose any or one of .*commit, commits"):
        hub.inject("comit", 500)
    for fault in (200, 600, "gone"):
        with pytest.raises(InputError, match="a fault is a status from 400 to 599, cut or lost"):
            hub.inject("commit", fault)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least once, not 0 times"):
        hub.inject("commit", 500, times=0)
    assert "commit" not in hub.seen and HfApi(endpoint=hub.url, token=hub.token).whoami()["name"] == "ada"


def test_each_fault_is_met_once() -> None:
    faults = Faults({"a", "b"})
    faults.inject("a", 500)
    faults.inject("any", "cut")
    faults.inject("a", "lost")
    assert [faults.meet(kind) for kind in "abaa"] == [500, "cut", "lost", None]
    assert faults.seen == {"a": 3, "b": 1}
