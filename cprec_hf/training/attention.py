"""Attention that computes within documents only: `attn_implementation: cprec_varlen` in a recipe.

A mask over a packed block is [length, length] for every row, and all of it is computed and thrown away but the blocks
on its diagonal: of 8,192 tokens in documents of 256, one part in 32. Kernels for sequences of varying length get the
documents' boundaries instead. On a GPU this is torch's own (`torch.nn.attention.varlen`, FlashAttention without the
package); elsewhere, and in float32, each document goes through torch's attention alone, which a CPU test compares with
the mask. Whatever is not a plain packed or plain batch (padding, a cache) goes to transformers' `sdpa`.

The boundaries are read from the position ids, as transformers reads them for its masks;
`BlockCollator(boundaries=True)` sends them along, so that no layer waits for the GPU to find them. transformers' own
`flex_attention` works too. Importing this module makes the name known to transformers.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from cprec_hf.errors import InputError

VARLEN = "cprec_varlen"
_LARGEST_HEAD = 256  # of FlashAttention


def document_starts(position_ids: Tensor) -> Tensor:
    """Where documents begin in a batch read row after row: bool [batch, length]; a row's first token always does."""
    first = torch.ones_like(position_ids[:, :1], dtype=torch.bool)
    return torch.cat([first, position_ids.diff(dim=-1) != 1], dim=-1)


def boundaries(position_ids: Tensor) -> tuple[Tensor, int]:
    """The documents of a batch that is read row after row.

    Args:
        position_ids: int64 [batch, length], restarting with each document.

    Returns:
        Cumulative lengths, int32 [n_documents + 1], and a bound on the longest, a power of two (few different ones, so
        that a compiled model is not compiled again for each batch).
    """
    ends = torch.tensor([position_ids.numel()], device=position_ids.device)
    cumulative = torch.cat([document_starts(position_ids).flatten().nonzero().flatten(), ends])
    longest = int(cumulative.diff().max())
    return cumulative.to(torch.int32), 1 << (longest - 1).bit_length()


def check_attention(model: Any) -> None:
    """Refuse a model that would compute another function under `cprec_varlen` than under a mask.

    Raises:
        InputError: it has layers that attend otherwise than to all or to a window, or attention with dropout.
    """
    config = model.config.get_text_config()
    if config._attn_implementation != VARLEN:
        return
    layers = set(getattr(config, "layer_types", None) or ())
    if other := layers - {"full_attention", "sliding_attention"}:
        raise InputError(f"`attn_implementation: {VARLEN}` knows no layers of type {min(other)}; use `sdpa`")
    if getattr(config, "attention_dropout", 0) or not getattr(config, "is_causal", True):
        raise InputError(
            f"`attn_implementation: {VARLEN}` is causal and without dropout, and the model's config says otherwise; "
            "use `sdpa`"
        )


def varlen_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each document, as transformers' AttentionInterface calls it.

    Args:
        module: the layer.
        query: [batch, heads, length, head width].
        key: [batch, key heads, length, head width].
        value: as `key`.
        attention_mask: None for packed and plain batches; with one, this is transformers' `sdpa`.
        scaling: of the products; 1 / sqrt(head width) if None.
        sliding_window: how many tokens a token sees, itself included; None for all before it.
        position_ids: [batch, length], restarting with each document.
        cu_seq_lens_q: of `boundaries`, if known.
        max_length_q: of `boundaries`, if known.
        kwargs: what only other implementations use.

    Returns:
        [batch, length, heads, head width], and None for the weights.

    Raises:
        InputError: the architecture asks for what this has not (soft caps, sinks, position biases).
    """
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise InputError(f"`attn_implementation: {VARLEN}` cannot do what this model asks for (`{name}`)")
    batch, length = query.shape[0], query.shape[2]
    if cu_seq_lens_q is None or max_length_q is None:
        if position_ids is None or position_ids.ndim != 2:
            position_ids = torch.arange(length, device=query.device)[None]
        cu_seq_lens_q, max_length_q = boundaries(position_ids.expand(batch, -1))
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))  # [tokens, heads, width]
    dtype = _kernel_dtype(query)
    if dtype is not None:
        out = _on_gpu(q.to(dtype), k.to(dtype), v.to(dtype), cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        out = _by_document(q, k, v, cu_seq_lens_q, scaling, sliding_window)
    return out.unflatten(0, (batch, length)), None


def _kernel_dtype(query: Tensor) -> torch.dtype | None:
    """What the GPU's kernel would compute in, or None where it cannot be used."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    fits = query.is_cuda and query.shape[-1] <= _LARGEST_HEAD and query.shape[-1] % 8 == 0
    half = dtype in (torch.bfloat16, torch.float16)
    return dtype if fits and half and importlib.util.find_spec("torch.nn.attention.varlen") else None


def _on_gpu(
    q: Tensor, k: Tensor, v: Tensor, cumulative: Tensor, longest: int, scale: float | None, window: int | None
) -> Tensor:
    """Torch's kernel. Not run on any GPU by us yet; `tests/training/test_attention.py` has the test for one."""
    from torch.nn.attention import varlen

    groups = q.shape[1] // k.shape[1]
    if groups > 1:  # torch 2.11 takes no `enable_gqa`
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    sees = (-1 if window is None else window - 1, 0)  # itself and what lies before it
    out = varlen.varlen_attn(q, k, v, cumulative, cumulative, longest, longest, scale=scale, window_size=sees)
    assert isinstance(out, Tensor)  # no log-sum-exp was asked for
    return out


def _by_document(
    q: Tensor, k: Tensor, v: Tensor, cumulative: Tensor, scale: float | None, window: int | None
) -> Tensor:
    """The same in plain torch, one document after another."""
    grouped, lengths = q.shape[1] != k.shape[1], cumulative.diff().tolist()
    out = []
    for document in zip(*(t.transpose(0, 1).split(lengths, dim=1) for t in (q, k, v)), strict=True):
        n = document[0].shape[1]
        mask = None
        if window is not None and window < n:
            at = torch.arange(n, device=q.device)
            behind = at[:, None] - at[None]
            mask = (behind >= 0) & (behind < window)
        qs, ks, vs = (t[None] for t in document)
        attended = F.scaled_dot_product_attention(
            qs, ks, vs, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
        )
        out.append(attended[0])
    return torch.cat(out, dim=1).transpose(0, 1)


def varlen_mask(
    *, q_length: int, kv_length: int, attention_mask: Tensor | None = None, use_vmap: bool = False, **kwargs: Any
) -> Tensor | None:
    """No mask for packed and plain batches; with padding, a cache or a rule of the model's, the one `sdpa` gets."""
    if attention_mask is None and q_length == kv_length and not use_vmap:
        return None
    kwargs |= {"use_vmap": use_vmap}
    mask: Tensor | None = sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **kwargs)
    return mask


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, varlen_mask)
