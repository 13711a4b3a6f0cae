"""Local folders and repos read alike; every way a file can be missing is told apart, and no token is ever printed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.errors import InputError
from cprec_hf.hub.files import local_path, snapshot

TELL = """
    import json, sys
    from cprec_hf.errors import InputError
    from cprec_hf.hub.files import local_path, snapshot

    def tell(what, *args):
        try:
            return what(*args).read_text()
        except InputError as error:
            return str(error)

"""


def test_a_local_folder_gives_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text("{}")
    assert local_path(tmp_path, "sub/a.json") == tmp_path / "sub" / "a.json"
    assert snapshot(str(tmp_path), allow_patterns=["sub/*.json"]) == tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere", "no such folder: './nowhere'"),
        ("/nowhere/at/all", "no such folder"),
        ("~/nowhere-at-all", "no such folder"),
        ("a/b/c", "no such folder"),
        ("no spaces here", "no such folder"),
        ("nowhere/", "no such folder"),
        (Path("user/name"), "no such folder"),
    ],
)
def test_a_path_that_is_not_there_is_no_repo_id(name: str, said: str) -> None:
    for read in (lambda: local_path(name, "x"), lambda: snapshot(name)):
        with pytest.raises(InputError, match=said):
            read()


def test_what_is_wrong_with_a_local_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file cprec\.json"):
        local_path(tmp_path, "cprec.json")
    with pytest.raises(InputError, match="no file here matches"):
        snapshot(tmp_path, allow_patterns=["*.parquet"])
    with pytest.raises(InputError, match="has no revision v1"):
        snapshot(tmp_path, "v1")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        local_path(tmp_path / "file", "x")


def test_a_repo_gives_its_files_at_each_revision(client: Callable[..., Any]) -> None:
    told = client(
        TELL
        + """
    from huggingface_hub import HfApi
    api = HfApi()
    api.create_repo("ada/m", private=True)
    api.create_branch("ada/m", branch="trunk")
    for text, branch in (("one", "main"), ("two", "trunk")):
        done = api.upload_file(
            path_or_fileobj=text.encode(), path_in_repo="a/f.txt", repo_id="ada/m", revision=branch
        )
    oid = done.oid
    folder = snapshot("ada/m", "trunk", "model", ["a/*"])
    print(json.dumps([
        tell(local_path, "ada/m", "a/f.txt"), tell(local_path, "ada/m", "a/f.txt", "trunk"),
        tell(local_path, "ada/m", "a/f.txt", oid), (folder / "a/f.txt").read_text(), folder.name == oid,
    ]))
    """
    )
    assert told == ["one", "two", "two", "two", True]


def test_missing_repo_revision_and_file_are_told_apart(client: Callable[..., Any]) -> None:
    told = client(
        TELL
        + """
    from huggingface_hub import HfApi
    HfApi().create_repo("ada/m", private=True)
    print(json.dumps([
        tell(local_path, "ada/none", "x"), tell(local_path, "ada/m", "x", "v9"), tell(local_path, "ada/m", "x"),
        tell(snapshot, "ada/none"), tell(snapshot, "ada/m", "v9"), tell(snapshot, "ada/m", None, "dataset"),
        tell(snapshot, "ada/m", None, "model", ["*.parquet"]), tell(local_path, "name-alone", "x"),
    ]))
    """
    )
    repo, revision, file, repo2, revision2, kind, pattern, alone = told
    assert "'ada/none' is neither a folder here nor a model repo" in repo == repo2
    assert "model ada/m has no revision 'v9'" in revision == revision2
    assert "model ada/m has no file x at revision main" in file
    assert "'ada/m' is neither a folder here nor a dataset repo" in kind
    assert "no file here matches *.parquet" in pattern
    assert "'name-alone' is neither a folder here nor a model repo" in alone


@pytest.mark.parametrize(
    ("token", "said"), [("hf_wrong_secret", "refuses this token"), ("hf_bob_secret", "is neither a folder here nor")]
)
def test_a_private_repo_needs_its_owners_token(client: Callable[..., Any], token: str, said: str) -> None:
    client('from huggingface_hub import HfApi; HfApi().create_repo("ada/m", private=True); print(0)')
    told = client(
        TELL + '    print(json.dumps([tell(local_path, "ada/m", "x"), tell(snapshot, "ada/m")]))', HF_TOKEN=token
    )
    assert all(said in line for line in told), told


def test_a_hub_out_of_reach_is_said(client: Callable[..., Any]) -> None:
    told = client(TELL + '    print(json.dumps(tell(snapshot, "ada/m")))', HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in told
    told = client(TELL + '    print(json.dumps(tell(snapshot, "ada/m")))', HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in told
