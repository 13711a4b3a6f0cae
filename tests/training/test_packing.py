import copy

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.training.kernels import IGNORED, teach_summed_loss
from cprec_hf.training.packing import BlockCollator, Order, pack_rows, refuse_leaks, row_lengths


def rows_of(lists):
    return datasets.Dataset.from_dict({"input_ids": lists, "labels": lists})


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(8, 20))
@settings(max_examples=15)
def test_packing_keeps_every_token_in_its_place(lengths, block):
    documents = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    packed = pack_rows(rows_of([d.tolist() for d in documents]), block, seed=0)
    assert row_lengths(packed).max() <= block
    pieces = []
    for row in packed:
        assert sum(row["seq_lengths"]) == len(row["input_ids"])
        pieces += np.split(row["input_ids"], np.cumsum(row["seq_lengths"])[:-1])
    assert sorted(np.concatenate(pieces)) == list(range(sum(lengths)))
    # Every piece is a run of one document's tokens: the first of a document, or the token behind another piece's last.
    ends, starts = {int(p[-1]) + 1 for p in pieces}, {int(d[0]) for d in documents}
    assert all((np.diff(p) == 1).all() and int(p[0]) in starts | ends for p in pieces)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt_neo", "mistral"])
def test_packed_loss_equals_unpacked_loss(kind, make_tiny_model, byte_level_tokenizer):
    """A batch of blocks against each document alone through the model's own forward: loss and gradients."""
    rng = np.random.default_rng(3)
    documents = [rng.integers(1, 400, n).tolist() for n in (40, 7, 33, 21, 2, 30, 64)]
    packed = pack_rows(rows_of(documents), 64, seed=0)
    assert len(packed) < len(documents)
    model = make_tiny_model(kind, byte_level_tokenizer)
    teach_summed_loss(model)
    refuse_leaks(model)
    batch = BlockCollator(0)([packed[i] for i in range(len(packed))])
    loss = model(**batch, summed_loss=True)
    loss.backward()
    gradients = [p.grad.clone() for p in model.parameters()]

    alone = copy.deepcopy(make_tiny_model(kind, byte_level_tokenizer))
    expected = torch.zeros(())
    for document in documents:
        ids = torch.tensor([document])
        expected = expected + F.cross_entropy(alone(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    expected.backward()
    assert (batch["labels"][:, 1:] != IGNORED).sum() == sum(len(d) - 1 for d in documents)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for got, p in zip(gradients, alone.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-5)


def test_a_document_cannot_see_its_neighbours(tiny_model, byte_level_tokenizer):
    model = tiny_model(byte_level_tokenizer)
    row = {"input_ids": list(range(5, 25)), "labels": list(range(5, 25)), "seq_lengths": [8, 12]}
    other = {**row, "input_ids": [*range(60, 68), *row["input_ids"][8:]]}
    batch = BlockCollator(0)([row, other])
    batch.pop("labels")
    hidden = model.model(**batch, use_cache=False).last_hidden_state
    assert torch.equal(hidden[0, 8:], hidden[1, 8:])
    assert not torch.equal(hidden[0, :8], hidden[1, :8])


def test_a_model_that_leaks_is_refused(tiny_model, byte_level_tokenizer, monkeypatch):
    model = tiny_model(byte_level_tokenizer)
    refuse_leaks(model)
    whole = type(model.base_model).forward

    def leaky(self, input_ids=None, position_ids=None, **kwargs):
        """Reads a block as one document, as an architecture does that ignores where positions restart."""
        return whole(self, input_ids=input_ids, position_ids=torch.arange(input_ids.shape[1])[None], **kwargs)

    monkeypatch.setattr(type(model.base_model), "forward", leaky)
    with pytest.raises(InputError, match="packing: false"):
        refuse_leaks(model)


def test_a_model_with_a_state_across_positions_is_refused(byte_level_tokenizer):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4, intermediate_size=32)
    with pytest.raises(InputError, match="packing: false"):
        refuse_leaks(MambaForCausalLM(config))


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_the_collator_against_one_written_row_by_row(seq_lengths):
    rows = []
    for lengths in seq_lengths:
        ids = list(range(100, 100 + sum(lengths)))
        rows.append({"input_ids": ids, "labels": [i + 1 for i in ids], "seq_lengths": lengths})
    batch = BlockCollator(7)(rows)
    width = max(sum(lengths) for lengths in seq_lengths)
    for i, (row, lengths) in enumerate(zip(rows, seq_lengths, strict=True)):
        n, positions, labels = sum(lengths), [], []
        for length in lengths:
            labels += [IGNORED, *row["labels"][len(positions) + 1 : len(positions) + length]]
            positions += range(length)
        assert batch["input_ids"][i].tolist() == row["input_ids"] + [7] * (width - n)
        assert batch["labels"][i].tolist() == labels + [IGNORED] * (width - n)
        assert batch["position_ids"][i, :n].tolist() == positions
        assert (batch["position_ids"][i, n:].diff() == 1).all()


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
def test_the_order_reads_every_row_once_an_epoch_and_counts_its_tokens(n, batch, steps, seed, start):
    start = min(start, steps)
    lengths = np.random.default_rng(n).integers(1, 100, n)
    order = Order(lengths, batch, steps, seed, start)
    read = list(order)
    assert len(read) == len(order) == steps * batch
    used = read[start * batch :]
    for epoch in range(0, len(used) - n + 1, n):
        assert sorted(used[epoch : epoch + n]) == list(range(n))
    assert used == list(Order(lengths, batch, steps - start, seed))  # a branch reads its data from the beginning
    assert used == list(Order(lengths, batch, steps + 7, seed))[: len(used)]  # a longer run begins alike
    for step in range(steps + 1):
        assert order.tokens(step) == lengths[used[: max(step - start, 0) * batch]].sum()


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    batch=st.integers(1, 4),
    start=st.integers(0, 6),
    more=st.integers(1, 6),
)
def test_a_stage_that_continues_reads_on_and_counts_its_own_tokens(lengths, batch, start, more):
    lengths, steps = np.array(lengths), start + more
    whole = Order(lengths, batch, steps, 3)
    branch = Order(lengths, batch, steps, 3, start, continues=True)
    assert list(branch) == list(whole)
    for step in range(steps + 1):
        read = list(whole)[start * batch : max(step, start) * batch]
        assert branch.tokens(step) == lengths[read].sum()
