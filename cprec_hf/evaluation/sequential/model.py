"""What the trainer and the scorer need of a sequential model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class SequenceModel(nn.Module, ABC):
    """Reads sequences of rows of its item table, and says by inner products with the table what comes next.

    Attributes:
        n_rows: rows of the table that can come next.
        window: most items of a training window.
        history: most items read before what is asked for.
        items: the table; rows from `n_rows` on are no items.
    """

    n_rows: int
    window: int
    history: int
    items: nn.Embedding

    @abstractmethod
    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """A state for each position. Shapes: ids int64 [rows, columns], lengths int64 [rows] -> [rows, columns, width].

        States of padding, which stands on the right, mean nothing.
        """

    @abstractmethod
    def examples(
        self, ids: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States that are to predict, and what they are to predict, of a batch of windows.

        Args:
            ids: int64 [rows, columns].
            lengths: int64 [rows], at least 2.
            generator: draws what a model draws.

        Returns:
            float [n, width] and int64 [n].
        """

    @abstractmethod
    def last(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The state that predicts what follows each row, of at most `history` items; [rows, width]."""

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Scores of all items: inner products with the table. Shapes: [n, width] -> [n, n_rows]."""
        return states @ self.items.weight[: self.n_rows].T


class NextItemModel(SequenceModel):
    """A model whose state at a position knows that item and the ones before, and predicts the next."""

    def examples(
        self, ids: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Every position of a window but the last predicts the next one."""
        real = inside(lengths - 1, ids.shape[1] - 1)
        return self(ids[:, :-1], lengths - 1)[real], ids[:, 1:][real]

    def last(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The state at the last item; zero where there is none, so that all items have one score."""
        states = self(ids, lengths)[torch.arange(len(ids), device=ids.device), (lengths - 1).clamp(min=0)]
        return states * (lengths > 0)[:, None]


def inside(lengths: torch.Tensor, columns: int) -> torch.Tensor:
    """Which cells are no padding, bool [rows, columns]."""
    return torch.arange(columns, device=lengths.device) < lengths[:, None]
