"""BERT4Rec: attention in both directions over a history in which some items are masked and are to be told.

Sun et al., "BERT4Rec", CIKM 2019. Petrov and Macdonald, "A Systematic Review and Replicability Study of BERT4Rec for
Sequential Recommendation", RecSys 2022: its reported quality needs training up to 30 times as long as the common
implementations' defaults, for an epoch predicts only what is masked; hence a schedule of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cprec_hf.evaluation.sequential.model import SequenceModel, inside
from cprec_hf.evaluation.sequential.sasrec import positions_from_the_end
from cprec_hf.evaluation.sequential.trainer import Schedule


@dataclass(frozen=True)
class Bert4recSettings:
    """Sizes of `Bert4rec`."""

    width: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    history: int = 50
    """Most items read, the latest."""
    masked: float = 0.2
    """Share of a window's items that are masked, beside the last one."""


BERT4REC_GRID = [Bert4recSettings(masked=masked) for masked in (0.2, 0.5)]
BERT4REC_SCHEDULE = Schedule(max_epochs=300, patience=30)


class Bert4rec(SequenceModel):
    """Item and position embeddings, blocks of attention and feed-forward layers normed after each part, a head.

    What follows a history is asked for by a mask after it. In training the last item of a window is always masked too,
    as it is when ranking (the paper adds windows with only the last masked; one batch for both is our choice).

    Args:
        n_rows: rows of the item table that are items; one more is the mask.
        settings: sizes.
    """

    def __init__(self, n_rows: int, settings: Bert4recSettings) -> None:
        super().__init__()
        self.n_rows, self.history, self.window = n_rows, settings.history, settings.history + 1
        self.masked = settings.masked
        width = settings.width
        self.items = nn.Embedding(n_rows + 1, width)
        self.positions = nn.Embedding(self.window, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(settings.dropout)
        block = nn.TransformerEncoderLayer(width, settings.heads, 4 * width, settings.dropout, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(block, settings.blocks, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(n_rows))
        nn.init.normal_(self.items.weight, std=width**-0.5)
        nn.init.normal_(self.positions.weight, std=width**-0.5)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See `SequenceModel.forward`; a state knows the whole row."""
        places = positions_from_the_end(lengths, ids.shape[1], self.window)
        states = self.dropout(self.norm(self.items(ids) + self.positions(places)))
        return self.head(self.blocks(states, src_key_padding_mask=~inside(lengths, ids.shape[1])))

    def examples(
        self, ids: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The masked items of a window: its last, and a share of the others."""
        drawn = (torch.rand(ids.shape, generator=generator) < self.masked).to(ids.device)
        last = torch.arange(ids.shape[1], device=ids.device) == lengths[:, None] - 1
        masked = (drawn & inside(lengths, ids.shape[1])) | last
        return self(torch.where(masked, self.n_rows, ids), lengths)[masked], ids[masked]

    def last(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The state of a mask after the history."""
        rows = torch.arange(len(ids), device=ids.device)
        longer = torch.cat([ids, torch.zeros_like(ids[:, :1])], dim=1)
        longer[rows, lengths] = self.n_rows
        return self(longer, lengths + 1)[rows, lengths]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Inner products with the items of the table, and a bias for each."""
        return super().logits(states) + self.bias
