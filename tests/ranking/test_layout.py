"""Trunks with branches in one batch, against one sequence a forward pass, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, GPTNeoXConfig, LlamaConfig, MambaConfig

from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.ranking.branch_attention import BRANCHES
from cprec_hf.ranking.forest import Forest, sees
from cprec_hf.ranking.layout import choose_form, lay_out, model_inputs, read_apart, trunk_tokens
from ranking.models import GROUPED, KINDS, SHAPE, VOCABULARY, random_model

MODELS = {
    "llama": (LlamaConfig, GROUPED),
    "qwen3": KINDS["full attention"],
    "gpt2": KINDS["a table of positions"],
    "gpt_neox": (GPTNeoXConfig, SHAPE),
    "gemma3": KINDS["some sliding windows"],
    "mistral": KINDS["sliding windows"],
}
EXACT = {"gpt2", "gpt_neox"}  # the others' norms compute in float32 whatever the model's dtype
_made = {}


def model_of(kind, attention="sdpa"):
    if kind not in _made:
        config, values = MODELS[kind]
        _made[kind] = random_model(config, **values).double()
    _made[kind].set_attn_implementation(attention)
    return _made[kind]


@st.composite
def trees(draw):
    """Trunks, and branches by owner and begin."""
    rows = draw(st.lists(st.lists(st.integers(2, VOCABULARY - 1), min_size=2, max_size=14), min_size=1, max_size=3))
    owners, begins, branches = [], [], []
    for owner, row in enumerate(rows):
        for begin in sorted(draw(st.lists(st.integers(1, len(row) - 1), max_size=3, unique=True))):
            for branch in draw(st.lists(st.lists(st.integers(2, 8), min_size=1, max_size=5), min_size=1, max_size=3)):
                owners.append(owner)
                begins.append(begin)
                branches.append(branch)
    arrays = (np.array(values, dtype=np.int64) for values in (owners, begins))
    return Ragged.from_lists(rows), *arrays, Ragged.from_lists(branches)


def sources_of(forest):
    """The token that predicts each wanted one; below 0 for the trunks' first."""
    return np.repeat(np.arange(len(forest.wanted_bounds) - 1), np.diff(forest.wanted_bounds)) - forest.n_trees


@settings(max_examples=40)
@given(trees())
def test_a_forest_of_trunks_reads_every_sequence_and_sees_nothing_else(drawn):
    trunks, owners, begins, branches = drawn
    forest, of_trunk, of_branch = Forest.of_trunks(trunks, owners, begins, branches)
    sources = sources_of(forest)

    def path(token):
        found = []
        while token >= 0:
            found.append(token)
            token = forest.parent[token]
        return found[::-1]

    for i in range(len(trunks)):
        places = of_trunk.row(i)
        assert forest.wanted[places].tolist() == trunks.row(i).tolist() and sources[places[0]] < 0
        before = path(sources[places[-1]])
        assert forest.tokens[before].tolist() == trunks.row(i)[:-1].tolist()
        assert forest.depth[before].tolist() == list(range(len(before)))
    for i in range(len(branches)):
        places = of_branch.row(i)
        assert forest.wanted[places].tolist() == branches.row(i).tolist()
        before = forest.tokens[path(sources[places[-1]])].tolist()
        assert before == [*trunks.row(owners[i])[: begins[i]].tolist(), *branches.row(i)[:-1].tolist()]
    numbers = np.arange(len(forest.tokens))
    for token in numbers:
        assert numbers[sees(token, numbers, forest.end)].tolist() == path(token)
    # Every place is wanted once, and no token is read that predicts nothing.
    assert sorted([*of_trunk.values, *of_branch.values]) == list(range(len(forest.wanted)))
    assert {*sources[sources >= 0]} == {*numbers}


def log_probs(model, form, drawn):
    """Of each trunk's tokens but the first, and of each branch's."""
    forest, of_trunk, of_branch = Forest.of_trunks(*drawn)
    batch = lay_out(forest, trunk_tokens(forest, of_trunk), form)
    states = model.base_model(**model_inputs(model, batch), use_cache=False)[0].flatten(0, 1)[batch["place"]]
    predicted = model.get_output_embeddings()(states).log_softmax(-1)
    sources, wanted = torch.from_numpy(sources_of(forest)), torch.from_numpy(forest.wanted)

    def of(places):
        places = torch.from_numpy(places.astype(np.int64))
        return predicted[sources[places], wanted[places]]

    return [of(of_trunk.row(i)[1:]) for i in range(len(of_trunk))] + [
        of(row) for row in map(of_branch.row, range(len(of_branch)))
    ]


def alone(model, drawn):
    """The same, one sequence a forward pass."""
    trunks, owners, begins, branches = drawn

    def of(before, after):
        ids = torch.from_numpy(np.concatenate([before, after]).astype(np.int64))
        found = model(input_ids=ids[None, :-1], use_cache=False).logits[0].log_softmax(-1)
        return found.gather(1, ids[1:, None])[len(before) - 1 :, 0]

    whole = [of(trunks.row(i)[:1], trunks.row(i)[1:]) for i in range(len(trunks))]
    return whole + [of(trunks.row(o)[:b], branches.row(i)) for i, (o, b) in enumerate(zip(owners, begins, strict=True))]


@pytest.mark.parametrize("form", ["mask", "segments"])
@pytest.mark.parametrize("kind", [*MODELS])
def test_log_probs_and_gradients_are_those_of_one_sequence_a_forward(kind, form):
    windowed = kind in ("gemma3", "mistral")
    model = model_of(kind, "sdpa" if form == "mask" else BRANCHES)
    assert choose_form(model, 20) == ("mask" if form == "mask" or windowed else "segments")
    if windowed and form == "segments":
        return
    close = {"rtol": 1e-9, "atol": 1e-9} if kind in EXACT else {"rtol": 2e-5, "atol": 2e-5}

    @settings(max_examples=5)
    @given(trees(), st.integers(0, 1 << 20))
    def agree(drawn, seed):
        got, expected = log_probs(model, form, drawn), alone(model, drawn)
        rng = np.random.default_rng(seed)
        weights = [torch.from_numpy(rng.normal(size=len(values))) for values in expected]  # any loss of them
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **close)
        sums = (sum((w * v).sum() for w, v in zip(weights, values, strict=True)) for values in (got, expected))
        parameters = [p for p in model.parameters() if p.requires_grad]
        ours, theirs = (torch.autograd.grad(s, parameters, allow_unused=True) for s in sums)
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None)
            if b is not None:
                torch.testing.assert_close(
                    a, b, rtol=close["rtol"] * 10, atol=float(b.abs().max()) * close["rtol"] * 10 + 1e-12
                )

    agree()


@pytest.mark.parametrize("form", ["mask", "segments"])
def test_changing_one_branch_changes_no_other_and_nothing_before_its_fork(form):
    model = model_of("qwen3", "sdpa" if form == "mask" else BRANCHES)
    rng = np.random.default_rng(1)
    trunks = Ragged.from_lists([rng.integers(2, 90, 12).tolist(), rng.integers(2, 90, 7).tolist()])
    owners, begins = np.array([0, 0, 0, 0, 1, 1]), np.array([3, 3, 8, 8, 4, 4])
    rows = [rng.integers(2, 90, n).tolist() for n in (4, 5, 3, 4, 2, 4)]
    with torch.no_grad():
        before = log_probs(model, form, (trunks, owners, begins, Ragged.from_lists(rows)))
        for changed in range(len(rows)):
            other = [[1 + t for t in row] if i == changed else row for i, row in enumerate(rows)]
            after = log_probs(model, form, (trunks, owners, begins, Ragged.from_lists(other)))
            for i, (a, b) in enumerate(zip(before, after, strict=True)):
                assert torch.equal(a, b) == (i != changed + len(trunks)), (changed, i)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=9))
def test_rows_of_trees_are_no_wider_than_the_widest_and_lose_no_token(sizes):
    trunks = Ragged(np.arange(sum(sizes), dtype=np.int32), offsets_of(np.array(sizes)))
    forest, of_trunk, _ = Forest.of_trunks(trunks, np.zeros(0, np.int64), np.zeros(0, np.int64), Ragged.empty(0))
    batch = lay_out(forest, trunk_tokens(forest, of_trunk), "mask")
    assert batch["input_ids"].shape[1] == max(sizes) - 1
    assert batch["input_ids"].flatten()[batch["place"]].tolist() == forest.tokens.tolist()
    assert sorted(batch["number"][batch["number"] >= 0].tolist()) == list(range(len(forest.tokens)))
    rows = batch["number"].shape[0]
    assert sum(n - 1 for n in sizes) <= rows * (max(sizes) - 1)
    # No two rows could have been one.
    filled = (batch["number"] >= 0).sum(1)
    assert rows == 1 or (filled.sort().values[:2].sum() > max(sizes) - 1)


def test_models_that_cannot_are_found_out_by_trying():
    for kind in MODELS:
        assert read_apart(model_of(kind, "sdpa"), "mask", 20, 50), kind
    for kind in ("llama", "gpt2"):
        assert read_apart(model_of(kind, BRANCHES), "segments", 20, 50)
        assert not read_apart(model_of(kind, "sdpa"), "segments", 20, 50)  # sdpa looks at no segments
    neo = random_model(*KINDS["a bias buffer"][:1], **KINDS["a bias buffer"][1])
    assert not read_apart(neo, "mask", 20, 50) and not read_apart(neo, "mask", 20, 100)
    bloom = random_model(BloomConfig, vocab_size=97, hidden_size=32, n_layer=2, n_head=4)
    mamba = random_model(MambaConfig, vocab_size=97, hidden_size=32, num_hidden_layers=2)
    for model in (bloom, mamba):
        assert not read_apart(model, "mask", 20, 50)
        assert not model.training
    short = random_model(KINDS["a table of positions"][0], **KINDS["a table of positions"][1] | {"n_positions": 16})
    assert not read_apart(short, "mask", 20, 50)  # positions past its table
