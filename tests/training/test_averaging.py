"""The finished model as the mean of the run's last checkpoints, against NumPy's mean of the files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt
from cprec_hf.training.averaging import average_weights
from training.runs import BASE, BRANCH, half_written, interrupt_at, weights

RUN = {"max_steps": 7, "save_steps": 2, "learning_rate": 0.02}


def mean_of(run, steps, name="model.safetensors"):
    """Every tensor's mean over a run's checkpoints, float64 sums."""
    files = [load_file(run / f"checkpoint-{step}" / name) for step in steps]
    return {key: np.mean([f[key].astype(np.float64) for f in files], axis=0).astype(np.float32) for key in files[0]}


def same(got, expected):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=np.spacing(np.abs(value).max()), err_msg=key)


def files_of(run):
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.glob("checkpoint-*/*")) if p.suffix != ".md"}


def test_the_finished_model_is_the_mean_and_the_checkpoints_are_as_ever(flags):
    plain, mean = (cpt.main(flags(name, **RUN, average_checkpoints=k)) for name, k in (("plain", None), ("mean", 3)))
    same(load_file(mean / "model.safetensors"), mean_of(mean, [4, 6, 7]))
    assert weights(mean) != weights(plain) == weights(plain / "checkpoint-7")
    kept, twin = files_of(mean), files_of(plain)
    assert {name.split("/")[0] for name in kept} == {f"checkpoint-{step}" for step in (2, 4, 6, 7)}
    told = {name for name in kept if kept[name] != twin[name]}
    assert told == set()  # weights, optimizer, schedule, random states, records: the trunk goes on from what it had
    assert ModelRecord.load(mean).schedule["averaged_steps"] == [4, 6, 7]
    assert "averaged_steps" not in ModelRecord.load(mean / "checkpoint-7").schedule
    assert "| its weights are the mean of those at steps | 4, 6, 7 |" in (mean / "README.md").read_text()
    with safe_open(mean / "model.safetensors", "pt") as f:
        assert f.metadata() == {"format": "pt"}
    assert half_written(mean) == []
    branches = [
        anneal.main(flags(f"{run.name}-annealed", **BRANCH, init_from=run, anneal_steps=2)) for run in (plain, mean)
    ]
    assert weights(branches[0]) == weights(branches[1])  # an anneal branches from the checkpoint, not from the mean


def test_tied_weights_stay_tied(flags):
    from cprec_hf.training import base

    start = base.main(flags("base", **BASE))  # its head is its embeddings
    run = cpt.main(flags("run", **RUN, model_name_or_path=start, average_checkpoints=2))
    model = AutoModelForCausalLM.from_pretrained(run)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    expected = mean_of(run, [6, 7])["model.embed_tokens.weight"]
    np.testing.assert_allclose(model.lm_head.weight.detach().numpy(), expected, rtol=1e-6)
    assert "lm_head.weight" not in load_file(run / "model.safetensors")


def test_an_adapter_and_an_anneal_of_it(flags):
    trunk = cpt.main(flags("trunk", use_peft="true", lora_r=2, **RUN, average_checkpoints=2))
    name = "adapter_model.safetensors"
    same(load_file(trunk / name), mean_of(trunk, [6, 7], name))
    run = anneal.main(
        flags("run", **BRANCH, init_from=trunk, anneal_steps=3, save_steps=1, average_checkpoints=3, save_total_limit=3)
    )
    same(load_file(run / name), mean_of(run, [8, 9, 10], name))
    assert ModelRecord.load(run).schedule["averaged_steps"] == [8, 9, 10]


def test_an_interrupted_run_resumes_to_the_same_mean(flags, monkeypatch):
    options = {**RUN, "average_checkpoints": 3}
    whole = cpt.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(5, patch)
        cpt.main(flags("stopped", **options))
    stopped = whole.parent / "stopped"
    lost = shutil.copytree(stopped, whole.parent / "lost")
    resumed = cpt.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    (lost / "checkpoint-4" / "optimizer.pt").unlink()  # goes on from 2, and makes another checkpoint-4
    assert weights(cpt.main([*flags("lost", **options), "--resume_from_checkpoint", "true"])) == weights(whole)
    again = [*flags("lost", **{**options, "max_steps": 8}), "--resume_from_checkpoint", "true"]
    shutil.rmtree(lost / "checkpoint-6")
    with pytest.raises(InputError, match=r"checkpoint-6 of .*lost is gone or not complete"):
        cpt.main(again)


def test_shards_and_types(tmp_path):
    """Checkpoints in one file or several, in bfloat16, with a counter: sums are not taken in bfloat16."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(5, 3, 4)).astype(np.float32) for name in ("a", "b")}
    for step in range(5):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        tensors = {name: torch.tensor(value[step]).bfloat16() for name, value in values.items()}
        tensors["count"] = torch.tensor([step])
        if step % 2:
            save_file(tensors, folder / "model.safetensors")
        else:
            save_file({"a": tensors["a"]}, folder / "model-00001-of-00002.safetensors")
            save_file({"b": tensors["b"], "count": tensors["count"]}, folder / "model-00002-of-00002.safetensors")
            index = {name: f"model-0000{1 + (name != 'a')}-of-00002.safetensors" for name in tensors}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        (folder / "trainer_state.json").write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.save({}, folder / name)
    final = shutil.copytree(tmp_path / "checkpoint-4", tmp_path / "final")
    average_weights(tmp_path, range(5), final)
    got = {}
    for file in final.glob("*.safetensors"):
        with safe_open(file, "pt") as f:
            got |= {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    for name, value in values.items():
        rounded = np.stack([torch.tensor(v).bfloat16().double().numpy() for v in value])
        assert torch.equal(got[name], torch.tensor(rounded.mean(0)).bfloat16())
    assert got["count"].tolist() == [4]
    assert sorted(p.name for p in final.glob("*.safetensors")) == [
        f"model-0000{i}-of-00002.safetensors" for i in (1, 2)
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"average_checkpoints": 1}, "`average_checkpoints` is 1; give at least 2"),
        ({"save_strategy": "no"}, "`save_strategy: no` saves no such series"),
        ({"save_total_limit": 2}, "`save_total_limit` keeps 2; raise it to 3"),
        ({"save_steps": 4}, "with `save_steps: 4` the run saves 2, at step 4 and 7 of 7"),
        ({"save_steps": 0.5}, "with `save_steps: 4` the run saves 2, at step 4 and 7 of 7"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2},
            "`load_best_model_at_end` keeps another model",
        ),
    ],
)
def test_fewer_checkpoints_than_wished_are_refused_before_any_work(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        cpt.main(flags("out", **{**RUN, "average_checkpoints": 3} | change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_anneal_counts_its_own_checkpoints(flags):
    trunk = cpt.main(flags("trunk", **RUN))
    with pytest.raises(InputError, match="the run saves 2, at step 8 and 10 of 10"):
        anneal.main(flags("out", **BRANCH, init_from=trunk, anneal_steps=3, save_steps=2, average_checkpoints=3))
