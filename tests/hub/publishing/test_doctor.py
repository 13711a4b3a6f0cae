"""The check-up: what is fit is said so, what is not says what to do, and no token is shown."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi

from cprec_hf.errors import InputError
from cprec_hf.hub import kinds
from cprec_hf.hub.doctor import ROOM, diagnose, refused_write
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import publish

from .folders import corpus, model, trunk


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def look(api: HfApi, tmp_path: Path, **recipe: object) -> dict[str, tuple[bool, str]]:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    found = list(diagnose(path if recipe else None, api))
    assert "_secret" not in "".join(map(str, found))
    return {finding.what.split(" /")[0]: (finding.ok, finding.said) for finding in found}


def test_all_is_fit(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    publish(kinds.plan_corpus(corpus(tmp_path / "c"), "ada/c"), ada)
    model(tmp_path / "base")
    found = look(
        ada, tmp_path, corpus="ada/c", model_name_or_path=str(tmp_path / "base"), output_dir=str(tmp_path / "o")
    )
    assert all(ok for ok, _ in found.values()), found
    assert found[f"endpoint {hub.url}"] == (True, "answers")
    assert found["token"] == (True, "of ada, role write")
    assert found["`corpus` ada/c"] == (True, "a repo, 0.0 GB to download")
    assert found["`model_name_or_path`"] == (True, "a folder here")


def test_what_is_not_fit_is_said(ada: HfApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = {"corpus": "ada/none", "init_from": "outputs/no/cpt", "output_dir": str(tmp_path / "file" / "o")}
    found = look(ada, tmp_path, **given, model_name_or_path="ada/m@v1", model="not an id")
    assert found["`corpus` ada/none"][0] is False and "no dataset repo" in found["`corpus` ada/none"][1]
    assert found["`init_from` outputs/no/cpt"] == (False, "no such folder; run the stage that makes it first")
    assert found["`model_name_or_path` ada/m@v1"] == (False, "a name takes no @; write ada/m, and `model_revision: v1`")
    assert found["`model` not an id"] == (False, "no such folder, and no repo id, which looks like user/name")
    assert found["`output_dir`"][0] is False and "choose another folder" in found["`output_dir`"][1]


def test_a_trunk_at_a_revision_and_a_run_that_pushes(ada: HfApi, tmp_path: Path) -> None:
    folder = trunk(tmp_path / "run")
    branch = publish(kinds.plan_trunk(folder, "ada/it"), ada).branch
    given = {"init_from": f"ada/it@{branch}", "anneal_steps": 5, "output_dir": str(tmp_path / "out")}
    found = look(ada, tmp_path, **given, push_to_hub=True)
    assert all(ok for ok, _ in found.values()), found
    assert found[f"`init_from` ada/it at {branch}"][1].startswith("a repo, ")
    assert found["push model to out"] == (True, "a new repo, private")
    found = look(ada, tmp_path, **{**given, "init_from": "ada/it@none"}, push_to_hub=True, hub_model_id="bob/m")
    assert "that this token may read" in found["`init_from` ada/it at none"][1]
    assert found["push model to bob/m"] == (False, "the token of ada may not write under bob")
    nobody = look(HfApi(endpoint=ada.endpoint, token="hf_of_nobody"), tmp_path, **given, push_to_hub=True)
    assert nobody["token"][0] is False


def test_pushes_need_a_token_that_may_write_there(hub: LoopbackHub, ada: HfApi, tmp_path: Path) -> None:
    folder = str(corpus(tmp_path / "c"))
    entries = [{"kind": "corpus", "folder": folder, "repo": repo} for repo in ("c", "bob/c")]
    entries.append({"kind": "model", "folder": "outputs/none", "repo": "ada/m"})
    found = look(ada, tmp_path, push=entries)
    assert found["push corpus to c"] == (True, "a new repo, private")
    assert found["push corpus to bob/c"] == (False, "the token of ada may not write under bob")
    assert found["push model to ada/m"][0] is False and "run the stage" in found["push model to ada/m"][1]
    wrong = HfApi(endpoint=hub.url, token="hf_wrong_secret")
    assert look(wrong, tmp_path, push=entries)["token"] == (False, "refuses this token; set a valid HF_TOKEN")


def test_a_push_that_the_repo_would_refuse_or_the_hub_not_answer_is_said(
    hub: LoopbackHub, ada: HfApi, tmp_path: Path
) -> None:
    entry = {"kind": "corpus", "folder": str(corpus(tmp_path / "c")), "repo": "ada/c"}
    ada.create_repo("ada/c", repo_type="dataset", private=False)
    ok, said = look(ada, tmp_path, push=[entry])["push corpus to ada/c"]
    assert not ok and said.startswith("the repo is public")
    with pytest.raises(InputError, match="is public"):  # as the push itself finds
        publish(kinds.plan_corpus(Path(entry["folder"]), "ada/c"), ada)
    assert look(ada, tmp_path, push=[entry], public=True)["push corpus to ada/c"][0]
    hub.inject("repo_info", 500, 99)
    assert look(ada, tmp_path, push=[entry])["push corpus to ada/c"] == (False, "status 500; try again later")


def test_a_revision_is_asked_for_where_the_recipe_names_it(ada: HfApi, tmp_path: Path) -> None:
    pushed = publish(kinds.plan_model(model(tmp_path / "m"), "ada/m"), ada)
    ada.create_branch("ada/m", branch="v1")
    for revision in ("v1", pushed.commit):
        found = look(ada, tmp_path, model_name_or_path="ada/m", model_revision=revision)
        assert found[f"`model_name_or_path` ada/m at {revision}"][0]
    ok, said = look(ada, tmp_path, model_name_or_path="ada/m", model_revision="v2")["`model_name_or_path` ada/m at v2"]
    assert not ok and "not found" in said


def test_the_disk_must_hold_what_the_recipe_downloads_and_saves(
    ada: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 x 64 numbers with AdamW's two moments are 49,152 bytes a checkpoint; four stages' worth of them here."""
    pushed = publish(kinds.plan_model(model(tmp_path / "m"), "ada/m"), ada)
    files = ada.model_info("ada/m", revision=pushed.commit, files_metadata=True).siblings
    sizes = {"cache": sum(f.size for f in files), "run": 4 * 64 * 64 * 12}
    recipe = {"model_name_or_path": "ada/m", "max_steps": 25, "save_steps": 10, "output_dir": str(tmp_path / "run")}

    def told(free: int, **changes: object) -> tuple[bool, bool]:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
        found = look(ada, tmp_path, **{**recipe, **changes})
        return found["the Hub cache"][0], found["`output_dir`"][0]

    assert told(ROOM + max(sizes.values())) == (True, True)
    assert sizes["cache"] < sizes["run"] and told(ROOM + sizes["run"] - 1) == (True, False)
    assert told(ROOM + sizes["cache"] - 1) == (False, False)
    assert told(ROOM + sizes["run"] * 3 // 4, save_total_limit=2) == (True, True)
    assert told(ROOM + sizes["run"] // 2, save_total_limit=1) == (True, True)
    assert told(ROOM + sizes["run"] * 3 // 4 - 1, save_total_limit=2)[1] is False
    assert told(ROOM + sizes["run"] - 1, use_peft=True)[1] is True
    branch = {"model_name_or_path": None, "init_from": str(tmp_path / "m"), "anneal_steps": 5, "max_steps": None}
    assert told(ROOM + sizes["run"] // 2, **branch) == (True, True)  # one checkpoint, and the model
    assert told(ROOM + sizes["run"] // 2 - 1, **branch) == (True, False)


@pytest.mark.parametrize(
    ("role", "scopes", "may"),
    [
        ("write", [], True),
        ("fineGrained", [], False),
        ("fineGrained", [("user", "ada", ["repo.content.read"])], False),
        ("fineGrained", [("user", "ada", ["repo.content.read", "repo.write"])], True),
        ("fineGrained", [("user", "bob", ["repo.write"])], False),
        ("fineGrained", [("org", "ada", ["repo.write"])], True),
        ("fineGrained", [("model", "ada/m", ["repo.write"])], True),
        ("fineGrained", [("dataset", "ada/m", ["repo.write"])], False),
        ("fineGrained", [("model", "ada/other", ["repo.write"])], False),
    ],
)
def test_what_a_fine_grained_token_may_write(role: str, scopes: list[tuple[str, str, list[str]]], may: bool) -> None:
    """In the shape of the Hub's own answer to whoami."""
    scoped = [{"entity": {"_id": "0", "type": t, "name": name}, "permissions": granted} for t, name, granted in scopes]
    token = {"displayName": "t", "role": role, "fineGrained": {"global": [], "scoped": scoped}}
    orgs = [{"name": "readers", "roleInOrg": "read"}, {"name": "writers", "roleInOrg": "write"}]
    user = {"name": "ada", "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
    assert (refused_write(user, "ada/m", "model") == "") is may
    assert "may not write under readers" in refused_write(user, "readers/m", "model")
    assert (refused_write(user, "writers/m", "model") == "") is (role == "write")


def test_the_command_ends_with_0_only_where_all_is_fit(
    client: Callable[..., Any], hub: LoopbackHub, tmp_path: Path
) -> None:
    (tmp_path / "read.yaml").write_text("corpus: ada/none\n", encoding="utf-8")
    code = """
    import json, sys
    from cprec_hf.cli import main
    print(json.dumps([main(["hub", "doctor"]), main(["hub", "doctor", "read.yaml"]), main(["hub", "doctor", "none"])]))
    """
    assert client(code) == [0, 1, 2]


def test_a_hub_out_of_reach(tmp_path: Path, waits: list[float]) -> None:
    found = look(HfApi(endpoint="http://127.0.0.1:9", token="hf_x_secret"), tmp_path)
    ok, said = found["endpoint http://127.0.0.1:9"]
    assert not ok and "check HF_ENDPOINT" in said
