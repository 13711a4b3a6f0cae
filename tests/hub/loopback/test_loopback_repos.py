"""Repos through the real HfApi over HTTP: made, described, changed, moved, seen by whom they may."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cprec_hf.hub.loopback import LoopbackHub

from .calls import content, status


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
    assert ada.file_exists("ada/s", "a.txt", repo_type=kind)
    ada.delete_repo("ada/s", repo_type=kind)
    assert not ada.repo_exists("ada/s", repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        ada.delete_repo("ada/s", repo_type=kind)


def test_an_old_name_leads_to_a_moved_repo(ada: HfApi, bob: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r")
    push = {"path_in_repo": "w.safetensors", "repo_id": "ada/r"}
    ada.upload_file(path_or_fileobj=b"1", **push)
    ada.move_repo("ada/r", "ada/s")
    assert content(ada, tmp_path, "w.safetensors") == b"1" and ada.model_info("ada/r").id == "ada/s"
    ada.upload_file(path_or_fileobj=b"2", **push)
    assert ada.list_repo_files("ada/s") == [".gitattributes", "w.safetensors"] == ada.list_repo_files("ada/r")
    assert [m.id for m in ada.list_models(author="ada")] == ["ada/s"]
    for call in (lambda: ada.delete_repo("ada/r"), lambda: ada.move_repo("ada/r", "ada/t")):
        assert status(call) == 404  # these mean the repo of this very name
    ada.update_repo_settings("ada/s", private=True)
    assert not bob.repo_exists("ada/r") and ada.repo_exists("ada/r")
    ada.create_repo("ada/r")
    assert ada.list_repo_files("ada/r") == [".gitattributes"] and len(ada.list_repo_files("ada/s")) == 2


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


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_info_says_what_it_is_asked_for(ada: HfApi, kind: str) -> None:
    ada.create_repo("ada/r", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    card = b"---\ntags: [cprec]\nlicense: mit\n---\n# r\n"
    made = ada.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="ada/r", repo_type=kind)
    asked = ["sha", "tags", "cardData", "lastModified", "usedStorage", "siblings", "private"]
    info = ada.repo_info("ada/r", repo_type=kind, expand=asked)
    assert (info.sha, info.private, info.author) == (made.oid, False, None)
    assert info.card_data.license == "mit" and "cprec" in info.tags and info.last_modified is not None
    assert [s.rfilename for s in info.siblings] == [".gitattributes", "README.md"] and info.used_storage > len(card)
    assert ada.repo_info("ada/r", repo_type=kind, expand=["author"]).author == "ada"


def test_private_repos_do_not_show(hub: LoopbackHub, ada: HfApi, bob: HfApi, tmp_path: Path) -> None:
    ada.create_repo("ada/r", private=True)
    ada.upload_file(path_or_fileobj=b"s", path_in_repo="s.txt", repo_id="ada/r")
    nobody = HfApi(endpoint=hub.url, token=False)
    ada.auth_check("ada/r")
    for api in (bob, nobody):
        for call in (
            lambda a: a.model_info("ada/r"),
            lambda a: content(a, tmp_path, "s.txt"),
            lambda a: a.auth_check("ada/r"),
        ):
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


def test_pull_requests_are_refused_in_words(ada: HfApi) -> None:
    ada.create_repo("ada/r")
    push = {"path_or_fileobj": b"a", "path_in_repo": "a.txt", "repo_id": "ada/r"}
    with pytest.raises(HfHubHTTPError, match="no pull requests; commit to a branch"):
        ada.upload_file(**push, create_pr=True)
    with pytest.raises(RevisionNotFoundError):
        ada.upload_file(**push, revision="refs/pr/1")
    assert status(lambda: ada.create_branch("ada/r", branch="refs/pr/1")) == 400
    assert ada.list_repo_refs("ada/r", include_pull_requests=True).pull_requests == []
    assert ada.list_repo_files("ada/r") == [".gitattributes"]
