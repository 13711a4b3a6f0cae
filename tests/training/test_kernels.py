import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from cprec_hf.training.kernels import IGNORED, apply_kernels, has_plain_head, summed_loss, teach_summed_loss


def test_the_loss_is_the_models_own(make_tiny_model, byte_level_tokenizer):
    """Against logits from the untouched forward, with prompts left out of the loss and a row without any label."""
    for kind in ("qwen3", "gpt_neo"):
        model = make_tiny_model(kind, byte_level_tokenizer)
        ids = torch.randint(1, 400, (3, 12), generator=torch.Generator().manual_seed(0))
        labels = ids.clone()
        labels[0, :5] = labels[2] = IGNORED
        logits = model(input_ids=ids).logits
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        teach_summed_loss(model)
        assert model(input_ids=ids, labels=labels, summed_loss=True).item() == pytest.approx(expected.item(), rel=1e-6)
        assert torch.equal(model(input_ids=ids).logits, logits)  # every other call is untouched
        assert model(input_ids=ids, labels=ids).loss.item() > 0


def test_no_label_is_a_differentiable_zero():
    hidden, weight = torch.ones(1, 4, 8, requires_grad=True), torch.ones(5, 8, requires_grad=True)
    loss = summed_loss(hidden, weight, None, torch.full((1, 4), IGNORED))
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
    assert apply_kernels(model, torch.device("cpu"), True) == "kernels: plain torch on the cpu (Liger's need a GPU)"
    assert type(model.model.norm) is before


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_ligers_loss_equals_ours():
    """Its Triton kernel, interpreted on the CPU, forward and backward."""
    code = """
import torch
from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
from cprec_hf.training.kernels import IGNORED, summed_loss
torch.manual_seed(0)
hidden, weight = torch.randn(2, 6, 16, requires_grad=True), torch.randn(40, 16, requires_grad=True)
labels = torch.randint(0, 40, (2, 6)); labels[0, :3] = IGNORED
ours = summed_loss(hidden, weight, None, labels); ours.backward()
grads = hidden.grad.clone(), weight.grad.clone()
hidden.grad = weight.grad = None
loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum")
theirs = loss(weight, hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), None); theirs.backward()
torch.testing.assert_close(theirs, ours)
torch.testing.assert_close(hidden.grad, grads[0]); torch.testing.assert_close(weight.grad, grads[1])
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
