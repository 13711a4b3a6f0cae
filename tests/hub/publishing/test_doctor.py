"""The check-up: what is fit is said so, what is not says what to do, and no token is shown."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

from cprec_hf.hub import kinds
from cprec_hf.hub.doctor import diagnose
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import publish

from .folders import corpus, model


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
    assert found["`corpus` ada/c"] == (True, "a repo") and found["`model_name_or_path`"] == (True, "a folder here")


def test_what_is_not_fit_is_said(ada: HfApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = look(ada, tmp_path, corpus="ada/none", init_from="outputs/no/cpt", output_dir=str(tmp_path / "file" / "o"))
    assert found["`corpus` ada/none"][0] is False and "no dataset repo" in found["`corpus` ada/none"][1]
    assert found["`init_from` outputs/no/cpt"] == (False, "no such folder; run the stage that makes it first")
    assert found["`output_dir`"][0] is False and "choose another folder" in found["`output_dir`"][1]


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


def test_a_hub_out_of_reach(tmp_path: Path, waits: list[float]) -> None:
    found = look(HfApi(endpoint="http://127.0.0.1:9", token="hf_x_secret"), tmp_path)
    ok, said = found["endpoint http://127.0.0.1:9"]
    assert not ok and "check HF_ENDPOINT" in said
