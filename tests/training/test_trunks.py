"""Anneals from, and trunks continued from, revisions of a Hub repo, on a machine that has nothing but their names."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.hub.kinds import plan_model, plan_trunk
from cprec_hf.hub.publish import publish
from cprec_hf.training import anneal, cpt
from cprec_hf.training.trunks import find_start
from training.runs import BRANCH, untimed, weights

RUN = {"warmup_steps": 2, "save_steps": 2, "gradient_accumulation_steps": 2}
ELSEWHERE = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from cprec_hf.hub.kinds import plan_model
from cprec_hf.hub.publish import publish
from cprec_hf.training import anneal, cpt

home, branch, trunk = json.loads(sys.argv[1])
annealed = anneal.main(branch)
cpt.main(trunk)
cache = [p.name for p in Path(home).glob("hub/models--local--trunk/snapshots/*/*")]
pushed = publish(plan_model(annealed, "annealed"))
card = Path(HfApi().snapshot_download(pushed.repo_id, allow_patterns=["README.md", "cprec.json"]))
print(json.dumps([cache, (card / "README.md").read_text(), json.loads((card / "cprec.json").read_text())]))
"""
"""Another machine: an anneal and the trunk itself, both from the Hub, and the annealed model's push."""


def test_another_machine_anneals_and_continues_a_trunk_of_the_hub(
    flags: Callable[..., list[str]], hub_machine: Any, corpus: Path, base_model: Path, tmp_path: Path
) -> None:
    """Taking an anneal leaves the trunk as it was: continued here or there, it ends as the undisturbed run, bit by bit.

    Corpus, base and trunk are repos there, and the cache is empty.
    """
    whole = cpt.main(flags("whole", **RUN, max_steps=6))
    trunk = cpt.main(flags("trunk", **RUN, max_steps=4))
    api = HfApi(endpoint=hub_machine.hub.url, token=hub_machine.hub.token)
    pushed = publish(plan_trunk(trunk / "checkpoint-4", "trunk", endpoint=hub_machine.hub.url), api)
    own = {**BRANCH, "gradient_accumulation_steps": 2, "anneal_steps": 3, "kinds": "all_domain"}
    own |= {"lr_scheduler_kwargs": {"anneal_shape": "cosine"}}
    near = anneal.main(flags("near", **own, init_from=trunk / "checkpoint-4"))

    repos = {"corpus": hub_machine.push(corpus, "corpus", "dataset")[0]}
    model = hub_machine.push(base_model, "tiny")[0]
    start = ["--from", "local/trunk@trunk-step-4"]
    ahead = ["--resume_from_checkpoint", "local/trunk@trunk-step-4"]
    cache, card, record = hub_machine.run(
        ELSEWHERE,
        json.dumps([
            str(hub_machine.home),
            [*flags("far", **own, **repos), *start],
            [*flags("ahead", **RUN, **repos, model_name_or_path=model, max_steps=6), *ahead],
        ]),
    )  # fmt: skip
    far = tmp_path / "far"
    assert weights(far) == weights(near) != weights(trunk) and untimed(far) == untimed(near)
    here = cpt.main([*flags("here", **RUN, max_steps=6), "--resume_from_checkpoint", str(trunk / "checkpoint-4")])
    for continued in (here, tmp_path / "ahead"):
        for file in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert (continued / "checkpoint-6" / file).read_bytes() == (whole / "checkpoint-6" / file).read_bytes()
        assert weights(continued) == weights(whole)
        assert untimed(continued) == untimed(whole)[4:]

    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", "tokenizer.json", "cprec.json"} <= {*cache}
    assert not {"README.md", "learning_rate.png", "items.parquet"} & {*cache}
    local = ModelRecord.load(far)
    assert (local.base, local.base_revision) == ("local/trunk@trunk-step-4", pushed.commit)
    assert local.parents == ["tiny", f"local/trunk@{pushed.commit}"]  # before it left its machine: a folder's name
    assert local.corpus == "local/corpus"
    assert (record["base"], record["base_revision"]) == ("local/trunk@trunk-step-4", pushed.commit)
    assert f"- Base model: local/trunk@trunk-step-4 at commit `{pushed.commit}`" in card
    assert "\nbase_model: local/trunk\n" in card


def test_a_trunk_that_was_pushed_from_here_is_named_by_its_branch(
    flags: Callable[..., list[str]], hub_machine: Any, tmp_path: Path
) -> None:
    trunk = cpt.main(flags("trunk", **RUN, max_steps=2))
    hub = hub_machine.hub
    pushed = publish(plan_trunk(trunk / "checkpoint-2", "trunk", endpoint=hub.url), HfApi(hub.url, hub.token))
    branch = anneal.main(flags("near", **BRANCH, init_from=trunk, gradient_accumulation_steps=2, anneal_steps=1))
    push = plan_model(branch, "annealed", endpoint=hub.url)
    record = json.loads(push.files["cprec.json"])
    assert (record["base"], record["base_revision"]) == ("local/trunk@trunk-step-2", pushed.commit)
    assert f"- Base model: local/trunk@trunk-step-2 at commit `{pushed.commit}`" in push.card("local/annealed", "")


def test_what_a_revision_is_called_and_what_is_no_checkpoint(flags: Callable[..., list[str]], api: HfApi) -> None:
    trunk = cpt.main(flags("trunk", **RUN, max_steps=2))
    commit = publish(plan_trunk(trunk / "checkpoint-2", "trunk"), api).commit
    publish(plan_model(trunk, "trunk"), api)
    api.create_branch("local/trunk", branch="runs/a", revision=commit)
    for revision, name in (
        ("trunk-step-2", "local/trunk@trunk-step-2"),
        ("runs/a", "local/trunk"),
        (commit, "local/trunk"),
    ):
        start = find_start(f"local/trunk@{revision}", "init_from")
        assert (start.name, start.source, start.commit, start.folder.name) == (name, "local/trunk", commit, commit)

    def refused(name: str, match: str) -> None:
        with pytest.raises(InputError, match=f"^`init_from`: .*{match}"):
            find_start(name, "init_from")

    refused("local/trunk@main", "main is no complete checkpoint, .* resume state; it has trunk-step-2$")
    refused("local/trunk@trunk-step-9", "has no revision 'trunk-step-9'")
    refused("local/trunk", "of a Hub repo say which checkpoint, local/trunk@trunk-step-N$")
    refused("local/none@x", "'local/none' is neither a folder here nor a model repo")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_code_in_a_resume_state_is_run(
    flags: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    trunk = cpt.main(flags("trunk", **RUN, max_steps=2))
    torch.save({"state": _Bomb()}, trunk / "checkpoint-2" / file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        anneal.main(flags("out", **BRANCH, init_from=trunk, gradient_accumulation_steps=2, anneal_steps=1))
    assert not (tmp_path / "ran").exists()
