"""The three models against other libraries' layers with their weights, and what a state may and may not know."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from cprec_hf.evaluation.sequential.bert4rec import Bert4rec, Bert4recSettings
from cprec_hf.evaluation.sequential.gru4rec import Gru4rec, Gru4recSettings
from cprec_hf.evaluation.sequential.model import SequenceModel
from cprec_hf.evaluation.sequential.sasrec import Sasrec, SasrecSettings

N, WIDTH, HISTORY = 9, 8, 6


def make(kind: str, dropout: float = 0.0) -> SequenceModel:
    torch.manual_seed(3)
    made: dict[str, Callable[[], SequenceModel]] = {
        "sasrec": lambda: Sasrec(N, SasrecSettings(WIDTH, dropout=dropout, history=HISTORY)),
        "gru4rec": lambda: Gru4rec(N, Gru4recSettings(WIDTH, hidden=12, dropout=dropout, history=HISTORY)),
        "bert4rec": lambda: Bert4rec(N, Bert4recSettings(WIDTH, dropout=dropout, history=HISTORY)),
    }
    model = made[kind]()
    for name, weight in model.named_parameters():  # norms and biases too have a part in what is compared
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, mean=float("norm" in name and name.endswith("weight")), std=0.3)
    return model


IDS, LENGTHS = torch.tensor([[4, 1, 7, 2, 0], [5, 8, 3, 0, 0]]), torch.tensor([5, 3])
KINDS = ["sasrec", "gru4rec", "bert4rec"]


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_no_state_knows_what_comes_after_it(kind: str) -> None:
    model = make(kind)
    before = model(IDS, LENGTHS)
    for place in range(1, 5):
        changed = IDS.clone()
        changed[0, place:] = (changed[0, place:] + 1) % N
        after = model(changed, LENGTHS)
        torch.testing.assert_close(after[0, :place], before[0, :place], atol=1e-6, rtol=0)
        assert (after[0, place:] - before[0, place:]).abs().amax(dim=1).min() > 1e-4


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec"])
def test_each_position_is_to_tell_the_next_item(kind: str) -> None:
    model = make(kind)
    states, targets = model.examples(IDS, LENGTHS, torch.Generator())
    assert targets.tolist() == [1, 7, 2, 0, 8, 3]
    row = 0
    for i, length in enumerate(LENGTHS.tolist()):  # as ranking asks for it, with what came before only
        for seen in range(1, length):
            if kind == "gru4rec":  # SASRec's positions count from the end of a row
                alone = model.last(IDS[i : i + 1, :seen], torch.tensor([seen]))[0]
                torch.testing.assert_close(states[row], alone, atol=1e-6, rtol=0)
            row += 1
        alone = model.last(IDS[i : i + 1, : length - 1], torch.tensor([length - 1]))[0]
        torch.testing.assert_close(states[row - 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_the_rest_of_a_batch_change_nothing(kind: str) -> None:
    model = make(kind)
    together = model.last(IDS, LENGTHS)
    for i, length in enumerate(LENGTHS):
        alone = model.last(IDS[i : i + 1, :length], length[None])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    padding = IDS.clone()
    padding[1, 3:] = 6
    torch.testing.assert_close(model.last(padding, LENGTHS), together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ranking_computes_what_training_computes(kind: str) -> None:
    """Without gradients torch takes other kernels."""
    model = make(kind)
    model.train()
    trained = model.last(IDS, LENGTHS)
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(model.last(IDS, LENGTHS), trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_history_has_a_score_for_every_item(kind: str) -> None:
    model = make(kind).eval()
    scores = model.logits(model.last(torch.zeros((1, 1), dtype=torch.long), torch.zeros(1, dtype=torch.long)))
    assert scores.shape == (1, N) and scores.isfinite().all()
    assert kind == "bert4rec" or scores.unique().numel() == 1  # BERT4Rec reads a mask alone


def copy_linear(to: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
    to.weight.data, to.bias.data = weight.data, bias.data


def test_sasrec_is_gpt2_with_its_weights() -> None:
    """transformers' GPT-2 is the same stack: normed before each part, causal, a last norm."""
    from transformers import GPT2Config, GPT2Model

    model = make("sasrec").eval()
    twin = GPT2Model(
        GPT2Config(
            vocab_size=N, n_positions=HISTORY, n_embd=WIDTH, n_inner=WIDTH, n_layer=2, n_head=2,
            activation_function="gelu", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
        )
    ).eval()  # fmt: skip
    twin.wpe.weight.data = model.positions.weight.data
    for ours, theirs in zip(model.blocks.layers, twin.h, strict=True):
        copy_linear(theirs.ln_1, ours.norm1.weight, ours.norm1.bias)
        copy_linear(theirs.ln_2, ours.norm2.weight, ours.norm2.bias)
        copy_linear(theirs.attn.c_attn, ours.self_attn.in_proj_weight.T, ours.self_attn.in_proj_bias)
        copy_linear(theirs.attn.c_proj, ours.self_attn.out_proj.weight.T, ours.self_attn.out_proj.bias)
        copy_linear(theirs.mlp.c_fc, ours.linear1.weight.T, ours.linear1.bias)
        copy_linear(theirs.mlp.c_proj, ours.linear2.weight.T, ours.linear2.bias)
    copy_linear(twin.ln_f, model.blocks.norm.weight, model.blocks.norm.bias)
    with torch.no_grad():
        for i, length in enumerate(LENGTHS.tolist()):
            places = torch.arange(HISTORY - length, HISTORY)[None]  # the last item has the last position
            expected = twin(inputs_embeds=model.items(IDS[i : i + 1, :length]), position_ids=places).last_hidden_state
            found = model(IDS, LENGTHS)[i : i + 1, :length]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
            scores = model.logits(found[:, -1])[0]
            torch.testing.assert_close(scores, torch.stack([found[0, -1] @ row for row in model.items.weight]))


def test_bert4rec_is_bert_with_its_weights() -> None:
    from transformers import BertConfig, BertModel

    model = make("bert4rec").eval()
    config = BertConfig(
        vocab_size=N + 1, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * WIDTH,
        max_position_embeddings=HISTORY + 1, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    twin = BertModel(config, add_pooling_layer=False).eval()
    twin.embeddings.word_embeddings.weight.data = model.items.weight.data
    twin.embeddings.position_embeddings.weight.data = model.positions.weight.data
    twin.embeddings.token_type_embeddings.weight.data.zero_()
    copy_linear(twin.embeddings.LayerNorm, model.norm.weight, model.norm.bias)
    for ours, theirs in zip(model.blocks.layers, twin.encoder.layer, strict=True):
        weights, biases = ours.self_attn.in_proj_weight.chunk(3), ours.self_attn.in_proj_bias.chunk(3)
        attention = theirs.attention
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            copy_linear(getattr(attention.self, part), weight, bias)
        copy_linear(attention.output.dense, ours.self_attn.out_proj.weight, ours.self_attn.out_proj.bias)
        copy_linear(attention.output.LayerNorm, ours.norm1.weight, ours.norm1.bias)
        copy_linear(theirs.intermediate.dense, ours.linear1.weight, ours.linear1.bias)
        copy_linear(theirs.output.dense, ours.linear2.weight, ours.linear2.bias)
        copy_linear(theirs.output.LayerNorm, ours.norm2.weight, ours.norm2.bias)
    with torch.no_grad():
        for i, length in enumerate(LENGTHS.tolist()):
            asked = torch.cat([IDS[i, :length], torch.tensor([N])])[None]  # the mask after the history
            places = torch.arange(HISTORY - length, HISTORY + 1)[None]
            states = twin(input_ids=asked, position_ids=places).last_hidden_state[:, -1]
            linear, _, norm = model.head
            expected = norm(functional.gelu(states @ linear.weight.T + linear.bias))
            torch.testing.assert_close(model.last(IDS, LENGTHS)[i : i + 1], expected, atol=1e-5, rtol=0)
            scores = expected @ model.items.weight[:N].T + model.bias
            torch.testing.assert_close(model.logits(expected), scores)


def test_gru4rec_is_the_recurrence_step_by_step() -> None:
    model = make("gru4rec").eval()
    found = model(IDS, LENGTHS).detach().numpy()
    w, u, b, c = (
        getattr(model.gru, f"{n}_l0").detach().numpy() for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    x = model.items(IDS).detach().numpy()[0]
    h = np.zeros(12)
    for step, given in enumerate(x):
        (reset, update, new), (r, z, n) = np.split(w @ given + b, 3), np.split(u @ h + c, 3)
        keep = 1 / (1 + np.exp(-(update + z)))
        h = (1 - keep) * np.tanh(new + n / (1 + np.exp(-(reset + r)))) + keep * h
        expected = model.out.weight.detach().numpy() @ h + model.out.bias.detach().numpy()
        np.testing.assert_allclose(found[0, step], expected, atol=1e-5)


def test_bert4rec_is_told_nothing_of_what_it_is_to_tell() -> None:
    model = make("bert4rec")
    model.masked = 0.4
    ids, lengths = torch.randint(N, (40, 7), generator=torch.Generator().manual_seed(0)), torch.full((40,), 7)
    lengths[::2] = 4

    def read(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.examples(given, lengths, torch.Generator().manual_seed(1))

    states, targets = read(ids)
    drawn = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    column = torch.arange(7)
    masked = (drawn & (column < lengths[:, None])) | (column == lengths[:, None] - 1)
    assert targets.tolist() == ids[masked].tolist()
    torch.testing.assert_close(read(torch.where(masked, (ids + 1) % N, ids))[0], states)  # other answers, same states
    others = read(torch.where(masked, ids, (ids + 1) % N))[0]  # other questions, other states
    assert (others - states).abs().amax(dim=1).median() > 1e-3
    first = model(ids, lengths)[:, 0]
    later = ids.clone()
    later[:, 3] = (later[:, 3] + 1) % N
    assert (model(later, lengths)[:, 0] - first).abs().amax(dim=1).min() > 1e-5  # it reads in both directions
