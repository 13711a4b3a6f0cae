import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt, sft
from cprec_hf.training.attention import VARLEN, boundaries, varlen_attention
from cprec_hf.training.kernels import teach_summed_loss
from cprec_hf.training.packing import BlockCollator, refuse_leaks
from training.runs import BRANCH, log_lines


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.sampled_from([None, 1, 3]), st.integers(0, 99))
@settings(max_examples=30)
def test_it_equals_attention_under_a_block_mask(lengths, window, seed):
    """Two rows of the same documents, grouped heads, windows; outputs and gradients against a dense mask."""
    n, generator = sum(lengths), torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, heads, n, 8, generator=generator, requires_grad=True) for heads in (4, 2, 2))
    positions = torch.tensor([i for length in lengths for i in range(length)]).expand(2, -1)
    document = np.repeat(np.arange(len(lengths)), lengths)
    at = np.arange(n)
    behind = at[:, None] - at[None]
    seen = (document[:, None] == document[None]) & (behind >= 0) & (behind < (window or n))
    repeated = [t.repeat_interleave(2, dim=1) for t in (k, v)]
    expected = F.scaled_dot_product_attention(q, *repeated, attn_mask=torch.from_numpy(seen), scale=0.3)
    got, nothing = varlen_attention(
        torch.nn.Module(), q, k, v, None, scaling=0.3, sliding_window=window, position_ids=positions
    )
    assert nothing is None
    torch.testing.assert_close(got, expected.transpose(1, 2))
    weights = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weights).sum(), (q, k, v))
    given_back = torch.autograd.grad((got.transpose(1, 2) * weights).sum(), (q, k, v))
    for ours, theirs in zip(given_back, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_collator_sends_the_boundaries_along(seq_lengths):
    rows = [{"input_ids": [1] * sum(x), "labels": [1] * sum(x), "seq_lengths": x} for x in seq_lengths]
    width = max(map(sum, seq_lengths))
    batch = BlockCollator(0, boundaries=True)(rows)
    lengths = [n for x in seq_lengths for n in (*x[:-1], x[-1] + width - sum(x))]  # padding is the last one's
    assert batch["cu_seq_lens_q"].tolist() == np.cumsum([0, *lengths]).tolist()
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert max(lengths) <= batch["max_length_q"] < 2 * max(lengths)
    assert boundaries(batch["position_ids"])[0].tolist() == batch["cu_seq_lens_q"].tolist()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral"])
def test_a_packed_model_has_the_same_loss_and_gradients(kind, make_tiny_model, byte_level_tokenizer):
    """`mistral` has a sliding window of 8."""
    rows = [
        {"input_ids": [*range(5, 35)], "seq_lengths": [9, 21]},
        {"input_ids": [*range(60, 80)], "seq_lengths": [20]},
    ]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    found = {}
    for attention in ("sdpa", VARLEN):
        model = make_tiny_model(kind, byte_level_tokenizer)
        model.set_attn_implementation(attention)
        refuse_leaks(model)
        teach_summed_loss(model)
        batch = BlockCollator(0, boundaries=attention == VARLEN)(rows)
        loss = model(**batch, summed_loss=True)
        loss.backward()
        found[attention] = [loss.detach(), *(p.grad for p in model.parameters())]
    for ours, theirs in zip(found[VARLEN], found["sdpa"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_and_caches_go_the_usual_way(tiny_model, byte_level_tokenizer):
    ids, mask = torch.arange(5, 25).reshape(2, 10), torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    usual, ours = tiny_model(byte_level_tokenizer), tiny_model(byte_level_tokenizer)
    ours.set_attn_implementation(VARLEN)
    with torch.no_grad():
        expected, got = (m(input_ids=ids, attention_mask=mask).logits for m in (usual, ours))
        torch.testing.assert_close(got[mask.bool()], expected[mask.bool()])
        written = [m.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0) for m in (usual, ours)]
    assert torch.equal(*written)


def test_what_it_cannot_do_is_refused(tiny_model, make_tiny_model, byte_level_tokenizer):
    import transformers

    dropping = tiny_model(byte_level_tokenizer, attention_dropout=0.1)
    dropping.set_attn_implementation(VARLEN)
    with pytest.raises(InputError, match="without dropout"):
        refuse_leaks(dropping)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1}
    capped = transformers.AutoModelForCausalLM.from_config(transformers.Gemma2Config(**shape, eos_token_id=2))
    capped.set_attn_implementation(VARLEN)
    with pytest.raises(InputError, match="softcap"):
        refuse_leaks(capped)
    chunked = tiny_model(byte_level_tokenizer)
    chunked.config.layer_types = ["chunked_attention", "full_attention"]
    chunked.set_attn_implementation(VARLEN)
    with pytest.raises(InputError, match="chunked_attention"):
        refuse_leaks(chunked)


def test_a_run_under_it_learns_what_a_run_under_sdpa_learns(flags, capsys):
    """Packed and evaluated, the loss of every step and the probe's metrics."""
    keys = {"domain": "Tools", "eval_strategy": "steps", "eval_steps": 2}
    for attention in (None, VARLEN):
        runs = {
            "cpt": cpt.main(flags(f"cpt-{attention}", attn_implementation=attention, save_steps=4)),
            "sft": sft.main(flags(f"sft-{attention}", attn_implementation=attention, **keys)),
        }
        branch = {**BRANCH, "init_from": runs["cpt"], "anneal_steps": 2, "attn_implementation": attention}
        runs["anneal"] = anneal.main(flags(f"anneal-{attention}", **branch))
        assert capsys.readouterr().out.count(f"attention {attention or 'sdpa'}\n") == 3
        losses = {name: [line["loss"] for line in log_lines(folder)] for name, folder in runs.items()}
        if attention is None:
            expected = losses
    for name, values in losses.items():
        assert values == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpus_kernel_equals_the_plain_one():
    """Torch's varlen kernel in bfloat16 against documents one by one in float32: output and gradients."""
    positions = torch.cat([torch.arange(n) for n in (100, 7, 150)]).expand(2, -1).cuda()
    tensors = [torch.randn(2, heads, 257, 64, device="cuda") for heads in (8, 2, 2)]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        out, _ = varlen_attention(torch.nn.Module(), *leaves, None, position_ids=positions)
        out.float().square().sum().backward()
        found.append([out.float(), *(t.grad.float() for t in leaves)])
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()
