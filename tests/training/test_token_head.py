"""Log-probabilities of chosen tokens against all logits, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from cprec_hf.errors import InputError
from cprec_hf.training import token_head
from cprec_hf.training.token_head import choose_token_head, teach_token_log_probs, token_log_probs


@pytest.mark.parametrize("head", ["torch", "trl"])
@pytest.mark.parametrize("trained", ["all", "head", "backbone"])
def test_values_and_gradients(head, trained, monkeypatch):
    """In chunks of three states, the last of them shorter; a state may predict several tokens, one twice, or none."""
    monkeypatch.setattr(token_head, "LEAST_ROWS", 3)
    monkeypatch.setattr(token_head, "CHUNK_LOGITS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((8, 16), (40, 16), (40,)))
    rows, tokens = torch.tensor([7, 0, 0, 3, 3, 5, 0]), torch.tensor([1, 2, 3, 4, 4, 39, 0])
    hidden.requires_grad_(trained in ("all", "backbone"))
    for leaf in (weight, bias):
        leaf.requires_grad_(trained in ("all", "head"))
    expected = F.linear(hidden, weight, bias).log_softmax(-1)[rows, tokens]
    got = token_log_probs(hidden, weight, bias, rows, tokens, head)
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        torch.testing.assert_close(token_log_probs(hidden, weight, bias, rows, tokens, head), expected.detach())
    weighs = torch.randn(len(rows), generator=generator)
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf.requires_grad]
    wanted = torch.autograd.grad((weighs * expected).sum(), leaves)
    for ours, gradient in zip(torch.autograd.grad((weighs * got).sum(), leaves), wanted, strict=True):
        torch.testing.assert_close(ours, gradient)


def test_float64_stays_float64_and_half_precision_near():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(33, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = (torch.randn(100, 64, generator=generator, dtype=torch.float64) / 8).requires_grad_()
    rows, tokens = torch.arange(33), torch.randint(0, 100, (33,), generator=generator)
    few = hidden[:3, :4].detach().requires_grad_(), weight[:5, :4].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda h, w: token_log_probs(h, w, None, rows[:3], tokens[:3] % 5), few)
    exact = token_log_probs(hidden, weight, None, rows, tokens)
    h, w = (t.detach().float().requires_grad_() for t in (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        near = token_log_probs(h, w, None, rows, tokens)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).abs().max() < 5e-2
    near.sum().backward()
    wanted = torch.autograd.grad(exact.sum(), (hidden, weight))
    for got, gradient in zip((h.grad, w.grad), wanted, strict=True):
        assert got.dtype == torch.float32
        assert (got - gradient).norm() < 2e-2 * gradient.norm()


@pytest.mark.parametrize("head", ["torch", "trl", "logits"])
def test_a_taught_model_scores_and_is_otherwise_untouched(head, make_tiny_model, byte_level_tokenizer):
    model = make_tiny_model("qwen3", byte_level_tokenizer)
    ids = torch.randint(1, 400, (2, 6), generator=torch.Generator().manual_seed(0))
    logits = model(input_ids=ids).logits
    teach_token_log_probs(model, head)
    states, rows, tokens = torch.tensor([1, 4, 9]), torch.tensor([0, 2, 2]), torch.tensor([5, 6, 7])
    got = model(input_ids=ids, scored=(states, rows, tokens))
    expected = logits.flatten(0, 1)[states].log_softmax(-1)[rows, tokens]
    torch.testing.assert_close(got, expected)
    assert torch.equal(model(input_ids=ids).logits, logits)


def test_which_head():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_token_head("auto", cpu, True) == "torch" and choose_token_head("auto", gpu, True) == "trl"
    assert choose_token_head("torch", gpu, True) == "torch" and choose_token_head("auto", gpu, False) == "logits"
    for asked, plain, said in (
        ("liger", True, "liger` gives a sum"), ("fast", True, "`loss_head` is 'fast'"),
        ("torch", False, "this model's logits are more than that weight"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            choose_token_head(asked, cpu, plain)
