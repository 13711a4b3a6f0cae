"""The loopback Hub through the real HfApi over HTTP: every trap of the protocol that the clients notice."""

import http.client
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub


@pytest.fixture
def ada(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.token)


@pytest.fixture
def bob(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.users["bob"])


def status(call: Callable[[], object]) -> int:
    with pytest.raises(HfHubHTTPError) as raised:
        call()
    return raised.value.response.status_code


def content(api: HfApi, tmp_path: Path, path: str, revision: str = "main", repo_type: str = "model") -> bytes:
    fetched = hf_hub_download(
        "ada/r", path, revision=revision, repo_type=repo_type, endpoint=api.endpoint, token=api.token,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    return Path(fetched).read_bytes()


def test_who_one_is(hub: LoopbackHub, ada: HfApi, bob: HfApi) -> None:
    assert (ada.whoami()["name"], bob.whoami()["name"]) == ("ada", "bob")
    assert status(lambda: HfApi(endpoint=hub.url, token="hf_wrong").whoami()) == 401


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_repos_life(ada: HfApi, tmp_path: Path, kind: str) -> None:
    sdk = "gradio" if kind == "space" else None
    url = ada.create_repo("ada/r", repo_type=kind, private=True, space_sdk=sdk)
    assert (url.repo_id, url.repo_type) == ("ada/r", kind)
    assert ada.create_repo("r", repo_type=kind, exist_ok=True, space_sdk=sdk) == url
    assert status(lambda: ada.create_repo("ada/r", repo_type=kind, space_sdk=sdk)) == 409
    info = ada.repo_info("ada/r", repo_type=kind)
    assert info.private and info.author == "ada" and [f.rfilename for f in info.siblings] == [".gitattributes"]
    ada.upload_file(path_or_fileobj=b"hello", path_in_repo="a.txt", repo_id="ada/r", repo_type=kind)
    assert content(ada, tmp_path, "a.txt", repo_type=kind) == b"hello"
    ada.update_repo_settings("ada/r", private=False, repo_type=kind)
    assert not ada.repo_info("ada/r", repo_type=kind, expand=["private"]).private
    ada.move_repo("ada/r", "ada/s", repo_type=kind)
    assert not ada.repo_exists("ada/r", repo_type=kind) and ada.file_exists("ada/s", "a.txt", repo_type=kind)
    ada.delete_repo("ada/s", repo_type=kind)
    assert not ada.repo_exists("ada/s", repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        ada.delete_repo("ada/s", repo_type=kind)


def test_files_of_every_size_and_origin(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    big = bytes(range(256)) * 12_000
    small = tmp_path / "small.txt"
    small.write_text("ünïcode\n")
    sent = {
        "dir/small.txt": small,
        "big.safetensors": io.BytesIO(big),
        "empty.bin": b"",
        "ü €.md": b"#",
    }
    for path, source in sent.items():
        ada.upload_file(path_or_fileobj=source, path_in_repo=path, repo_id="ada/r")
    assert content(ada, tmp_path, "big.safetensors") == big
    assert content(ada, tmp_path, "dir/small.txt") == "ünïcode\n".encode()
    assert content(ada, tmp_path, "empty.bin") == b"" and content(ada, tmp_path, "ü €.md") == b"#"
    large = {f.path: f.lfs is not None for f in ada.list_repo_tree("ada/r", recursive=True) if hasattr(f, "lfs")}
    assert large == {
        ".gitattributes": False, "dir/small.txt": False, "big.safetensors": True, "empty.bin": False, "ü €.md": False,
    }  # fmt: skip


def test_upload_folder_and_its_no_op(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    folder = tmp_path / "up"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "m.safetensors").write_bytes(b"weights")
    first = ada.upload_folder(folder_path=folder, repo_id="ada/r")
    assert ada.upload_folder(folder_path=folder, repo_id="ada/r").oid == first.oid
    (folder / "m.safetensors").write_bytes(b"other weights")
    assert ada.upload_folder(folder_path=folder, repo_id="ada/r").oid != first.oid
    assert content(ada, tmp_path, "m.safetensors", first.oid) == b"weights"
    assert content(ada, tmp_path, "m.safetensors") == b"other weights"


def test_one_commit_adds_deletes_and_copies(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    files = {"a.txt": b"a", "old/1.txt": b"1", "old/2.txt": b"2", "w.safetensors": b"w"}
    ada.create_commit("ada/r", [CommitOperationAdd(p, c) for p, c in files.items()], commit_message="first")
    ada.create_commit(
        "ada/r",
        [
            CommitOperationAdd("b.txt", b"b"),
            CommitOperationDelete("old/"),
            CommitOperationDelete("a.txt"),
            CommitOperationCopy("w.safetensors", "copy.safetensors"),
            CommitOperationCopy("a.txt", "c.txt"),
        ],
        commit_message="second",
        commit_description="in one",
    )
    assert ada.list_repo_files("ada/r") == [".gitattributes", "b.txt", "c.txt", "copy.safetensors", "w.safetensors"]
    assert content(ada, tmp_path, "copy.safetensors") == b"w" and content(ada, tmp_path, "c.txt") == b"a"
    log = ada.list_repo_commits("ada/r")
    assert [commit.title for commit in log] == ["second", "first", "initial commit"]
    assert log[0].message == "in one" and log[0].authors == ["ada"] and len({c.commit_id for c in log}) == 3


def test_a_commit_is_all_or_nothing(ada: HfApi) -> None:
    ada.create_repo("ada/r")
    head = ada.model_info("ada/r").sha
    for operations in (
        [CommitOperationAdd("a.txt", b"a"), CommitOperationDelete("not-there.txt")],
        [CommitOperationAdd("x", b"a"), CommitOperationAdd("x/y", b"a")],
    ):
        with pytest.raises(HfHubHTTPError):
            ada.create_commit("ada/r", operations, commit_message="no")
    assert ada.model_info("ada/r").sha == head and ada.list_repo_files("ada/r") == [".gitattributes"]
    ada.create_commit("ada/r", [CommitOperationAdd("a.txt", b"a")], commit_message="yes", parent_commit=head)
    late = [CommitOperationAdd("b.txt", b"b")]
    assert status(lambda: ada.create_commit("ada/r", late, commit_message="late", parent_commit=head)) == 412


def test_two_clients_at_once_lose_nothing(hub: LoopbackHub, ada: HfApi) -> None:
    ada.create_repo("ada/r")

    def push(i: int) -> None:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.upload_file(path_or_fileobj=b"%d" % i, path_in_repo=f"{i}.safetensors", repo_id="ada/r")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push, range(12)))
    assert len(ada.list_repo_commits("ada/r")) == 13
    assert set(ada.list_repo_files("ada/r")) == {".gitattributes", *(f"{i}.safetensors" for i in range(12))}


def test_branches_and_tags_with_slashes(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    first = ada.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="ada/r").oid
    ada.create_branch("ada/r", branch="runs/7")
    ada.create_tag("ada/r", tag="v1.0/x", revision="runs/7")
    ada.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id="ada/r", revision="runs/7")
    found = {name: content(ada, tmp_path, "a.txt", name) for name in ("main", "runs/7", "v1.0/x", "refs/heads/runs/7")}
    assert found == {"main": b"1", "runs/7": b"2", "v1.0/x": b"1", "refs/heads/runs/7": b"2"}
    refs = ada.list_repo_refs("ada/r")
    assert {b.name for b in refs.branches} == {"main", "runs/7"}
    assert [(t.name, t.target_commit) for t in refs.tags] == [("v1.0/x", first)]
    assert status(lambda: ada.create_branch("ada/r", branch="runs/7")) == 409
    ada.create_branch("ada/r", branch="runs/7", exist_ok=True)
    ada.delete_branch("ada/r", branch="runs/7")
    ada.delete_tag("ada/r", tag="v1.0/x")
    assert {b.name for b in ada.list_repo_refs("ada/r").branches} == {"main"}
    assert status(lambda: ada.delete_branch("ada/r", branch="main")) == 403


def test_repo_revision_and_entry_are_told_apart(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    with pytest.raises(RepositoryNotFoundError):
        ada.model_info("ada/none")
    with pytest.raises(RepositoryNotFoundError):
        ada.model_info("gpt2")
    with pytest.raises(RevisionNotFoundError):
        ada.model_info("ada/r", revision="f" * 40)
    with pytest.raises(RevisionNotFoundError):
        content(ada, tmp_path, "a.txt", "v9")
    with pytest.raises(RemoteEntryNotFoundError) as raised:
        content(ada, tmp_path, "a.txt")
    assert raised.value.response.headers["X-Repo-Commit"] == ada.model_info("ada/r").sha
    with pytest.raises(RemoteEntryNotFoundError):
        list(ada.list_repo_tree("ada/r", "no/such/folder"))


def test_listings_agree_with_what_was_pushed(ada: HfApi) -> None:
    ada.create_repo("ada/d", repo_type="dataset")
    card = "---\ntags:\n- cprec\nlicense: mit\n---\n# d\n"
    files = {"README.md": card.encode(), "cpt/train.parquet": b"p" * 100, "cpt/x/y.txt": b"y"}
    made = ada.create_commit(
        "ada/d", [CommitOperationAdd(p, c) for p, c in files.items()], commit_message="m", repo_type="dataset"
    )
    top = {f.path: type(f).__name__ for f in ada.list_repo_tree("ada/d", repo_type="dataset", expand=True)}
    assert top == {".gitattributes": "RepoFile", "README.md": "RepoFile", "cpt": "RepoFolder"}
    below = list(ada.list_repo_tree("ada/d", "cpt", recursive=True, repo_type="dataset", expand=True))
    assert [f.path for f in below] == ["cpt/train.parquet", "cpt/x", "cpt/x/y.txt"]
    assert {f.last_commit.oid for f in below} == {made.oid} and below[0].size == below[0].lfs.size == 100
    infos = ada.get_paths_info("ada/d", ["cpt", "cpt/x/y.txt", "none"], repo_type="dataset")
    assert [i.path for i in infos] == ["cpt", "cpt/x/y.txt"]
    info = ada.dataset_info("ada/d", files_metadata=True)
    assert {s.rfilename: s.size for s in info.siblings}["cpt/train.parquet"] == 100
    assert set(info.tags) == {"cprec", "license:mit"} and info.card_data.license == "mit"
    assert [d.id for d in ada.list_datasets(author="ada", filter="cprec")] == ["ada/d"]
    assert list(ada.list_datasets(search="nothing-like-it")) == list(ada.list_models()) == []


def test_a_card_that_is_not_yaml_is_refused_before_the_commit(ada: HfApi) -> None:
    ada.create_repo("ada/r")
    for bad in ("---\na: [1\n---\n", "---\n- 1\n---\n", "---\na: 1\n", "---\ntags: one\n---\n"):
        with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
            ada.upload_file(path_or_fileobj=bad.encode(), path_in_repo="README.md", repo_id="ada/r")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        ada.upload_file(path_or_fileobj=b"# no metadata", path_in_repo="README.md", repo_id="ada/r")
    assert len(ada.list_repo_commits("ada/r")) == 2


def test_private_repos_do_not_show(hub: LoopbackHub, ada: HfApi, bob: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r", private=True)
    ada.upload_file(path_or_fileobj=b"s", path_in_repo="s.txt", repo_id="ada/r")
    nobody = HfApi(endpoint=hub.url, token=False)
    for api in (bob, nobody):
        for call in (lambda a: a.model_info("ada/r"), lambda a: content(a, tmp_path, "s.txt")):
            with pytest.raises(RepositoryNotFoundError):
                call(api)
        assert list(api.list_models()) == []
    wrong = HfApi(endpoint=hub.url, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as raised:
        wrong.model_info("ada/r")
    assert not isinstance(raised.value, RepositoryNotFoundError)
    ada.update_repo_settings("ada/r", private=False)
    assert content(nobody, tmp_path, "s.txt") == b"s"
    upload = {"path_or_fileobj": b"x", "path_in_repo": "x.txt", "repo_id": "ada/r"}
    assert status(lambda: bob.upload_file(**upload)) == 403
    assert status(lambda: nobody.upload_file(**upload)) == 401
    assert status(lambda: bob.delete_repo("ada/r")) == 403
    assert status(lambda: bob.create_repo("ada/mine")) == 403


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


def request(hub: LoopbackHub, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", int(hub.url.rsplit(":", 1)[1]), timeout=10)
    connection.request(method, path, body, {"Authorization": f"Bearer {hub.token}", **headers})
    return connection.getresponse()


def test_ranges(hub: LoopbackHub, ada: HfApi) -> None:
    ada.create_repo("ada/r")
    ada.upload_file(path_or_fileobj=b"0123456789", path_in_repo="n.safetensors", repo_id="ada/r")
    ranges = {
        "bytes=2-4": b"234",
        "bytes=7-": b"789",
        "bytes=-2": b"89",
        "bytes=0-99": b"0123456789",
        "bytes=5-99": b"56789",
    }
    for asked, expected in ranges.items():
        got = request(hub, "GET", "/ada/r/resolve/main/n.safetensors", Range=asked)
        assert (got.status, got.read()) == (200 if len(expected) == 10 else 206, expected)
    over = request(hub, "GET", "/ada/r/resolve/main/n.safetensors", Range="bytes=10-")
    assert over.status == 416 and over.headers["Content-Range"] == "bytes */10"
    head = request(hub, "HEAD", "/ada/r/resolve/main/n.safetensors")
    assert head.headers["Content-Length"] == "10" and head.read() == b""


@pytest.mark.parametrize("path", ["../../out", "/abs", "a/../../../out", ".git/config", "a//b", "", "a\nb", "."])
def test_paths_that_leave_a_repo_are_refused(hub: LoopbackHub, ada: HfApi, tmp_path: Path, path: str) -> None:
    import json

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


def test_large_files_must_be_what_was_announced(hub: LoopbackHub, ada: HfApi) -> None:
    import hashlib
    import json

    ada.create_repo("ada/r")
    oid = hashlib.sha256(b"right").hexdigest()
    asked = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": 5}]}).encode()
    batch = "/ada/r.git/info/lfs/objects/batch"
    href = json.loads(request(hub, "POST", batch, asked).read())["objects"][0]["actions"]["upload"]["href"]
    signed = href.removeprefix(hub.url)
    assert request(hub, "PUT", signed, b"wrong").status == 400
    assert request(hub, "PUT", signed.replace(oid, "0" * 64), b"right").status == 403
    line = {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": oid, "size": 5}}
    commit = "\n".join(map(json.dumps, [{"key": "header", "value": {"summary": "s"}}, line])).encode()
    assert request(hub, "POST", "/api/models/ada/r/commit/main", commit).status == 400  # never uploaded
    assert request(hub, "PUT", signed, b"right").status == 200
    assert "actions" not in json.loads(request(hub, "POST", batch, asked).read())["objects"][0]
    assert request(hub, "POST", "/api/models/ada/r/commit/main", commit).status == 200


def test_a_body_that_is_too_large_is_refused(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cprec_hf.hub.loopback_api.MAX_BODY_BYTES", 1000)
    assert request(hub, "POST", "/api/validate-yaml", b"x" * 1001).status == 413


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


def test_cards_push_through_the_real_card_class(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# r\n")
    ada.upload_file(path_or_fileobj=tmp_path / "README.md", path_in_repo="README.md", repo_id="ada/r")
    assert ModelCard(content(ada, tmp_path, "README.md").decode()).data.library_name == "transformers"
    assert ada.model_info("ada/r").library_name == "transformers"
