"""Pushing while training: the real client in its own process, a loopback Hub, and faults that it is told to make."""

import json
import shlex
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from cprec_hf import cli
from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.published import published
from cprec_hf.training import base, cpt, pushing
from cprec_hf.training.progress import ProgressLog
from training.runs import BASE, half_written, weights

TRUNK = {"max_steps": 6, "save_steps": 2, "warmup_steps": 3}
PUSH = {"push_to_hub": "true", "hub_model_id": "trunk"}
STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is over waits for its Hub only shortly."""
    monkeypatch.setattr(pushing, "WAITS", (0.1,))
    monkeypatch.setattr(pushing, "LAST_WAITS", (0.1,))


def branches(api: HfApi, repo: str = "local/trunk") -> set[str]:
    return {branch.name for branch in api.list_repo_refs(repo).branches}


def same_run(one: Path, other: Path, *names: str) -> None:
    for name in names:
        for file in STATE if name else ("model.safetensors",):
            assert (one / name / file).read_bytes() == (other / name / file).read_bytes()


def test_faults_and_rotation_lose_no_save_and_change_no_byte(
    flags: Callable[..., list[str]], hub: LoopbackHub, api: HfApi, tmp_path: Path, capsys: Any
) -> None:
    alone = cpt.main(flags("alone", **TRUNK))
    hub.inject("create", "lost")
    hub.inject("lfs_put", "cut")
    hub.inject("commit", 503, 2)
    pushed = cpt.main(flags("pushed", **TRUNK, **PUSH, save_total_limit=1))
    assert weights(pushed) == weights(alone)
    assert [path.name for path in pushed.glob("checkpoint-*")] == ["checkpoint-6"]
    assert not (pushed / pushing.STAGED).exists() and {p.name for p in half_written(pushed)} == {".cprec-hub.json"}
    same_run(pushed, alone, "", "checkpoint-6")

    assert branches(api) == {"main", "checkpoint-2", "trunk-step-4", "trunk-step-6"}
    assert api.model_info("local/trunk").private
    for branch in branches(api) - {"main"}:
        there = Path(api.snapshot_download("local/trunk", revision=branch, cache_dir=tmp_path / "look"))
        here = alone / f"checkpoint-{branch.rpartition('-')[2]}"
        same_run(there, here, ".")
        assert not (there / "training_args.bin").exists()
        ours = {"README.md", "learning_rate.png"}
        assert {p.name for p in there.iterdir()} - ours - {".gitattributes"} == {p.name for p in here.iterdir()} - ours
        assert "learning_rate.png" in (there / "README.md").read_text()
    main = Path(api.snapshot_download("local/trunk", cache_dir=tmp_path / "look"))
    assert weights(main) == weights(alone) and (main / "items.parquet").exists()
    assert not (main / "optimizer.pt").exists()
    said = capsys.readouterr()
    assert "pushed to trunk: checkpoint-2, trunk-step-4, trunk-step-6, main" in said.out
    assert "by hand" not in said.err
    # The run's own folders know where they went, as after a push by hand.
    assert published(str(pushed), hub.url) == ("local/trunk", api.model_info("local/trunk").sha)
    trunk = api.model_info("local/trunk", revision="trunk-step-6").sha
    assert published(str(pushed / "checkpoint-6"), hub.url) == ("local/trunk", trunk)


def test_a_hub_that_is_down_all_the_time_costs_no_run(
    flags: Callable[..., list[str]], hub: LoopbackHub, api: HfApi, capsys: Any
) -> None:
    hub.inject("any", 503, 10_000)
    out = cpt.main(flags("out", **TRUNK, **PUSH, save_total_limit=1))
    hub.clear_faults()
    same_run(out, cpt.main(flags("alone", **TRUNK)), "", "checkpoint-6")
    said = capsys.readouterr()
    assert "the training goes on" in said.out
    assert "4 of 4 pushes failed" in said.err and f"complete in {out}" in said.err
    commands = [line.strip() for line in said.err.splitlines() if line.startswith("  cprec ")]
    staged = out / pushing.STAGED
    assert commands == [
        f"cprec hub push checkpoint {staged / '2' / 'checkpoint-2'} trunk",
        f"cprec hub push checkpoint {staged / '4' / 'checkpoint-4'} trunk",
        f"cprec hub push checkpoint {out / 'checkpoint-6'} trunk",
        f"cprec hub push model {out} trunk",
    ]
    for command in commands:  # they do what they say
        assert cli.main(shlex.split(command)[1:]) == 0
    assert branches(api) == {"main", "checkpoint-2", "trunk-step-4", "trunk-step-6"}


def test_what_the_hub_refuses_for_good_does_not_hold_up_the_rest(
    flags: Callable[..., list[str]], hub: LoopbackHub, api: HfApi, capsys: Any
) -> None:
    hub.inject("commit", 403)
    out = cpt.main(flags("out", **TRUNK, **PUSH))
    assert branches(api) == {"main", "trunk-step-4", "trunk-step-6"}
    said = capsys.readouterr().err
    assert "1 of 4 pushes failed" in said and "may not write there" in said
    assert f"  cprec hub push checkpoint {out / 'checkpoint-2'} trunk\n" in said
    assert not (out / pushing.STAGED).exists()


def test_ctrl_c_in_the_midst_of_a_push_ends_at_once_and_a_resumed_run_makes_it(
    flags: Callable[..., list[str]], hub: LoopbackHub, api: HfApi, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The Hub takes the connection and never answers; the run ends while the push still waits for it."""
    argv = flags("out", **TRUNK, **PUSH)
    asked, ends = threading.Event(), []

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            assert asked.wait(60)
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as server, monkeypatch.context() as patch:
        threading.Thread(target=lambda: (ends.append(server.accept()), asked.set()), daemon=True).start()
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        patch.setattr(ProgressLog, "on_step_end", on_step_end, raising=False)
        with pytest.raises(SystemExit) as done:
            cpt.main(argv)
        ends[0][0].settimeout(60)
        while ends[0][0].recv(65536):  # the other end is gone when this ends: its process was ended
            pass
    out = Path(argv[argv.index("--output_dir") + 1])
    said = capsys.readouterr().err
    assert done.value.code == 130 and "checkpoint-4 is complete; go on with" in said
    commands = [line.strip() for line in said.splitlines() if line.startswith("  cprec ")]
    assert commands == [f"cprec hub push checkpoint {out / f'checkpoint-{step}'} trunk" for step in (2, 4)]

    cpt.main([*argv, "--resume_from_checkpoint", "true"])
    assert branches(api) == {"main", "checkpoint-2", "trunk-step-4", "trunk-step-6"}
    assert next(c.title for c in api.list_repo_commits("local/trunk", revision="trunk-step-4")) == "cpt at step 4"
    assert not (out / pushing.STAGED).exists()


@pytest.mark.parametrize(
    ("strategy", "titles"),
    [("end", ["base at step 3"]), ("every_save", ["base at step 3", "base at step 3", "base at step 2"])],
)
def test_main_holds_the_finished_model_or_each_save_in_turn(
    flags: Callable[..., list[str]], hub: LoopbackHub, api: HfApi, strategy: str, titles: list[str]
) -> None:
    base.main(flags("out", **BASE, **PUSH, save_steps=2, hub_strategy=strategy))
    assert branches(api) == {"main"}
    assert [commit.title for commit in api.list_repo_commits("local/trunk")] == [*titles, "initial commit"]
    assert json.loads(Path(api.hf_hub_download("local/trunk", "cprec.json")).read_text())["schedule"]["step"] == 3


def test_what_cannot_be_pushed_is_said_before_any_work(
    flags: Callable[..., list[str]],
    hub: LoopbackHub,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(match: str, **keys: Any) -> None:
        with pytest.raises(InputError, match=match):
            cpt.main(flags("out", **TRUNK, **{**PUSH, **keys}))
        assert not [*(tmp_path / "out").glob("*")]

    refused("`hub_strategy` is end, every_save or all_checkpoints", hub_strategy="checkpoint")
    refused("`save_only_model` saves none", save_only_model="true")
    refused("`hub_strategy` has no place in cpt without `push_to_hub: true`", push_to_hub=None, hub_strategy="end")
    refused("`hub_model_id`: ", hub_model_id="a/b/c")
    refused("`hub_token` has no place in cpt: a recipe is no place for secrets", hub_token="hf_x")
    refused("the adapter's base .* is a folder here; push that model first", use_peft="true")
    private = Path(shutil.copytree(corpus, tmp_path / "private"))
    facts = json.loads((corpus / "cprec-corpus.json").read_text())
    facts["about"]["redistributable"] = False
    (private / "cprec-corpus.json").write_text(json.dumps(facts))
    refused("may not be published again", corpus=private, hub_private_repo="false")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    refused("the Hub refuses the token")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    refused("needs a token; set HF_TOKEN")
