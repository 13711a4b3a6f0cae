"""The state of a run apart from any run; runs that resume one another's are in test_processes.py."""

import ast
import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import cprec_hf
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training.state import ResumableTrainer, gather, load_weights, refuse_other_data, shard


@pytest.fixture(scope="module")
def mesh():
    """One process that takes itself for a group: its part of a tensor is the whole, in a DTensor."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def adam(parameters):
    optimizer = torch.optim.AdamW([{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:]}])
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    return optimizer


def test_an_optimizer_is_gathered_and_cut_again(mesh):
    torch.manual_seed(0)
    plain = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    cut = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in plain]
    expected, sharded = adam(plain).state_dict(), adam(cut)
    assert isinstance(sharded.state_dict()["state"][0]["exp_avg"], DTensor)
    whole = gather(sharded.state_dict(), keep=True)
    assert whole["param_groups"] == expected["param_groups"]
    for index, values in expected["state"].items():
        for name, value in values.items():
            assert torch.equal(whole["state"][index][name], value)
    assert gather(sharded.state_dict(), keep=False)["state"] == {0: {}, 1: {}}

    again = torch.optim.AdamW([{"params": cut[:1]}, {"params": cut[1:]}])
    again.load_state_dict(shard(whole, again.param_groups))
    assert again.param_groups[0]["weight_decay"] == 0.1
    for parameter, state in again.state.items():
        assert isinstance(state["exp_avg_sq"], DTensor)
        assert state["exp_avg_sq"].placements == parameter.placements
        assert torch.equal(state["exp_avg_sq"].full_tensor(), sharded.state[parameter]["exp_avg_sq"].full_tensor())
        assert state["step"] == 1


def test_the_optimizer_of_another_model_is_refused():
    small, large = ([torch.nn.Parameter(torch.ones(n)), torch.nn.Parameter(torch.ones(3))] for n in (2, 4))
    with pytest.raises(InputError, match=r"optimizer.pt is of another model: parameter 0's `exp_avg` does not fit"):
        shard(adam(small).state_dict(), adam(large).param_groups)


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_go_into_a_model_as_saved(make_tiny_model, byte_level_tokenizer, tmp_path, adapter):
    def made(seed):
        model = make_tiny_model("qwen3", byte_level_tokenizer, seed=seed)
        if adapter:
            torch.manual_seed(seed)
            model = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear"))
        return model

    saved, model = made(1), made(2)
    saved.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    before = {name: p.clone() for name, p in model.named_parameters()}
    result = load_weights(model, tmp_path)
    assert result.unexpected_keys == []
    assert result.missing_keys == ([] if adapter else ["lm_head.weight"])  # which is tied
    for (name, got), expected in zip(model.named_parameters(), saved.parameters(), strict=True):
        trained = "lora_" in name or not adapter
        assert torch.equal(got, expected if trained else before[name]), name

    tensors = load_file(file)
    first = min(tensors)
    tensors["of.nothing"] = tensors.pop(first)
    save_file(tensors, file)
    result = load_weights(model, tmp_path)
    assert first in result.missing_keys
    assert result.unexpected_keys == ["of.nothing"]


def draw(folder, *, rank=0, world=1, step=3, seed=7):
    """What `torch.rand` gives after a process has loaded its random state."""
    trainer = object.__new__(ResumableTrainer)
    trainer.args = SimpleNamespace(seed=seed, world_size=world, process_index=rank, parallel_mode=None)
    trainer.state, trainer.accelerator = SimpleNamespace(global_step=step), SimpleNamespace(is_main_process=rank == 0)
    with torch.random.fork_rng():
        trainer._load_rng_state(str(folder))
        return torch.rand(()).item()


def test_random_numbers_of_as_many_processes_go_on_and_of_others_follow_from_the_step(tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        trainer = object.__new__(ResumableTrainer)
        trainer.args = SimpleNamespace(world_size=1, process_index=0)
        trainer._save_rng_state(str(tmp_path))
        expected = torch.rand(()).item()
    assert draw(tmp_path) == expected
    assert capsys.readouterr().out == ""
    draws = [
        draw(tmp_path, world=2),
        draw(tmp_path, world=2, rank=1),
        draw(tmp_path, world=2, step=4),
        draw(tmp_path, world=2, seed=8),
    ]
    assert len({expected, *draws}) == 5
    assert draw(tmp_path, world=2, rank=1) == draws[1]
    assert "has random states of 1 processes and this run has 2" in capsys.readouterr().out
    (tmp_path / "rng_state.pth").rename(tmp_path / "rng_state_0.pth")
    assert draw(tmp_path) != expected  # rank 0 of two is not the one process


DATA = {"batch": 4, "seed": 1, "rows": 9}
RECORD = ModelRecord(
    stage="cpt", base="b", template_version="1", max_title_tokens=8, history_length=6, domain=None, corpus="c",
    corpus_revision=None, corpus_hash="0", schedule={"data": DATA}, tokens=0, seed=1,
    parents=[],
)  # fmt: skip
ARGS = SimpleNamespace(per_device_train_batch_size=1, gradient_accumulation_steps=2, world_size=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"schedule": {}}, None),  # of an earlier release
        ({"schedule": {"data": {**DATA, "batch": 6}}}, "a step read 6 rows and would read 4: .*1 x .*2 x 3 processes"),
        ({"schedule": {"data": {**DATA, "seed": 2}}}, "`seed` was 2 and is 1"),
        ({"schedule": {"data": {**DATA, "rows": 8}}, "corpus_hash": "1"}, "`corpus` was '1' .*`rows` was 8"),
    ],
)
def test_other_data_is_refused(tmp_path, change, said):
    refuse_other_data(tmp_path, RECORD, ARGS)  # nothing recorded
    dataclasses.replace(RECORD, **change).save(tmp_path)
    with nullcontext() if said is None else pytest.raises(InputError, match=said):
        refuse_other_data(tmp_path, RECORD, ARGS)


MIXED = {"batch": 4, "rows": {"a": 9, "b": 9}, "mixture": {"stable": {"a": 1}, "anneal": {"b": 1}}}
PHASES = {"warmup_steps": 2, "stable_steps": 8, "anneal_steps": 4}


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        (10, {}, None),
        (14, {}, None),
        # A trunk without an anneal is resumed with one, of kinds and weights of its own.
        (10, {"data": {**MIXED, "rows": {"a": 9}, "mixture": {"stable": {"a": 1}}}, "anneal_steps": 0}, None),
        (10, {"data": {**MIXED, "rows": {"a": 9, "c": 1}, "mixture": {"stable": {"a": 1}, "anneal": {"c": 1}}}}, None),
        (10, {"stable_steps": 90}, None),
        (14, {"data": {**MIXED, "mixture": {"stable": {"a": 1}, "anneal": {"a": 1}}}}, "`mixture` was .* and is"),
        (10, {"data": {**MIXED, "mixture": {"stable": {"a": 1, "b": 1}}}}, "`mixture` was .* and is"),
        (14, {"stable_steps": 10}, r"`phase ends` was \[2, 12\] and is \[2, 10\]"),
        (14, {"warmup_steps": 4, "stable_steps": 6}, r"`phase ends` was \[4, 10\] and is \[2, 10\]"),
    ],
)
def test_of_a_mixture_by_phase_what_was_read_counts(tmp_path, step, change, said):
    ours = dataclasses.replace(RECORD, schedule={**PHASES, "data": MIXED, "step": 0})
    dataclasses.replace(RECORD, schedule={**ours.schedule, "step": step, **change}).save(tmp_path)
    with nullcontext() if said is None else pytest.raises(InputError, match=said):
        refuse_other_data(tmp_path, ours, ARGS)


def test_pickles_are_read_with_weights_only():
    """Every call of ours that reads one says so, and nothing of ours unpickles by other means."""
    calls = 0
    for path in Path(cprec_hf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
                calls += 1
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert calls >= 2
