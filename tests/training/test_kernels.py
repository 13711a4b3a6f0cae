import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from cprec_hf.errors import InputError
from cprec_hf.training import cpt, kernels
from cprec_hf.training.kernels import (
    IGNORED,
    apply_kernels,
    choose_head,
    has_plain_head,
    summed_loss,
    teach_summed_loss,
)
from training.runs import log_lines


@pytest.mark.parametrize("head", ["torch", "trl"])
def test_the_loss_is_the_models_own(head, make_tiny_model, byte_level_tokenizer):
    """Against logits from the untouched forward, with prompts left out of the loss and a row without any label."""
    for kind in ("qwen3", "gpt_neo"):
        model = make_tiny_model(kind, byte_level_tokenizer)
        ids = torch.randint(1, 400, (3, 12), generator=torch.Generator().manual_seed(0))
        labels = ids.clone()
        labels[0, :5] = labels[2] = IGNORED
        logits = model(input_ids=ids).logits
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        teach_summed_loss(model, head)
        assert model(input_ids=ids, labels=labels, summed_loss=True).item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.equal(model(input_ids=ids).logits, logits)  # every other call is untouched
        assert model(input_ids=ids, labels=ids).loss.item() > 0


@pytest.mark.parametrize("head", ["torch", "trl"])
@pytest.mark.parametrize("trained", ["all", "head", "backbone", "nothing"])
def test_heads_agree_in_loss_and_gradients(head, trained, monkeypatch):
    """Against torch's cross-entropy over all logits, in chunks of three rows, the last of them shorter."""
    monkeypatch.setattr(kernels, "LEAST_ROWS", 3)
    monkeypatch.setattr(kernels, "CHUNK_LOGITS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 9, 16), (40, 16), (40,)))
    labels = torch.randint(0, 40, (2, 9), generator=generator)
    labels[0, :4] = IGNORED
    hidden.requires_grad_(trained in ("all", "backbone"))
    for leaf in (weight, bias):
        leaf.requires_grad_(trained in ("all", "head"))
    logits = F.linear(hidden[:, :-1], weight, bias).flatten(0, 1)
    expected = F.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    loss = summed_loss(hidden, weight, bias, labels, head)
    torch.testing.assert_close(loss, expected)
    with torch.no_grad():
        torch.testing.assert_close(summed_loss(hidden, weight, bias, labels, head), expected.detach())
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf.requires_grad]
    assert loss.requires_grad == bool(leaves)
    if leaves:
        wanted = torch.autograd.grad(expected / 7, leaves)
        for got, gradient in zip(torch.autograd.grad(loss / 7, leaves), wanted, strict=True):
            torch.testing.assert_close(got, gradient)


@pytest.mark.parametrize("head", ["torch", "trl"])
def test_heads_in_half_precision_stay_near(head):
    """Under autocast: float32 weights get float32 gradients, within what bfloat16's 8 bits leave."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 33, 64, generator=generator, requires_grad=True)
    weight = (torch.randn(100, 64, generator=generator) / 8).requires_grad_()
    labels = torch.randint(0, 100, (1, 33), generator=generator)
    exact = summed_loss(hidden, weight, None, labels, "torch")
    wanted = torch.autograd.grad(exact, (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_loss(hidden, weight, None, labels, head)
    assert loss.dtype == torch.float32
    assert 0 < abs(loss.item() - exact.item()) < 5e-3 * exact.item()
    for got, gradient in zip(torch.autograd.grad(loss, (hidden, weight)), wanted, strict=True):
        assert got.dtype == torch.float32
        assert (got - gradient).norm() < 1e-2 * gradient.norm()


@pytest.mark.parametrize("head", ["torch", "trl"])
def test_no_label_is_a_differentiable_zero(head):
    hidden, weight = torch.ones(1, 4, 8, requires_grad=True), torch.ones(5, 8, requires_grad=True)
    loss = summed_loss(hidden, weight, None, torch.full((1, 4), IGNORED), head)
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


HEADS = {  # what a head does beyond its weight, and a config that asks for it
    "Qwen3": (True, {}),
    "GPTNeo": (True, {"num_layers": 2, "attention_types": [[["global"], 2]]}),
    "Gemma2": (False, {"head_dim": 16}),  # caps its logits
    "Cohere": (False, {}),  # scales them
    "Granite": (False, {"logits_scaling": 8.0}),
    "ModernBertDecoder": (False, {"intermediate_size": 64}),  # a dense layer and a norm before the weight
    "Roberta": (False, {"is_decoder": True}),
    "Mixtral": (False, {"output_router_logits": True, "intermediate_size": 64, "num_local_experts": 2}),  # another loss
}


@pytest.mark.parametrize("kind", HEADS)
def test_heads_that_do_more_are_told_apart(kind):
    import transformers

    plain, keys = HEADS[kind]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    keys = shape | {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | keys
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**keys)).train()
    attention = model.config._attn_implementation
    assert has_plain_head(model) == plain
    assert model.training
    assert model.config._attn_implementation == attention


def test_a_cpu_run_says_what_it_does_instead(tiny_model, byte_level_tokenizer):
    model = tiny_model(byte_level_tokenizer)
    before = type(model.model.norm)
    said = "plain torch layers on the cpu (Liger's need a GPU); attention sdpa"
    assert apply_kernels(model, torch.device("cpu"), None) == f"kernels: TRL's own loss; {said}"
    assert apply_kernels(model, torch.device("cpu"), "torch") == f"kernels: torch's chunked loss; {said}"
    assert type(model.model.norm) is before
    ids = torch.tensor([[3, 4, 5]])
    assert model(input_ids=ids, labels=ids, summed_loss=True).ndim == 0


def test_which_head_a_run_gets():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    liger = importlib.util.find_spec("liger_kernel") is not None
    assert choose_head("auto", cpu, True) == "torch"
    assert choose_head("auto", gpu, True) == ("liger" if liger else "torch")
    for device in (cpu, gpu):
        assert [choose_head(head, device, True) for head in ("trl", "torch")] == ["trl", "torch"]
        assert [choose_head(head, device, False) for head in ("auto", "trl")] == [None, None]
        with pytest.raises(InputError, match="more than that weight"):
            choose_head("torch", device, False)
    with pytest.raises(InputError, match=r"needs .*GPU|pip install"):
        choose_head("liger", cpu, True)
    with pytest.raises(InputError, match="'flce'; choose one of auto, liger, trl, torch"):
        choose_head("flce", cpu, True)


def test_a_recipe_chooses_the_head(flags, capsys):
    """Two runs, one loss curve; a head that cannot run here stops the run before it leaves anything."""
    losses = {}
    for head, said in (("auto", "torch's chunked loss"), ("trl", "TRL's fused loss, without entropies")):
        folder = cpt.main(flags(head, loss_head=head))
        assert f"kernels: {said}; plain torch layers" in capsys.readouterr().out
        losses[head] = [line["loss"] for line in log_lines(folder)]
    assert losses["auto"] == pytest.approx(losses["trl"], rel=1e-4)
    with pytest.raises(InputError, match="loss_head: liger"):
        cpt.main(flags("liger", loss_head="liger"))
    assert not (folder.parent / "liger" / "cprec.json").exists()


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_ligers_loss_equals_ours():
    """Its Triton kernel, interpreted on the CPU, forward and backward."""
    code = """
import torch
from cprec_hf.training.kernels import IGNORED, summed_loss
torch.manual_seed(0)
hidden, weight = torch.randn(2, 6, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
bias, labels = torch.randn(40, requires_grad=True), torch.randint(0, 40, (2, 6)); labels[0, :3] = IGNORED
for leaves in ((hidden, weight), (hidden, weight, bias)):
    found = []
    for head in ("liger", "torch"):
        loss = summed_loss(hidden, weight, leaves[2] if len(leaves) == 3 else None, labels, head)
        found.append([loss.detach(), *torch.autograd.grad(loss / 7, leaves)])
    for ligers, ours in zip(*found): torch.testing.assert_close(ligers, ours)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
