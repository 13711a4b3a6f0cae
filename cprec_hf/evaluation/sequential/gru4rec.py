"""GRU4Rec: a gated recurrent network over the history, trained with the cross-entropy over all items.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016. The full softmax stands in
place of their sampled pairwise losses (their later releases have it too), and whole windows in place of parallel
sessions; both as in the other models here, so that a table compares architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cprec_hf.evaluation.sequential.model import NextItemModel


@dataclass(frozen=True)
class Gru4recSettings:
    """Sizes of `Gru4rec`."""

    width: int = 64
    """Of the item embeddings."""
    hidden: int = 128
    dropout: float = 0.2
    history: int = 50
    """Most items read, the latest."""


GRU4REC_GRID = [Gru4recSettings(dropout=dropout) for dropout in (0.2, 0.5)]


class Gru4rec(NextItemModel):
    """Item embeddings, one GRU layer, and a map back to the embeddings, whose inner products are the scores.

    Args:
        n_rows: rows of the item table.
        settings: sizes.
    """

    def __init__(self, n_rows: int, settings: Gru4recSettings) -> None:
        super().__init__()
        self.n_rows, self.history, self.window = n_rows, settings.history, settings.history + 1
        self.items = nn.Embedding(n_rows, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.gru = nn.GRU(settings.width, settings.hidden, batch_first=True)
        self.out = nn.Linear(settings.hidden, settings.width)
        nn.init.normal_(self.items.weight, std=settings.width**-0.5)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See `SequenceModel.forward`."""
        return self.out(self.dropout(self.gru(self.dropout(self.items(ids)))[0]))
