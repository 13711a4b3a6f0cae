"""Publishing: one commit that makes the branch hold exactly the files, seen by nobody before it is whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants, hf_hub_download

from cprec_hf.errors import InputError
from cprec_hf.hub import kinds
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import Push, publish

from .folders import corpus, metric, model, trunk


def files(**contents: str) -> dict[str, bytes]:
    return {name.replace("__", "/").replace("_", "."): text.encode() for name, text in contents.items()}


def plan(**contents: str) -> Push:
    return Push("model", "ada/m", "model", files(**contents), "a push")


def card(api: HfApi, repo: str = "ada/m", repo_type: str = "model") -> str:
    where = {"repo_type": repo_type, "endpoint": api.endpoint, "token": api.token}
    revision = api.repo_info(repo, repo_type=repo_type).sha
    return Path(hf_hub_download(repo, "README.md", revision=revision, **where)).read_text(encoding="utf-8")


def test_a_push_is_one_commit_that_mirrors_its_files(ada: HfApi) -> None:
    first = publish(plan(config_json="{}", sub__a_txt="a", model_safetensors="w"), ada)
    assert ada.model_info("ada/m").private
    assert [c.title for c in ada.list_repo_commits("ada/m")] == ["a push", "initial commit"]
    assert ada.list_repo_files("ada/m") == [".gitattributes", "config.json", "model.safetensors", "sub/a.txt"]
    again = publish(plan(config_json="{}", sub__a_txt="a", model_safetensors="w"), ada)
    assert again == first and ada.model_info("ada/m").sha == first.commit
    second = publish(plan(sub__a_txt="b", model_safetensors="w"), ada)
    assert ada.list_repo_files("ada/m") == [".gitattributes", "model.safetensors", "sub/a.txt"]
    assert "config.json" in ada.list_repo_files("ada/m", revision=first.commit) and second.commit != first.commit


def test_a_new_branch_appears_whole_and_main_stays(ada: HfApi, tmp_path: Path) -> None:
    pushed = publish(kinds.plan_trunk(trunk(tmp_path / "run"), "m"), ada)
    assert pushed.branch == "trunk-step-4" and ada.list_repo_files("ada/m") == [".gitattributes"]
    names = set(ada.list_repo_files("ada/m", revision="trunk-step-4"))
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"} <= names
    assert "training_args.bin" not in names
    heads = {b.name: b.target_commit for b in ada.list_repo_refs("ada/m").branches}
    assert heads.keys() == {"main", "trunk-step-4"} and heads["trunk-step-4"] == pushed.commit


@pytest.mark.parametrize(
    ("repo", "token", "said"),
    [
        ("ada/m", "hf_wrong_secret", "token is missing or refused"),
        ("ada/m", False, "token is missing or refused"),
        ("bob/m", "hf_ada_secret", "may not write there"),
    ],
)
def test_who_may_not_push_is_told(hub: LoopbackHub, repo: str, token: str | bool, said: str) -> None:
    with pytest.raises(InputError, match=said) as raised:
        publish(Push("model", repo, "model", files(a_txt="a"), "a push"), HfApi(endpoint=hub.url, token=token))
    assert "_secret" not in str(raised.value)


def test_a_private_push_into_a_public_repo_is_refused(ada: HfApi) -> None:
    ada.create_repo("ada/m", private=False)
    with pytest.raises(InputError, match="is public"):
        publish(plan(a_txt="a"), ada)
    assert ada.list_repo_files("ada/m") == [".gitattributes"]
    publish(Push("model", "ada/m", "model", files(a_txt="a"), "a push", private=False), ada)
    assert "a.txt" in ada.list_repo_files("ada/m")


def test_a_push_that_fails_leaves_no_repo_it_made(hub: LoopbackHub, ada: HfApi, waits: list[float]) -> None:
    with pytest.raises(InputError, match=r"Invalid metadata in README\.md"):
        publish(plan(README_md="---\na: [\n---\n"), ada)
    assert not ada.repo_exists("ada/m")
    hub.inject("commit", 500, 50)
    with pytest.raises(InputError, match="status 500; the push changed nothing"):
        publish(plan(a_txt="a"), ada)
    assert not ada.repo_exists("ada/m")
    assert waits == sorted(waits) and len(waits) == 5 and 1 <= waits[0] <= 1.5 and 16 <= waits[-1] <= 24


def test_a_lost_answer_to_create_leaves_no_empty_repo(hub: LoopbackHub, ada: HfApi, waits: list[float]) -> None:
    hub.inject("create", "lost")
    hub.inject("commit", 500, 50)
    with pytest.raises(InputError, match="the push changed nothing"):
        publish(plan(a_txt="a"), ada)
    assert not ada.repo_exists("ada/m")
    ada.create_repo("ada/m", private=True)  # the user's own, empty
    with pytest.raises(InputError, match="the push changed nothing"):
        publish(plan(a_txt="a"), ada)
    assert ada.repo_exists("ada/m")


def test_a_hub_out_of_reach_is_told(waits: list[float]) -> None:
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        publish(plan(a_txt="a"), HfApi(endpoint="http://127.0.0.1:9", token="hf_x"))


def test_a_commit_in_between_is_not_overwritten(hub: LoopbackHub, ada: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone commits after the push has looked at the head: the push is refused, and theirs stands."""
    publish(plan(a_txt="a"), ada)
    listed = ada.list_repo_tree

    def and_then(*args: object, **kwargs: object) -> object:
        found = list(listed(*args, **kwargs))
        monkeypatch.setattr(ada, "list_repo_tree", listed)
        ada.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="ada/m")
        return found

    monkeypatch.setattr(ada, "list_repo_tree", and_then)
    with pytest.raises(InputError, match="someone else committed"):
        publish(plan(a_txt="b"), ada)
    assert ada.list_repo_files("ada/m") == [".gitattributes", "a.txt", "theirs.txt"]


def test_a_lost_answer_makes_no_second_commit(hub: LoopbackHub, ada: HfApi, waits: list[float]) -> None:
    hub.inject("commit", "lost")
    pushed = publish(plan(a_txt="a", w_safetensors="w"), ada)
    assert [c.title for c in ada.list_repo_commits("ada/m")] == ["a push", "initial commit"]
    assert ada.model_info("ada/m").sha == pushed.commit


def test_the_free_section_of_a_card_survives_and_the_rest_is_replaced(ada: HfApi, tmp_path: Path) -> None:
    publish(kinds.plan_corpus(corpus(tmp_path / "c"), "ada/c"), ada)
    first = card(ada, "ada/c", "dataset")
    begin, end = (line for line in first.splitlines() if line.startswith("<!--"))
    assert 'load_dataset("ada/c"' in first
    mine = first.replace(end, f"Ask Ada about it.\n{end}") + "\nwritten elsewhere\n"
    ada.upload_file(path_or_fileobj=mine.encode(), path_in_repo="README.md", repo_id="ada/c", repo_type="dataset")
    publish(kinds.plan_corpus(corpus(tmp_path / "c", seed=8), "ada/c"), ada)
    second = card(ada, "ada/c", "dataset")
    assert second.count("Ask Ada about it.") == 1 and second.index(begin) < second.index("Ask Ada")
    assert "written elsewhere" not in second and "seed 8" in second


def test_records_name_repos_and_commits_not_folders(ada: HfApi, tmp_path: Path) -> None:
    source = publish(kinds.plan_corpus(corpus(tmp_path / "c"), "ada/c"), ada)
    base = publish(kinds.plan_model(model(tmp_path / "base", stage="base"), "ada/base"), ada)
    made = {"corpus": str(tmp_path / "c"), "corpus_revision": None, "base": str(tmp_path / "base")}
    parents = [str(tmp_path / "base"), "/home/someone/older"]
    planned = kinds.plan_model(model(tmp_path / "sft", **made, parents=parents), "ada/sft", endpoint=ada.endpoint)
    record = json.loads(planned.files["cprec.json"])
    assert (record["corpus"], record["corpus_revision"]) == ("ada/c", source.commit)
    assert (record["base"], record["base_revision"]) == ("ada/base", base.commit)
    assert record["parents"] == [f"ada/base@{base.commit}", "older"]
    model(tmp_path / "base", stage="cpt")  # made anew since: no longer what was pushed
    record = json.loads(kinds.plan_model(tmp_path / "sft", "ada/sft", endpoint=ada.endpoint).files["cprec.json"])
    assert (record["base"], record["base_revision"]) == ("base", None)
    publish(planned, ada)
    assert str(tmp_path) not in card(ada, "ada/sft") and "ada/c" in card(ada, "ada/sft")


def test_what_was_pushed_to_one_hub_is_not_named_on_another(
    ada: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def base_of(**options: Any) -> tuple[str, str | None, list[str]]:
        record = json.loads(kinds.plan_model(tmp_path / "sft", "ada/sft", **options).files["cprec.json"])
        return record["base"], record["base_revision"], record["parents"]

    base = model(tmp_path / "base", stage="base")
    model(tmp_path / "sft", base=str(base), base_revision=None, parents=[str(base)])
    first = publish(kinds.plan_model(base, "ada/base"), ada).commit
    here = ("ada/base", first, [f"ada/base@{first}"])
    assert base_of() == ("base", None, ["base"])  # HF_ENDPOINT is the public Hub's
    assert base_of(endpoint=ada.endpoint) == here
    with LoopbackHub(tmp_path / "other", {"bob": "hf_bob_secret"}) as other:
        bob = HfApi(endpoint=other.url, token=other.token)
        assert base_of(endpoint=other.url) == ("base", None, ["base"])
        second = publish(kinds.plan_model(base, "bob/it"), bob).commit
        assert base_of(endpoint=other.url) == ("bob/it", second, [f"bob/it@{second}"])
        monkeypatch.setattr(constants, "ENDPOINT", f"{other.url}/")  # as HF_ENDPOINT would set it
        assert base_of()[0] == "bob/it"
    assert base_of(endpoint=ada.endpoint) == here  # both are remembered
    noted = {"repo_id": "ada/base", "commit": first, "record": "of an older release, which noted no Hub"}
    (base / ".cprec-hub.json").write_text(json.dumps(noted))
    assert base_of(endpoint=ada.endpoint) == ("base", None, ["base"])


PUSHES = """
import sys
from huggingface_hub import HfApi
from cprec_hf.hub.publish import Push, publish
from pathlib import Path
files = {path.name: path for path in Path(sys.argv[1]).iterdir()}
publish(Push("model", "ada/m", "model", files, "a push"))
"""


def test_a_killed_push_goes_on_where_it_was(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    """Large files that had arrived are not sent again, and nothing half-filled was to be seen."""
    folder = tmp_path / "up"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.safetensors").write_bytes((8).to_bytes(8, "little") + b"{}      " + bytes([i]) * 400_000)
    hub.inject("commit", 500, 1000)  # without a Retry-After, so the push waits a second
    env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-c", PUSHES, str(folder)], env=env, stderr=subprocess.DEVNULL)
    while not hub.seen["commit"]:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.clear_faults()
    assert ada.list_repo_files("ada/m") == [".gitattributes"]
    sent = hub.seen["lfs_put"]
    publish(Push("model", "ada/m", "model", {p.name: p for p in folder.iterdir()}, "a push"), ada)
    assert hub.seen["lfs_put"] == sent == 4
    assert len(ada.list_repo_files("ada/m")) == 5


def test_a_metric_is_loaded_by_its_space(client, hub: LoopbackHub, ada: HfApi) -> None:
    shipped = Path(__file__).parents[3] / "cprec_hf" / "metrics"
    for name in ("ranking_at_k", "corpus_leakage"):
        publish(kinds.plan_metric(shipped / name, f"ada/{name}"), ada)
    assert 'evaluate.load("ada/corpus_leakage")' in card(ada, "ada/corpus_leakage", "space")
    assert ada.space_info("ada/ranking_at_k").private and ada.space_info("ada/ranking_at_k").sdk == "gradio"
    found = client(
        """
        import json
        import evaluate
        metric = evaluate.load("ada/ranking_at_k")
        audit = evaluate.load("ada/corpus_leakage", module_type="measurement")
        event = {"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 9}
        asked = {"split": "test", "user_id": "ann", "domain": "Music", "target": "m2", "history": ["m1"]}
        leaks = audit.compute(data=[event], examples=[{**asked, "candidates": ["m2"], "timestamp": 12}], cut=8)
        hits = metric.compute(predictions=[[3.0, 2.0, 1.0]], references=[[0, 1, 0]], k=[1, 2])
        print(json.dumps([hits["hr@2"], leaks["pretraining_after_cut"]]))
        """
    )
    assert found == [1.0, 1]


def test_a_dry_run_lists_and_sends_nothing(hub: LoopbackHub, tmp_path: Path) -> None:
    listed = kinds.plan_metric(metric(tmp_path / "it"), "ada/it").listing()
    assert listed.startswith("metric: space repo ada/it, branch main, private if it is new")
    assert "it.py" in listed and "4 files" in listed
    bare, whole = (kinds.plan_model(model(tmp_path / "m"), name).listing() for name in ("m", "maker/m"))
    sizes = [re.findall(r"README.md +([\d,]+) bytes", text) for text in (bare, whole)]
    assert sizes[0] == sizes[1] != [] and not hub.seen
