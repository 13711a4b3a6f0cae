"""Attention for trunks with branches, without the pairs that a mask throws away: `attn_implementation: cprec_branches`.

A mask over a tree of 746 tokens (a history of 8 items, 6 siblings at each) computes 556,516 pairs, of which the tree
has a tenth. Here the trunk is read causally on its own, and what branches off at one place in one block on top of the
trunk before it: of the same tree 112,000 pairs. `benchmarks/listwise.py` compares the two.

Called without branches, it is transformers' `sdpa`. Importing this module makes the name known to transformers.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

BRANCHES = "cprec_branches"


def branch_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    branches: dict[str, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within trees, as transformers' AttentionInterface calls it.

    Args:
        module: the layer.
        query: [1, heads, tokens, head width].
        key: [1, key heads, tokens, head width].
        value: as `key`.
        attention_mask: not looked at where there are branches.
        scaling: of the products; 1 / sqrt(head width) if None.
        dropout: of the attention weights.
        branches: of `layout.model_inputs`: tokens by number, `trunk` [trees, m], `queries` [forks, n], `keys` [forks,
            m' + n], the additive `mask` [forks, 1, n, m' + n], and `back`, where each token stands in the first two.
        kwargs: what only other implementations use.

    Returns:
        [1, tokens, heads, head width], and None for the weights.

    Raises:
        ValueError: the architecture asks for what this has not (soft caps, sinks, position biases).
    """
    if branches is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"{BRANCHES} cannot do what {type(module).__name__} asks for (`{name}`)")
    heads = query.shape[1], key.shape[1], value.shape[1]
    q, k, v = (t[0].transpose(0, 1).flatten(1) for t in (query, key, value))  # [tokens, heads * width]
    grouped = heads[0] != heads[1]

    def take(tokens: Tensor, at: Tensor, heads: int) -> Tensor:
        """[rows, heads, columns, width]; by `embedding`, whose gradient is added up far faster than an index's."""
        return F.embedding(at, tokens).unflatten(-1, (heads, -1)).transpose(1, 2)

    def attend(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, columns, heads, width] of the tokens `queries` [rows, columns]."""
        qs, ks, vs = (take(t, at, h) for t, at, h in zip((q, k, v), (queries, keys, keys), heads, strict=True))
        mask = None if mask is None else mask.to(qs.dtype)
        attended = F.scaled_dot_product_attention(
            qs, ks, vs, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
        return attended.transpose(1, 2)

    out = attend(branches["trunk"], branches["trunk"], None).flatten(0, 1)
    if len(branches["queries"]):
        out = torch.cat([out, attend(branches["queries"], branches["keys"], branches["mask"]).flatten(0, 1)])
    return F.embedding(branches["back"], out.flatten(1)).unflatten(-1, (heads[0], -1))[None], None


AttentionInterface.register(BRANCHES, branch_attention)
AttentionMaskInterface.register(BRANCHES, sdpa_mask)
