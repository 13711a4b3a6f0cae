"""Training: what is planted is learnt, twice the same, and the best epoch is what remains."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.evaluation.sequential import trainer
from cprec_hf.evaluation.sequential.batches import batches, padded
from cprec_hf.evaluation.sequential.bert4rec import Bert4rec, Bert4recSettings
from cprec_hf.evaluation.sequential.gru4rec import Gru4rec, Gru4recSettings
from cprec_hf.evaluation.sequential.model import SequenceModel
from cprec_hf.evaluation.sequential.sasrec import Sasrec, SasrecSettings
from cprec_hf.evaluation.sequential.trainer import Schedule, mean_loss, train_model

N = 20
FAST = Schedule(max_epochs=12, patience=12, learning_rate=5e-3, batch_items=128)


def build(kind: str, dropout: float = 0.1) -> SequenceModel:
    torch.manual_seed(0)
    if kind == "gru4rec":
        return Gru4rec(N, Gru4recSettings(32, hidden=32, dropout=dropout, history=8))
    if kind == "bert4rec":
        return Bert4rec(N, Bert4recSettings(32, dropout=dropout, history=8, masked=0.3))
    return Sasrec(N, SasrecSettings(32, dropout=dropout, history=8))


def walks(n: int, seed: int) -> np.ndarray:
    """Each item is followed by the one that a fixed permutation says; [n, 8]."""
    rng = np.random.default_rng(7)
    follower = np.roll(rng.permutation(N), 1)[np.argsort(rng.permutation(N))]
    found = [np.random.default_rng(seed).integers(0, N, n)]
    for _ in range(7):
        found.append(follower[found[-1]])
    return np.stack(found, axis=1)


def accuracy(model: SequenceModel, rows: np.ndarray) -> float:
    model.eval()
    with torch.inference_mode():
        ids, lengths = padded(Ragged.from_lists(rows[:, :-1].tolist()), model.history)
        return float((model.logits(model.last(ids, lengths)).argmax(1).numpy() == rows[:, -1]).mean())


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "bert4rec"])
def test_a_planted_transition_is_learnt(kind: str) -> None:
    model, held = build(kind), walks(50, 1)
    schedule = replace(FAST, max_epochs=20) if kind == "bert4rec" else FAST
    trained = train_model(
        model, Ragged.from_lists(walks(120, 0).tolist()), lambda: accuracy(model, held), schedule, 0, "toy"
    )
    assert trained.validation > (0.5 if kind == "bert4rec" else 0.9)  # by chance 0.05; BERT4Rec needs longer
    assert accuracy(model, held) == trained.validation


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    sequences = Ragged.from_lists(walks(40, 0).tolist())

    def weights(seed: int) -> list[torch.Tensor]:
        model = build("sasrec")
        torch.manual_seed(5)
        train_model(model, sequences, lambda: 0.0, replace(FAST, max_epochs=0), seed, "toy")
        epochs = iter(range(100))
        train_model(model, sequences, lambda: float(next(epochs)), replace(FAST, max_epochs=2), seed, "toy")
        torch.testing.assert_close(torch.rand(1), torch.manual_seed(5) and torch.rand(1))
        return [weight.clone() for weight in model.state_dict().values()]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_training_ends_when_validation_stops_rising_and_keeps_the_best_epoch() -> None:
    values, kept = iter([0.1, 0.3, 0.6, 0.6, 0.2, 0.5, 0.9]), []
    model = build("gru4rec")

    def validate() -> float:
        kept.append(model.items.weight.detach().clone())
        return next(values)

    trained = train_model(
        model, Ragged.from_lists(walks(20, 0).tolist()), validate, replace(FAST, patience=3), 0, "toy"
    )
    assert (trained.epochs, trained.best_epoch, trained.validation) == (5, 2, 0.6)
    assert torch.equal(model.items.weight, kept[2]) and not torch.equal(kept[2], kept[5])


def test_the_loss_in_parts_is_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("bert4rec", dropout=0.0)
    states, targets = torch.randn(30, 32, requires_grad=True), torch.randint(N, (30,))
    log_probs = torch.log_softmax(states @ model.items.weight[:N].T + model.bias, dim=1)
    expected = -log_probs[torch.arange(30), targets].mean()
    wanted = torch.autograd.grad(expected, [states, model.items.weight], retain_graph=True)
    for bound in (1 << 26, 7 * N, 1):  # whole, seven rows at a time, one at a time
        monkeypatch.setattr(trainer, "_LOGITS", bound)
        loss = mean_loss(model, states, targets)
        torch.testing.assert_close(loss, expected)
        for found, right in zip(torch.autograd.grad(loss, [states, model.items.weight]), wanted, strict=True):
            torch.testing.assert_close(found, right)


def test_batches_hold_every_window_and_little_padding() -> None:
    rng = np.random.default_rng(0)
    sequences = Ragged.from_lists([list(range(int(n))) for n in rng.integers(2, 30, 200)])
    found = list(batches(sequences, 31, 100, rng))
    lengths = torch.cat([lengths for _, lengths in found]).numpy()
    assert sorted(lengths) == sorted(sequences.lengths)
    assert all(ids.tolist()[0][: int(n[0])] == list(range(int(n[0]))) for ids, n in found)
    assert sum(ids.numel() for ids, _ in found) < 1.1 * lengths.sum()
    assert max(int(n.sum()) for _, n in found) <= 130
