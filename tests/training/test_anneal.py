import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers.trainer_pt_utils import safe_globals

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.hub.kinds import plan_trunk
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import publish
from cprec_hf.training import anneal, cpt
from training.runs import BRANCH as ALONE
from training.runs import half_written, interrupt_at, log_lines, untimed, weights

BRANCH = {**ALONE, "gradient_accumulation_steps": 2}
RUN = {"gradient_accumulation_steps": 2, "warmup_steps": 2}
SHAPE = {"anneal_shape": "cosine", "min_lr_ratio": 0.1}


@pytest.fixture
def trunk(flags):
    """Six steps, checkpoints at 1, 5 and 6."""
    return cpt.main(flags("trunk", **RUN, max_steps=6, save_steps=5))


def test_an_anneal_equals_an_uninterrupted_run_step_for_step(flags, trunk):
    whole = cpt.main(flags("whole", **RUN, max_steps=10, lr_scheduler_kwargs={**SHAPE, "num_anneal_steps": 4}))
    branch = anneal.main(
        flags(
            "branch",
            **BRANCH,
            init_from=trunk,
            anneal_steps=4,
            lr_scheduler_kwargs=SHAPE,
            continue_data="true",
        )
    )
    expected, got = untimed(whole), untimed(branch)
    assert [line["phase"] for line in expected] == ["warmup"] * 2 + ["stable"] * 4 + ["anneal"] * 4
    trunks = expected[5]["tokens"]  # what the stage itself has read is counted, on its own
    assert got == [{**line, "tokens": line["tokens"] - trunks} for line in expected[6:]]
    assert ModelRecord.load(branch).tokens == got[-1]["tokens"] > 0
    assert weights(branch) == weights(whole) != weights(trunk)
    record = ModelRecord.load(branch)
    assert (record.stage, record.base) == ("anneal", str(trunk / "checkpoint-6"))
    assert record.parents == [*ModelRecord.load(trunk).parents, str(trunk / "checkpoint-6")]
    assert [record.schedule[f"{p}_steps"] for p in ("warmup", "stable", "anneal")] == [2, 4, 4]


def test_a_pushed_trunk_is_read_with_weights_only_and_branched_from(flags, trunk, tmp_path):
    with LoopbackHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        pushed = publish(plan_trunk(trunk / "checkpoint-5", "trunk", endpoint=hub.url), api)
        found = api.snapshot_download(pushed.repo_id, revision=pushed.branch, cache_dir=tmp_path / "cache")
    there, here = Path(found), trunk / "checkpoint-5"
    pickles = {path.name for path in there.iterdir() if zipfile.is_zipfile(path)}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    for name in pickles:
        with safe_globals():  # as the Trainer does: NumPy's arrays besides tensors
            loaded, expected = (torch.load(folder / name, weights_only=True) for folder in (there, here))
        assert loaded.keys() == expected.keys() and repr(loaded) == repr(expected)
    far, near = (
        anneal.main(flags(name, **BRANCH, init_from=given, anneal_steps=2))
        for name, given in (("far", there), ("near", here))
    )
    assert weights(far) == weights(near) != weights(here)
    assert untimed(far) == untimed(near)


def test_its_own_mixture_is_read_from_its_beginning(flags, trunk):
    """Six steps into the trunk, new data starts with its first row, and a resumed anneal goes on where it stopped."""
    options = {
        **BRANCH,
        "init_from": trunk / "checkpoint-5",
        "anneal_steps": 4,
        "kinds": "all_domain",
        "save_steps": 7,
    }
    branch = anneal.main(flags("branch", **options))
    lines = log_lines(branch)
    assert [line["step"] for line in lines] == [6, 7, 8, 9]
    assert [line["learning_rate"] for line in lines] == sorted((line["learning_rate"] for line in lines), reverse=True)
    # The same rows in a run of their own, from step 0: the same tokens are read.
    alone = cpt.main(flags("alone", **RUN, max_steps=4, kinds="all_domain"))
    assert [line["tokens"] for line in lines] == [line["tokens"] for line in log_lines(alone)]
    assert ModelRecord.load(branch).tokens == lines[-1]["tokens"]


def test_an_interrupted_anneal_resumes_in_its_own_data(flags, trunk, monkeypatch, capsys):
    options = {**BRANCH, "init_from": trunk, "anneal_steps": 4, "kinds": "all_domain", "save_steps": 8}
    whole = anneal.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(9, patch)
        anneal.main(flags("stopped", **options))
    out = whole.parent / "stopped"
    assert "checkpoint-8" in capsys.readouterr().err
    assert half_written(out) == []
    resumed = anneal.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(resumed) == untimed(whole)


def test_an_adapter_goes_on_as_an_adapter(flags):
    trunk = cpt.main(flags("trunk", use_peft="true", lora_r=2, max_steps=4))
    whole = cpt.main(
        flags("whole", use_peft="true", lora_r=2, max_steps=6, lr_scheduler_kwargs={"num_anneal_steps": 2})
    )
    branch = anneal.main(flags("branch", **ALONE, init_from=trunk, anneal_steps=2, continue_data="true"))
    losses = [[line["loss"] for line in untimed(folder)] for folder in (branch, whole)]
    assert losses[0] == losses[1][4:]
    files = [folder / "adapter_model.safetensors" for folder in (branch, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_cannot_be_annealed(flags, trunk):
    def refused(match, name="out", **change):
        with pytest.raises(InputError, match=match):
            anneal.main(flags(name, **{**BRANCH, "init_from": trunk, "anneal_steps": 2} | change))

    refused("give `anneal_steps`", max_steps=9)
    refused("the peak is the trunk's", learning_rate=0.1)
    refused("`anneal_steps` is 0", anneal_steps=0)
    refused("give `anneal_steps`", lr_scheduler_kwargs={"anneal_ratio": 0.5})
    refused("no complete checkpoint", init_from=trunk.parent)
    refused("would be emptied", name="trunk")
    refused("would be emptied", name="trunk/checkpoint-5")
    refused("kinds was None and is .'domain'.; make them equal", continue_data="true", kinds="domain")
    refused("batch was 4 and is 2; make them equal", continue_data="true", gradient_accumulation_steps=1)
    refused("max_length was 160 and is 150", continue_data="true", max_length=150)
    refused("rows_seed was 1 and is 2", continue_data="true", seed=2, data_seed=1)
    refused("the model goes on as the trunk's", lora_r=4)
    refused("the model goes on as the trunk's", dtype="float32")
    refused("the optimizer and its state are the trunk's", weight_decay=0.1)
    assert not (trunk.parent / "out").exists()
    branch = anneal.main(flags("branch", **BRANCH, init_from=trunk, anneal_steps=2))
    refused(r"at step 8, outside its stable phase \(steps 2 to 6\)", init_from=branch)
    linear = cpt.main(flags("linear", lr_scheduler_type="linear", max_steps=2))
    refused("was trained under `linear`", init_from=linear)
    shutil.rmtree(trunk / "checkpoint-6")
    (trunk / "checkpoint-5" / "optimizer.pt").unlink()
    refused("no complete checkpoint")


def test_an_older_trunk_recorded_less_of_its_data(flags, trunk):
    file = trunk / "checkpoint-6" / "cprec.json"
    values = json.loads(file.read_text())
    for key in ("rows_seed", "packing", "max_length"):
        del values["schedule"]["data"][key]
    file.write_text(json.dumps(values))
    options = {**BRANCH, "init_from": trunk, "anneal_steps": 1, "continue_data": "true"}
    assert ModelRecord.load(anneal.main(flags("branch", **options))).tokens > 0
    del values["schedule"]["data"]
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match="it recorded none"):
        anneal.main(flags("out", **options))
