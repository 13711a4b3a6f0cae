"""SASRec: causal self-attention over the history, trained with the cross-entropy over all items.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. The loss is the full softmax in place of one
sampled negative: Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, find that this is what makes
SASRec as good as or better than its successors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from cprec_hf.evaluation.sequential.model import NextItemModel


@dataclass(frozen=True)
class SasrecSettings:
    """Sizes of `Sasrec`."""

    width: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    history: int = 50
    """Most items read, the latest."""


SASREC_GRID = [SasrecSettings(dropout=dropout) for dropout in (0.2, 0.5)]


class Sasrec(NextItemModel):
    """Item and position embeddings, blocks of attention to the past and of a feed-forward layer, a last layer norm.

    Blocks are torch's, normed before each part; as in the paper, their feed-forward layers are no wider than the rest
    (four times the width cost more, and in one run of 25 epochs on ML-100K was no better). Positions are counted from
    the end of the row, as in the paper, which pads on the left.

    Args:
        n_rows: rows of the item table.
        settings: sizes.
    """

    def __init__(self, n_rows: int, settings: SasrecSettings) -> None:
        super().__init__()
        self.n_rows, self.history, self.window = n_rows, settings.history, settings.history + 1
        width = settings.width
        self.items = nn.Embedding(n_rows, width)
        self.positions = nn.Embedding(settings.history, width)
        self.dropout = nn.Dropout(settings.dropout)
        block = nn.TransformerEncoderLayer(
            width, settings.heads, width, settings.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, settings.blocks, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.normal_(self.items.weight, std=width**-0.5)
        nn.init.normal_(self.positions.weight, std=width**-0.5)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """See `SequenceModel.forward`; a state knows its item and those before, so padding needs no mask."""
        places = positions_from_the_end(lengths, ids.shape[1], len(self.positions.weight))
        states = self.dropout(self.items(ids) + self.positions(places))
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=ids.device, dtype=states.dtype)
        return self.blocks(states, causal, is_causal=True)


def positions_from_the_end(lengths: torch.Tensor, columns: int, size: int) -> torch.Tensor:
    """The position of each cell, int64 [rows, columns]: `size` - 1 for a row's last item, one less for each before."""
    return (size - lengths[:, None] + torch.arange(columns, device=lengths.device)).clamp(max=size - 1)
