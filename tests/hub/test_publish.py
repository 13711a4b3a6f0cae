"""Pushing a folder: one commit that makes the revision hold exactly the folder, and nothing that must not leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import files_to_push

Client = Callable[..., Any]
PUSH = """
    import json, sys
    from pathlib import Path
    from cprec_hf.errors import InputError
    from cprec_hf.hub.publish import push_folder

    kwargs = {"repo_type": "model", "message": "a push", **json.loads(sys.argv[3])}
    try:
        print(json.dumps(push_folder(sys.argv[1], sys.argv[2], **kwargs).oid))
    except InputError as error:
        print(json.dumps({"error": str(error)}))
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def push(client: Client, folder: Path, repo: str = "ada/m", env: dict[str, str] | None = None, **kw: Any) -> Any:
    return client(PUSH, folder, repo, json.dumps(kw), **(env or {}))


Client = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    goes = {"config.json": "{}", "model.safetensors": "w", "eval_results/a.yaml": "a"}
    state = {"optimizer.pt": "p", "rng_state.pth": "p", "scheduler.pt": "p"}
    stays = {"training_args.bin": "p", ".env": "HF_TOKEN=x", "checkpoint-7/model.safetensors": "c", ".cache/x": "c"}
    return write(tmp_path / "model", goes | state | stays | {"x.tmp": "t"})


def test_what_is_pushed_and_what_never_is(model: Path) -> None:
    plain = ["config.json", "eval_results/a.yaml", "model.safetensors"]
    assert files_to_push(model) == plain
    assert files_to_push(model, resume_state=True) == sorted([*plain, "optimizer.pt", "rng_state.pth", "scheduler.pt"])


def test_what_cannot_be_pushed_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        files_to_push(tmp_path / "none")
    with pytest.raises(InputError, match="nothing in this folder"):
        files_to_push(write(tmp_path / "a", {"training_args.bin": "p"}))
    with pytest.raises(InputError, match="save them as safetensors"):
        files_to_push(write(tmp_path / "b", {"config.json": "{}", "pytorch_model.bin": "p"}), resume_state=True)


def test_a_push_is_one_commit_that_mirrors_the_folder(client: Client, hub: LoopbackHub, model: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    first = push(client, model)
    assert api.model_info("ada/m").private
    assert [c.title for c in api.list_repo_commits("ada/m")] == ["a push", "initial commit"]
    assert api.list_repo_files("ada/m") == [".gitattributes", "config.json", "eval_results/a.yaml", "model.safetensors"]
    assert push(client, model) == first == api.model_info("ada/m").sha
    (model / "config.json").unlink()
    write(model, {"tokenizer/vocab.txt": "v"})
    second = push(client, model, message="again")
    files = [".gitattributes", "eval_results/a.yaml", "model.safetensors", "tokenizer/vocab.txt"]
    assert api.list_repo_files("ada/m") == files and len(api.list_repo_commits("ada/m")) == 3
    assert "config.json" in api.list_repo_files("ada/m", revision=first) and second != first


def test_a_revision_is_made_and_main_stays(client: Client, hub: LoopbackHub, model: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    oid = push(client, model, "m", revision="step/100", resume_state=True)
    assert api.list_repo_files("ada/m") == [".gitattributes"]
    assert "optimizer.pt" in api.list_repo_files("ada/m", revision="step/100")
    assert {b.name: b.target_commit for b in api.list_repo_refs("ada/m").branches}["step/100"] == oid
    assert push(client, model, "m", revision="step/100", resume_state=True) == oid


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("ada/m", "", "pushing needs a token|token is missing or refused"),
        ("m", "", "pushing needs a token"),
        ("ada/m", "hf_wrong_secret", "token is missing or refused"),
        ("bob/m", "hf_ada_secret", "may not write there"),
    ],
)
def test_who_may_not_push_is_told(client: Client, model: Path, repo: str, token: str, said: str) -> None:
    told = push(client, model, repo, {"HF_TOKEN": token})["error"]
    assert any(part in told for part in said.split("|")), told


def test_a_private_push_into_a_public_repo_is_refused(client: Client, hub: LoopbackHub, model: Path) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("ada/m", private=False)
    assert "is public" in push(client, model)["error"]
    assert api.list_repo_files("ada/m") == [".gitattributes"]
    assert isinstance(push(client, model, private=False), str)


def test_a_bad_card_and_a_hub_out_of_reach_are_told(client: Client, hub: LoopbackHub, model: Path) -> None:
    unreachable = push(client, model, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "cannot be reached" in unreachable["error"]
    write(model, {"README.md": "---\na: [\n---\n"})
    assert "Invalid metadata in README.md" in push(client, model)["error"]
    assert HfApi(endpoint=hub.url, token=hub.token).list_repo_files("ada/m") == [".gitattributes"]


def test_a_commit_in_between_is_not_overwritten(client: Client, hub: LoopbackHub, model: Path) -> None:
    """Someone commits after the push has looked at the head: the push is refused, and theirs stands."""
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("ada/m", private=True)
    told = client(
        """
        import json, sys
        import huggingface_hub
        from cprec_hf.errors import InputError
        from cprec_hf.hub.publish import push_folder

        class Slow(huggingface_hub.HfApi):
            def list_repo_files(self, *args, **kwargs):
                files = super().list_repo_files(*args, **kwargs)
                self.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="ada/m")
                return files

        huggingface_hub.HfApi = Slow
        try:
            push_folder(sys.argv[1], "ada/m", repo_type="model", message="ours")
        except InputError as error:
            print(json.dumps(str(error)))
        """,
        model,
    )
    assert "someone else committed" in told
    assert api.list_repo_files("ada/m") == [".gitattributes", "theirs.txt"]
