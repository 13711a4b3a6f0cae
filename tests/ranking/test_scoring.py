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
from cprec_hf.ranking.scoring import invalid_mass, score_candidates, score_catalogue
from cprec_hf.ranking.trie import Trie

from .models import (
    GROUPED,
    KINDS,
    LOCAL,
    MIXED,
    SHAPE,
    VOCABULARY,
    next_tokens,
    one_at_a_time,
    random_model,
    random_rows,
)

LONGEST = 45  # of the pairs below

# what "auto" must choose where the longest pair takes LONGEST tokens
CHOICES = {
    "qwen3": (transformers.Qwen3Config, GROUPED, "mask"),
    "qwen3, tied head": (transformers.Qwen3Config, GROUPED | {"tie_word_embeddings": True}, "mask"),
    "qwen3, eager": (transformers.Qwen3Config, GROUPED | {"attn_implementation": "eager"}, "mask"),
    "qwen3, a window in the second layer": (
        transformers.Qwen3Config,
        GROUPED | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        "mask",
    ),
    "llama": (transformers.LlamaConfig, GROUPED, "mask"),
    "mistral": (transformers.MistralConfig, GROUPED | {"sliding_window": 7}, "mask"),
    "mistral, window just filled": (transformers.MistralConfig, GROUPED | {"sliding_window": LONGEST}, "mask"),
    "mistral, window not filled": (transformers.MistralConfig, GROUPED | {"sliding_window": LONGEST + 1}, "mask"),
    "gemma3": (transformers.Gemma3TextConfig, GROUPED | MIXED, "mask"),
    "gemma3, windows not filled": (
        transformers.Gemma3TextConfig,
        GROUPED | MIXED | {"sliding_window": LONGEST + 1},
        "mask",
    ),
    "gemma2, capped logits": (
        transformers.Gemma2Config,
        GROUPED | {"sliding_window": 7, "final_logit_softcapping": 2.0},
        "mask",
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
    model = random_model(config, **values)
    return model, method, one_at_a_time(model, *pairs)


@pytest.fixture(scope="module")
def pairs() -> tuple[Ragged, Ragged, np.ndarray]:
    """Prefixes of 1 to 35 tokens, one of them nobody's, and 1 to 80 candidates of 1 to 11 tokens; owners unsorted."""
    rng = np.random.default_rng(0)
    prefixes = random_rows(rng, [20, 3, 35, 1, 20, 28, 9])
    owners = rng.permutation(np.repeat(np.arange(7), [5, 1, 4, 3, 80, 2, 0]))
    lengths = rng.integers(1, 12, len(owners))
    lengths[np.flatnonzero(owners == 2)[:2]] = [LONGEST + 1 - 35, 1]
    candidates = random_rows(rng, lengths)
    alike = candidates.take(rng.integers(0, len(owners), len(owners)))  # many share a beginning, some everything
    rows = [[*alike.row(i)[:3], *candidates.row(i)[3:]] for i in range(len(owners))]
    return prefixes, Ragged.from_lists(rows), owners


@pytest.mark.parametrize("max_batch_tokens", [16384, 90, 1])
def test_the_automatic_choice_is_right_for_each_architecture(
    chosen: tuple[Any, str, np.ndarray], pairs: tuple[Ragged, Ragged, np.ndarray], max_batch_tokens: int
) -> None:
    model, method, expected = chosen
    assert choose_method(model, LONGEST) == method
    assert np.std(expected) > 1, "a model that finds all tokens alike would hide errors"
    np.testing.assert_allclose(score_candidates(model, *pairs, max_batch_tokens=max_batch_tokens), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["full attention", "sliding windows", "some sliding windows"])
@pytest.mark.parametrize("method", ["mask", "cache", "rows"])
def test_all_methods_agree_where_all_are_right(
    method: Any, kind: str, pairs: tuple[Ragged, Ragged, np.ndarray]
) -> None:
    config, values = KINDS[kind]
    model = random_model(config, **values)
    scores = score_candidates(model, *pairs, method=method, max_batch_tokens=300)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, one_at_a_time(model, *pairs), atol=1e-4)


def test_the_mask_is_wrong_where_it_is_not_chosen(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    """Else the choice, and the tests above, would show nothing."""
    model = random_model(transformers.GPTNeoConfig, **SHAPE | LOCAL | {"max_position_embeddings": 1024})
    wrong = score_candidates(model, *pairs, method="mask")
    assert np.abs(wrong - one_at_a_time(model, *pairs)).max() > 0.5


@pytest.mark.parametrize("config", [transformers.Qwen3Config, transformers.MistralConfig])
def test_lora_adapters_count(config: Any, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    from peft import LoraConfig, get_peft_model

    model = random_model(config, **GROUPED | {"sliding_window": 7 if config is transformers.MistralConfig else None})
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
    model = random_model(config, **values)
    expected = one_at_a_time(model, *pairs)
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    np.testing.assert_allclose(score_candidates(model, *pairs), expected, atol=1e-4)


def test_bfloat16_scores_are_those_of_bfloat16(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = random_model(transformers.LlamaConfig, **GROUPED).to(torch.bfloat16)
    np.testing.assert_allclose(score_candidates(model, *pairs), one_at_a_time(model, *pairs), rtol=0.03, atol=0.3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["qwen3", "gpt-neo"]))
    config, values, _ = CHOICES[kind]
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    prefixes = random_rows(rng, data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5)))
    candidates = random_rows(rng, data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=12)))
    many = data.draw(st.integers(1, 30))
    owners, which = rng.integers(0, len(prefixes), many), rng.integers(0, len(candidates), many)
    limit = data.draw(st.integers(1, 400))
    model = random_model(config, **values)
    scores = score_candidates(model, prefixes, candidates, owners, which=which, max_batch_tokens=limit)
    np.testing.assert_allclose(scores, one_at_a_time(model, prefixes, candidates.take(which), owners), atol=1e-4)


def test_pairs_that_just_fit_are_scored_though_padding_them_together_would_not() -> None:
    """A long prefix with a short candidate beside a short prefix with a long one: padded to both, 114 of 64."""
    rng = np.random.default_rng(3)
    prefixes, candidates, owners = random_rows(rng, [60, 10, 30]), random_rows(rng, [5, 55, 20]), np.arange(3)
    config, values, _ = CHOICES["gpt-neo"]
    model = random_model(config, **values)
    expected = one_at_a_time(model, prefixes, candidates, owners)
    np.testing.assert_allclose(score_candidates(model, prefixes, candidates, owners), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), [("tinystories-neo-3m", "cache"), ("stories-260k", "mask")])
def test_real_weights(name: str, method: str, shared: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(shared / "weights" / name, dtype=torch.float32).eval()
    rng = np.random.default_rng(4)
    prefixes, candidates, owners = (
        random_rows(rng, [240, 90, 120]),
        random_rows(rng, [17, 4, 9, 1, 12]),
        np.array([0, 1, 1, 2, 2]),
    )
    assert choose_method(model, 256) == method
    expected = one_at_a_time(model, prefixes, candidates, owners)
    np.testing.assert_allclose(score_candidates(model, prefixes, candidates, owners), expected, atol=1e-4)


def test_the_head_runs_on_predicting_positions_only(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = random_model(transformers.Qwen3Config, **GROUPED)
    rows: list[int] = []
    hook = model.lm_head.register_forward_hook(
        lambda _module, _inputs, output: rows.append(output.numel() // VOCABULARY)
    )
    score_candidates(model, *pairs)
    hook.remove()
    probe = 2 * 2  # two tokens, twice: is the head all there is between states and logits?
    assert sum(rows) == probe + len(np.unique(pairs[2])) + len(shared_tokens(pairs))


def test_prefixes_and_what_candidates_begin_with_are_read_once(pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    prefixes, candidates, owners = pairs
    model = random_model(transformers.Qwen3Config, **GROUPED)
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
    assert tokens["mask"] == prefixes.lengths[np.unique(owners)].sum() + len(shared_tokens(pairs))
    assert tokens["rows"] == (prefixes.lengths[owners] + candidates.lengths - 1).sum()


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool, pairs: tuple[Ragged, Ragged, np.ndarray]) -> None:
    model = random_model(transformers.LlamaConfig, **GROUPED | {"attention_dropout": 0.5, "use_cache": False})
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
    model = random_model(transformers.LlamaConfig, **GROUPED)
    empty = Ragged.from_lists([])
    assert score_candidates(model, Ragged.from_lists([[1]]), empty, np.empty(0, np.int64)).shape == (0,)


def test_what_cannot_be_scored_is_said() -> None:
    model = random_model(transformers.LlamaConfig, **GROUPED | {"max_position_embeddings": 16})
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_batch_tokens", [16384, 60])
def test_the_whole_catalogue_is_every_row_scored_alone(kind: str, max_batch_tokens: int) -> None:
    rng = np.random.default_rng(5)
    prefixes, rows = random_rows(rng, [20, 3, 35, 1]), random_rows(rng, rng.integers(1, 7, 60), most=6, end=1)
    config, values = KINDS[kind]
    model = random_model(config, **values)
    scores = score_catalogue(model, prefixes, Trie.of(rows), max_batch_tokens=max_batch_tokens)
    owners, which = (index.ravel() for index in np.indices((4, len(rows))))
    expected = one_at_a_time(model, prefixes, rows.take(which), owners).reshape(4, -1)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 99), st.integers(1, 300), st.integers(2, 40))
def test_any_catalogue(kind: str, seed: int, max_batch_tokens: int, n_rows: int) -> None:
    rng = np.random.default_rng(seed)
    prefixes = random_rows(rng, rng.integers(1, 30, rng.integers(1, 4)))
    rows = random_rows(rng, rng.integers(1, 9, n_rows), most=int(rng.integers(3, 20)))  # they may begin one another
    config, values = KINDS[kind]
    model = random_model(config, **values)
    scores = score_catalogue(model, prefixes, Trie.of(rows), max_batch_tokens=max_batch_tokens)
    owners, which = (index.ravel() for index in np.indices((len(prefixes), len(rows))))
    expected = one_at_a_time(model, prefixes, rows.take(which), owners).reshape(len(prefixes), -1)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_tree_longer_than_a_row_keeps_the_path_between_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    prefixes, rows = random_rows(rng, [9, 4, 9]), random_rows(rng, rng.integers(3, 12, 80), most=5, end=1)
    model = random_model(transformers.Qwen3Config, **GROUPED)
    expected = score_catalogue(model, prefixes, Trie.of(rows))
    read: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, inputs, _o: read.append(inputs[0].shape[1]))
    for width in (7, 1):
        monkeypatch.setattr("cprec_hf.ranking.branches._ROW_TOKENS", width)
        read.clear()
        np.testing.assert_allclose(score_catalogue(model, prefixes, Trie.of(rows)), expected, atol=1e-5)
        inner = int((Trie.of(rows).n_children > 0).sum()) - 1
        assert sum(read[2:]) == 9 + inner, "each node once: after the probe, the prefixes and then the tree"
    hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_a_catalogue_and_all_that_is_none_of_it_sum_to_one(kind: str) -> None:
    rng = np.random.default_rng(7)
    config, values = KINDS[kind]
    model = random_model(config, **values | {"vocab_size": 7})
    prefixes, rows = random_rows(rng, [12, 3], most=7), random_rows(rng, rng.integers(1, 5, 300), most=7, end=1)
    trie = Trie.of(rows)
    mass = np.exp(score_catalogue(model, prefixes, trie).astype(np.float64)).sum(axis=1)
    invalid = np.exp(invalid_mass(model, prefixes, trie, max_batch_tokens=50))
    assert (mass > 1e-3).all() and (invalid > 1e-3).all(), "else the sum would show nothing"
    np.testing.assert_allclose(mass + invalid, 1, atol=1e-6)
    expected = [_invalid(model, torch.tensor(prefixes.row(i).astype(np.int64)), trie) for i in range(2)]
    np.testing.assert_allclose(invalid, expected, atol=1e-5)


def _invalid(model: Any, prefix: torch.Tensor, trie: Trie) -> float:
    """Node by node, one forward pass each: what leads nowhere."""
    total = 0.0
    for node in np.flatnonzero(trie.n_children):
        path = torch.tensor(trie.tokens[trie.paths(np.array([node])).row(0)].astype(np.int64))
        follows = next_tokens(model, torch.cat([prefix, path]))[len(prefix) - 1 :]
        reach = follows[:-1].gather(1, path[:, None]).sum() if len(path) else 0.0
        allowed = torch.tensor(trie.tokens[trie.first_child[node] : trie.first_child[node + 1]].astype(np.int64))
        total += float(torch.exp(reach + follows[-1].index_fill(0, allowed, -torch.inf).logsumexp(0)))
    return total


@pytest.mark.parametrize("name", ["tinystories-neo-3m", "stories-260k"])
def test_real_titles_with_real_weights(name: str, shared: Path) -> None:
    import pyarrow.parquet as pq

    from cprec_hf.corpus.encoder import Encoder

    folder = shared / "weights" / name
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = Encoder(transformers.AutoTokenizer.from_pretrained(folder))
    titles = pq.read_table(shared / "data" / "amazon" / "items.parquet", filters=[("domain", "=", "Scientific")])
    lines = [title[:40] + "\n" for title in titles["title"].to_pylist()[:40] if title]
    prefixes, rows = encoder.documents(["".join(lines[:2]), lines[3], ""]), encoder.segments(sorted(set(lines)))
    prefixes = prefixes if prefixes.lengths.all() else prefixes.take(np.arange(2))
    scores = score_catalogue(model, prefixes, Trie.of(rows))
    owners, which = (index.ravel() for index in np.indices(scores.shape))
    expected = one_at_a_time(model, prefixes, rows.take(which), owners)
    np.testing.assert_allclose(scores.ravel(), expected, atol=3e-4)


def shared_tokens(pairs: tuple[Ragged, Ragged, np.ndarray]) -> set[tuple[int, ...]]:
    """What must be read of the candidates: each distinct beginning of each user's, their last tokens left out."""
    _, candidates, owners = pairs
    rows = [(int(owner), *candidates.row(i).tolist()) for i, owner in enumerate(owners)]
    return {row[:n] for row in rows for n in range(2, len(row))}
