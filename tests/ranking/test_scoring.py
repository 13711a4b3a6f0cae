"""Every method gives the number that reading one candidate at a time gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.reader import choose_method
from cprec_hf.ranking.scoring import score_candidates

VOCABULARY = 97
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8}
MIXED = {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
LOCAL = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6}
LONGEST = 45  # of the pairs below

# what "auto" must choose where the longest pair takes LONGEST tokens
CHOICES = {
    "qwen3": (transformers.Qwen3Config, GROUPED, "mask"),
    "qwen3, tied head": (transformers.Qwen3Config, GROUPED | {"tie_word_embeddings": True}, "mask"),
    "qwen3, eager": (transformers.Qwen3Config, GROUPED | {"attn_implementation": "eager"}, "mask"),
    "qwen3, a window in the second layer": (
        transformers.Qwen3Config,
        GROUPED | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        "cache",
    ),
    "llama": (transformers.LlamaConfig, GROUPED, "mask"),
    "mistral": (transformers.MistralConfig, GROUPED | {"sliding_window": 7}, "cache"),
    "mistral, window just filled": (transformers.MistralConfig, GROUPED | {"sliding_window": LONGEST}, "cache"),
    "mistral, window not filled": (transformers.MistralConfig, GROUPED | {"sliding_window": LONGEST + 1}, "mask"),
    "gemma3": (transformers.Gemma3TextConfig, GROUPED | MIXED, "cache"),
    "gemma3, windows not filled": (
        transformers.Gemma3TextConfig,
        GROUPED | MIXED | {"sliding_window": LONGEST + 1},
        "mask",
    ),
    "gemma2, capped logits": (
        transformers.Gemma2Config,
        GROUPED | {"sliding_window": 7, "final_logit_softcapping": 2.0},
        "cache",
    ),
    "granite, scaled logits": (transformers.GraniteConfig, GROUPED | {"logits_scaling": 3.0}, "mask"),
    "gpt-neo": (transformers.GPTNeoConfig, SHAPE | LOCAL | {"max_position_embeddings": 64}, "cache"),
    "gpt2": (transformers.GPT2Config, SHAPE | {"n_positions": 64}, "cache"),
    "opt": (transformers.OPTConfig, SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32}, "cache"),
    "bloom": (transformers.BloomConfig, SHAPE, "rows"),
    "mamba": (transformers.MambaConfig, SHAPE | {"state_size": 4}, "rows"),
}


@pytest.fixture(scope="module", params=CHOICES)
def chosen(request: pytest.FixtureRequest, pairs: tuple[Ragged, Ragged, np.ndarray]) -> tuple[Any, str, np.ndarray]:
    config, values, method = CHOICES[request.param]
    model = _model(config, **values)
    return model, method, one_at_a_time(model, *pairs)


@pytest.fixture(scope="module")
def pairs() -> tuple[Ragged, Ragged, np.ndarray]:
    """Prefixes of 1 to 35 tokens, one of them nobody's, and 1 to 80 candidates of 1 to 11 tokens; owners unsorted."""
    rng = np.random.default_rng(0)
    prefixes = _tokens(rng, [20, 3, 35, 1, 20, 28, 9])
    owners = rng.permutation(np.repeat(np.arange(7), [5, 1, 4, 3, 80, 2, 0]))
    lengths = rng.integers(1, 12, len(owners))
    lengths[np.flatnonzero(owners == 2)[:2]] = [LONGEST + 1 - 35, 1]
    return prefixes, _tokens(rng, lengths), owners


@pytest.mark.parametrize("max_batch_tokens", [16384, 90, 1])
def test_the_automatic_choice_is_right_for_each_architecture(
    chosen: tuple[Any, str, np.ndarray], pairs: tuple[Ragged, Ragged, np.ndarray], max_batch_tokens: int
) -> None:
    model, method, expected = chosen
    assert choose_method(model, LONGEST) == method
    assert np.std(expected) > 1, "a model that finds all tokens alike would hide errors"
    np.testing.assert_allclose(score_candidates(model, *pairs, max_batch_tokens=max_batch_tokens), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["mask", "cache", "rows"])
def test_all_methods_agree_where_all_are_right(method: Any, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = _model(transformers.LlamaConfig, **GROUPED)
    scores = score_candidates(model, *pairs, method=method, max_batch_tokens=300)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, one_at_a_time(model, *pairs), atol=1e-4)


def test_the_mask_is_wrong_where_it_is_not_chosen(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    """Else the choice, and the tests above, would show nothing."""
    model = _model(transformers.GPTNeoConfig, **SHAPE | LOCAL | {"max_position_embeddings": 1024})
    wrong = score_candidates(model, *pairs, method="mask")
    assert np.abs(wrong - one_at_a_time(model, *pairs)).max() > 0.5


@pytest.mark.parametrize("config", [transformers.Qwen3Config, transformers.MistralConfig])
def test_lora_adapters_count(config: Any, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    from peft import LoraConfig, get_peft_model

    model = _model(config, **GROUPED | {"sliding_window": 7 if config is transformers.MistralConfig else None})
    before = one_at_a_time(model, *pairs)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    adapted.eval()
    expected = one_at_a_time(adapted, *pairs)
    assert np.abs(expected - before).max() > 0.5
    np.testing.assert_allclose(score_candidates(adapted, *pairs), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "gemma2, capped logits"])
def test_what_a_trainer_put_over_forward_does_not_count(kind: str, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    """Accelerate runs `model.forward` under autocast; scores are those of the weights' own dtype."""
    config, values, _ = CHOICES[kind]
    model = _model(config, **values)
    expected = one_at_a_time(model, *pairs)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    np.testing.assert_allclose(score_candidates(model, *pairs), expected, atol=1e-4)


def test_bfloat16_scores_are_those_of_bfloat16(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = _model(transformers.LlamaConfig, **GROUPED).to(torch.bfloat16)
    np.testing.assert_allclose(score_candidates(model, *pairs), one_at_a_time(model, *pairs), rtol=0.03, atol=0.3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["qwen3", "gpt-neo"]))
    config, values, _ = CHOICES[kind]
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    prefixes = _tokens(rng, data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5)))
    candidates = _tokens(rng, data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=12)))
    many = data.draw(st.integers(1, 30))
    owners, which = rng.integers(0, len(prefixes), many), rng.integers(0, len(candidates), many)
    limit = data.draw(st.integers(1, 400))
    model = _model(config, **values)
    scores = score_candidates(model, prefixes, candidates, owners, which=which, max_batch_tokens=limit)
    np.testing.assert_allclose(scores, one_at_a_time(model, prefixes, candidates.take(which), owners), atol=1e-4)


def test_pairs_that_just_fit_are_scored_though_padding_them_together_would_not() -> None:
    """A long prefix with a short candidate beside a short prefix with a long one: padded to both, 114 of 64."""
    rng = np.random.default_rng(3)
    prefixes, candidates, owners = _tokens(rng, [60, 10, 30]), _tokens(rng, [5, 55, 20]), np.arange(3)
    config, values, _ = CHOICES["gpt-neo"]
    model = _model(config, **values)
    expected = one_at_a_time(model, prefixes, candidates, owners)
    np.testing.assert_allclose(score_candidates(model, prefixes, candidates, owners), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), [("tinystories-neo-3m", "cache"), ("stories-260k", "mask")])
def test_real_weights(name: str, method: str, shared: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(shared / "weights" / name, dtype=torch.float32).eval()
    rng = np.random.default_rng(4)
    prefixes, candidates, owners = (
        _tokens(rng, [240, 90, 120]),
        _tokens(rng, [17, 4, 9, 1, 12]),
        np.array([0, 1, 1, 2, 2]),
    )
    assert choose_method(model, 256) == method
    expected = one_at_a_time(model, prefixes, candidates, owners)
    np.testing.assert_allclose(score_candidates(model, prefixes, candidates, owners), expected, atol=1e-4)


def test_the_head_runs_on_predicting_positions_only(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = _model(transformers.Qwen3Config, **GROUPED)
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(
        lambda _module, _inputs, output: rows.append(output.numel() // VOCABULARY)
    )
    score_candidates(model, *pairs)
    hook.remove()
    probe = 2 * 2  # two tokens, twice: is the head all there is between states and logits?
    assert sum(rows) == probe + len(np.unique(pairs[2])) + int((pairs[1].lengths - 1).sum())


def test_prefixes_are_read_once(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    prefixes, candidates, owners = pairs
    model = _model(transformers.Qwen3Config, **GROUPED)
    read: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(
        lambda _module, inputs, _output: read.append(inputs[0].numel())
    )
    tokens = {}
    for method in ("mask", "rows"):
        read.clear()
        score_candidates(model, prefixes, candidates, owners, method=method, max_batch_tokens=1)  # so nothing is padded
        tokens[method] = sum(read) - 4
    hook.remove()
    fed = candidates.lengths - 1
    assert tokens["mask"] == prefixes.lengths[np.unique(owners)].sum() + fed.sum()
    assert tokens["rows"] == (prefixes.lengths[owners] + fed).sum()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = _model(transformers.LlamaConfig, **GROUPED | {"attention_dropout": 0.5, "use_cache": False})
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    if fails:
        with pytest.raises(IndexError):
            score_candidates(model, pairs[0], Ragged.from_lists([[VOCABULARY, 5]]), np.zeros(1, np.int64))
    else:
        expected = one_at_a_time(model.eval(), *pairs)
        model.train()
        model.model.layers[0].eval()
        np.testing.assert_allclose(score_candidates(model, *pairs), expected, atol=1e-4)  # without dropout
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False
    assert torch.is_grad_enabled()


def test_nothing_to_score() -> None:
    model = _model(transformers.LlamaConfig, **GROUPED)
    empty = Ragged.from_lists([])
    assert score_candidates(model, Ragged.from_lists([[1]]), empty, np.empty(0, np.int64)).shape == (0,)


def test_what_cannot_be_scored_is_said() -> None:
    model = _model(transformers.LlamaConfig, **GROUPED | {"max_position_embeddings": 16})
    one, nothing = Ragged.from_lists([[5, 6]]), Ragged.from_lists([[]])
    zero = np.zeros(1, np.int64)
    with pytest.raises(InputError, match="prefix 0 is empty"):
        score_candidates(model, nothing, one, zero)
    with pytest.raises(InputError, match="candidate 0 is empty"):
        score_candidates(model, one, nothing, zero)
    long = Ragged.from_lists([list(range(2, 18))])
    with pytest.raises(InputError, match="prefix 0 has 2 tokens and its candidate 0 has 16, but the model has 16"):
        score_candidates(model, one, long, zero)
    assert np.isfinite(
        score_candidates(model, Ragged.from_lists([[5]]), long, zero)
    ).all()  # its last token is not read
    with pytest.raises(ValueError, match="2 owners for 1 candidates"):
        score_candidates(model, one, one, np.zeros(2, np.int64))


def one_at_a_time(model: Any, prefixes: Ragged, candidates: Ragged, owners: np.ndarray) -> np.ndarray:
    """One forward pass a candidate, nothing cached, nothing padded."""
    scores = []
    with torch.no_grad():
        for number, owner in enumerate(owners):
            prefix, candidate = (
                torch.tensor(r.astype(np.int64)) for r in (prefixes.row(owner), candidates.row(number))
            )
            read = torch.cat([prefix, candidate[:-1]])
            logits = model(input_ids=read[None], use_cache=False).logits[0].double()
            predicted = logits[len(prefix) - 1 :].log_softmax(-1)
            scores.append(predicted.gather(1, candidate[:, None]).sum().item())
    return np.array(scores)


def _tokens(rng: np.random.Generator, lengths: Any) -> Ragged:
    return Ragged.from_lists([rng.integers(2, VOCABULARY, length).tolist() for length in lengths])


def _model(config: Any, **values: Any) -> Any:
    """A small random model that is sure of what it predicts: logits several nats apart."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(**values), dtype=torch.float32)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.25)
    return model.eval()
