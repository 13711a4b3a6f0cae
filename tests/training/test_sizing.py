"""Counts against torch's own counter, memory against what autograd saves, and the documented table against both."""

from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from cprec_hf.errors import InputError
from cprec_hf.training import sizing
from cprec_hf.training.attention import VARLEN
from cprec_hf.training.sizing import ROWS, Size, causal_pairs, mfu, recipe_config, table

KINDS = {"qwen3": transformers.Qwen3Config, "llama": transformers.LlamaConfig}
SHAPE = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 16}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def model_of(kind, attention, **keys):
    config = KINDS[kind](**SHAPE | keys)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention), Size.of(config)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_operations_are_those_that_torch_counts(kind, tied):
    """Eager attention multiplies every token with every other, which is what it is asked to count here."""
    model, size = model_of(kind, "eager", tie_word_embeddings=tied)
    ids = torch.randint(3, 96, (2, 25))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.logsumexp(-1).sum().backward()
    assert counter.get_total_flops() == size.training_flops(tokens=2 * 25, pairs=2 * 25 * 25)
    assert size.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_saves(kind, checkpointing):
    """In bytes a token, from the tensors that a forward pass under autocast keeps: what a further layer adds."""
    saved = {}
    for layers in (2, 3):
        model, size = model_of(kind, VARLEN, num_hidden_layers=layers)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters()}
        kept = {}

        def keep(tensor, kept=kept, weights=weights):
            if tuple(tensor.shape) not in weights:  # weights and their copies in bfloat16
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", torch.bfloat16):
            ids = torch.randint(3, 96, (1, 250))
            model.base_model(input_ids=ids, position_ids=torch.arange(250)[None], use_cache=False)
        saved[layers] = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        counted = size.activation_bytes(250, checkpointing=checkpointing)
        saved[layers, "counted"] = counted
    assert saved[3] - saved[2] == saved[3, "counted"] - saved[2, "counted"]


def test_figures_by_hand():
    size = Size(1000, 800, 200, 10, 20, 3, 4, 2, 5, False)
    assert causal_pairs([1, 3]) == 1 + 6
    assert size.training_flops(tokens=4, pairs=7) == 3 * (2 * 800 * 4 + 4 * 3 * 4 * 5 * 7)
    assert (size.state_bytes(), size.state_bytes(4)) == (16_000, 4_000)
    assert (size.working_bytes(), size.working_bytes(4)) == (2_000, 2 * (2 * 200 + 400))
    layer = 26 * 10 + 8 * 20 + 8 + 6 * 20 + 4 * 10 + 4 * 4
    assert size.activation_bytes(7, checkpointing=False) == 7 * 3 * layer
    assert size.activation_bytes(7, checkpointing=True) == 7 * (3 * 40 + layer)
    assert size.logit_bytes(7) == 4 * 7 * 20
    assert size.peak_bytes(7, checkpointing=True) == 16_000 + 2_000 + 7 * (120 + layer)
    assert mfu(flops=494.5e12, seconds=2.0) == pytest.approx(0.25)
    assert mfu(flops=10.0, seconds=2.0, peak=20.0) == 0.25


PUBLISHED = {"qwen3-0.6b": 0.596e9, "qwen3-1.7b": 1.72e9, "llama-3.2-1b": 1.236e9, "qwen3-8b": 8.19e9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_the_published_number_of_parameters(name):
    assert Size.of(recipe_config(name)).parameters == pytest.approx(PUBLISHED[name], rel=1e-3)


def test_the_documentation_shows_the_table_that_is_computed():
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    rows = [(name, Size.of(recipe_config(name)), processes, tokens) for name, processes, tokens in ROWS]
    assert table(rows) in page


def test_a_model_of_ones_own(tmp_path, capsys):
    KINDS["llama"](**SHAPE).save_pretrained(tmp_path)
    sizing.main(["--model", str(tmp_path), "--processes", "2", "--tokens", "4096"])
    assert f"| {tmp_path} | 0.00 B | 2 | 4,096 |" in capsys.readouterr().out
    with pytest.raises(InputError, match="--model"):
        sizing.main(["--model", str(tmp_path / "nothing")])
