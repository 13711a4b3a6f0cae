"""Contents through the real HfApi over HTTP: files of every size, commits, cards, large files, ranges."""

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    HfFileSystem,
    ModelCard,
)
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import save_file

from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.loopback_repo import LFS_FROM_BYTES

from .calls import content, request, status


def test_files_of_every_size_and_origin(ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    big = bytes(range(256)) * 12_000
    small = tmp_path / "small.txt"
    small.write_text("ünïcode\n")
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"0123456789abcdef" * (LFS_FROM_BYTES // 16))
    sent = {
        "dir/small.txt": small,
        "big.safetensors": io.BytesIO(big),
        "empty.bin": b"",
        "empty.txt": tmp_path / "empty",
        "empty.safetensors": io.BytesIO(b""),
        "large.txt": tmp_path / "large",
        "almost.txt": b"x" * (LFS_FROM_BYTES - 1),
        "ü €.md": b"#",
    }
    for path, source in sent.items():
        ada.upload_file(path_or_fileobj=source, path_in_repo=path, repo_id="ada/r")
    assert content(ada, tmp_path, "big.safetensors") == big
    assert content(ada, tmp_path, "dir/small.txt") == "ünïcode\n".encode()
    assert content(ada, tmp_path, "ü €.md") == b"#"
    assert {content(ada, tmp_path, f"empty.{suffix}") for suffix in ("bin", "txt", "safetensors")} == {b""}
    assert content(ada, tmp_path, "large.txt") == (tmp_path / "large").read_bytes()
    large = {f.path: f.lfs is not None for f in ada.list_repo_tree("ada/r", recursive=True) if hasattr(f, "lfs")}
    assert set(large) == {".gitattributes", *sent}
    assert {path for path in large if large[path]} == {"big.safetensors", "large.txt"}


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


def test_a_card_that_is_not_yaml_is_refused_before_the_commit(ada: HfApi) -> None:
    ada.create_repo("ada/r")
    for bad in ("---\na: [1\n---\n", "---\n- 1\n---\n", "---\na: 1\n", "---\ntags: one\n---\n"):
        with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
            ada.upload_file(path_or_fileobj=bad.encode(), path_in_repo="README.md", repo_id="ada/r")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        ada.upload_file(path_or_fileobj=b"# no metadata", path_in_repo="README.md", repo_id="ada/r")
    assert len(ada.list_repo_commits("ada/r")) == 2


def test_cards_push_through_the_real_card_class(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# r\n")
    ada.upload_file(path_or_fileobj=tmp_path / "README.md", path_in_repo="README.md", repo_id="ada/r")
    assert ModelCard(content(ada, tmp_path, "README.md").decode()).data.library_name == "transformers"
    assert ada.model_info("ada/r").library_name == "transformers"


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


def test_the_clients_that_read_by_range(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    save_file({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, tmp_path / "model.safetensors")
    ada.upload_file(path_or_fileobj=tmp_path / "model.safetensors", path_in_repo="model.safetensors", repo_id="ada/r")
    found = ada.get_safetensors_metadata("ada/r").files_metadata["model.safetensors"].tensors["w"]
    assert (found.dtype, found.shape) == ("F32", [2, 3])
    files = HfFileSystem(endpoint=hub.url, token=hub.token, skip_instance_cache=True)
    assert files.glob("ada/r/*.safetensors") == ["ada/r/model.safetensors"]
    with files.open("ada/r/model.safetensors") as file:
        file.seek(-4, io.SEEK_END)
        assert np.frombuffer(file.read(), np.float32).tolist() == [5.0]


def test_large_files_must_be_what_was_announced(hub: LoopbackHub, ada: HfApi) -> None:
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


def test_no_more_is_taken_of_a_large_file_than_was_announced(hub: LoopbackHub, ada: HfApi) -> None:
    ada.create_repo("ada/r")
    asked = json.dumps({"objects": [{"oid": hashlib.sha256(b"right").hexdigest(), "size": 5}]}).encode()
    answer = json.loads(request(hub, "POST", "/ada/r.git/info/lfs/objects/batch", asked).read())
    signed = answer["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.url)
    assert request(hub, "PUT", signed, b"right and more").status == 413
    assert request(hub, "PUT", signed.replace("/5/", "/500/"), b"right").status == 403
