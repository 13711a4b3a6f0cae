"""Trains a sequential model: seeded, with the full softmax, until ndcg on validation has stopped rising."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.evaluation.sequential.batches import batches
from cprec_hf.evaluation.sequential.model import SequenceModel

_LOGITS = 1 << 26  # held at once: 256 MB


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained. Our choice; AdamW at 1e-3 is usual.

    SASRec can sit at popularity's level for a while before it learns more, where a short run or little patience would
    leave it: about 5 epochs on Amazon Scientific with this schedule, 20 in a trial of ours with another. On ML-100K
    batches of 1,024 items reached an ndcg of .095 after 10 epochs, batches of 128 windows after 25.
    """

    max_epochs: int = 100
    patience: int = 10
    """Epochs without a better validation after which training ends."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    batch_items: int = 1024


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    epochs: int
    """That were run."""
    best_epoch: int
    """After which the model was best, which is the one kept; 0 is the untrained one."""
    validation: float
    """Of that epoch."""


def train_model(
    model: SequenceModel, sequences: Ragged, validate: Callable[[], float], schedule: Schedule, seed: int, name: str
) -> Trained:
    """Train a model in place, and leave it as it was after its best epoch.

    Same arguments and the same number of threads, same weights, on a CPU; the global random state is left alone. On a
    terminal a bar shows the epoch and the time that all epochs would take, which is the longest it can last.

    Args:
        model: with its first weights, on its device.
        sequences: rows of the model's item table, at least two a sequence.
        validate: what the model in its present state is worth, higher is better; called after each epoch.
        schedule: see there.
        seed: of batches, masks and dropout.
        name: shown with the bar.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    place = model.items.weight.device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.98)
    )
    best, best_state = Trained(0, 0, validate()), copy.deepcopy(model.state_dict())
    bar = tqdm(desc=name, total=schedule.max_epochs, unit="epoch", delay=2, disable=None, leave=False)
    with torch.random.fork_rng(), bar:
        torch.manual_seed(seed)
        for epoch in range(1, schedule.max_epochs + 1):
            model.train()
            for ids, lengths in batches(sequences, model.window, schedule.batch_items, rng):
                optimizer.zero_grad(set_to_none=True)
                states, targets = model.examples(ids.to(place), lengths.to(place), generator)
                mean_loss(model, states, targets).backward()
                optimizer.step()
            value = validate()
            if value > best.validation:
                best, best_state = Trained(epoch, epoch, value), copy.deepcopy(model.state_dict())
            best = replace(best, epochs=epoch)
            bar.update()
            bar.set_postfix({"ndcg": f"{value:.4f}", "best": f"{best.validation:.4f}"})
            if epoch - best.best_epoch >= schedule.patience:
                break
    model.load_state_dict(best_state)
    return best


def mean_loss(model: SequenceModel, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy over all items, in nats a target, holding a bounded number of logits at once.

    Args:
        model: gives the logits.
        states: [n, width].
        targets: rows of the item table int64 [n].
    """

    def summed(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model.logits(states), targets, reduction="sum")

    size = max(1, _LOGITS // model.n_rows)
    if len(states) <= size:
        return summed(states, targets) / len(targets)
    parts = zip(states.split(size), targets.split(size), strict=True)  # their logits are made again for the gradient
    return torch.stack([checkpoint(summed, *part, use_reentrant=False) for part in parts]).sum() / len(targets)
