"""A causal language model in two parts: a backbone that reads batches, and a head that predicts from chosen positions.

The vocabulary head is the larger part of a small model's work and memory, so it runs only on gathered positions, a
bounded number of logits at a time. Nothing here knows about users or items; `scoring` does.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from transformers import DynamicCache

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.ranking.branch_attention import BRANCHES

Method = Literal["auto", "mask", "cache", "rows"]

_LAYERS = ("full_attention", "sliding_attention")
HEAD_VALUES = 1 << 26
"""Logits held at once, 256 MB in float32."""
_CACHED_VALUES = 1 << 20  # on a CPU: as many as its caches hold, for softmax reads them several times


def choose_method(model: Any, longest: int) -> Method:
    """The fastest of "mask", "cache" and "rows" (see `scoring`) that is right for `model`.

    Args:
        model: a model of transformers or PEFT.
        longest: the most tokens read for one candidate, its prefix included.

    "mask" needs rotary positions and attention that takes a mask as it is (sdpa or eager); where some layers see only a
    window that `longest` fills, one mask for these and one for the others. "cache" needs keys and values only (no
    recurrent state) and positions that can be handed in.
    """
    base = base_model(model)
    config = base.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or [])
    attends = layers <= {*_LAYERS} and not base._is_stateful
    if not attends or "position_ids" not in inspect.signature(base.forward).parameters:
        return "rows"
    rotary = bool(getattr(config, "rope_parameters", None)) and not getattr(config, "alibi", False)
    takes_mask = base._supports_attention_backend and config._attn_implementation in ("sdpa", "eager", BRANCHES)
    window = window_of(config)
    by_layer = window is not None and window <= longest and bool(layers)
    return "mask" if rotary and takes_mask and (not by_layer or _takes_masks_by_layer(base)) else "cache"


def window_of(config: Any) -> int | None:
    """How many tokens, itself included, a token sees in the layers that see a window; None if all see everything."""
    layers = getattr(config, "layer_types", None)
    window: int | None = getattr(config, "sliding_window", None)
    return window if not layers or "sliding_attention" in layers else None


def _takes_masks_by_layer(base: Any) -> bool:
    """Whether a model with windows in some layers takes a mask for each kind of layer, tried on one token."""
    weight = base.get_input_embeddings().weight
    mask = torch.zeros((1, 1, 1, 1), dtype=weight.dtype, device=weight.device)
    ids = torch.zeros((1, 1), dtype=torch.long, device=weight.device)
    try:
        with torch.inference_mode():
            base.base_model(input_ids=ids, attention_mask=dict.fromkeys(_LAYERS, mask), use_cache=False)
    except Exception:  # whatever a model does with what it does not expect
        return False
    return True


def base_model(model: Any) -> Any:
    """The transformers model inside a PEFT model (its layers hold the adapters), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_is_separate(model: Any, ids: torch.Tensor) -> bool:
    """Whether logits are the output embeddings on the backbone's last states and nothing else, tried on a few tokens.

    Some models scale or cap their logits or have a deeper head, and no name in a config tells them all.

    Args:
        model: of transformers, without a PEFT wrapper, in evaluation mode.
        ids: token ids [1, n].
    """
    backbone, head = model.base_model, model.get_output_embeddings()
    if backbone is model or head is None:
        return False
    logits = head(backbone(input_ids=ids, use_cache=False)[0])
    return torch.equal(logits.float(), _whole(model, input_ids=ids, use_cache=False).logits.float())


def _whole(model: Any, **inputs: Any) -> Any:
    """The forward pass of the model's class, without the autocast or fused loss a trainer may have put over it."""
    return type(model).forward(model, **inputs)


class Reader:
    """Reads batches with a model and predicts from chosen positions. Use inside `with reader.reading(...)`.

    Attributes:
        context: how many positions the model has, `None` where there is no limit.
    """

    def __init__(self, model: Any) -> None:
        self.model = base_model(model)
        self.config = self.model.config.get_text_config()
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        self._takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters
        weight = self.model.get_input_embeddings().weight
        self._device, self._dtype = weight.device, weight.dtype
        self._split = False

    @contextmanager
    def reading(self, sample: np.ndarray) -> Iterator[None]:
        """Evaluation mode and no gradients inside; every module's own mode restored after. `sample`: some token ids."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.inference_mode():
                self._split = head_is_separate(self.model, self.tensor(sample[None, :2]))
                yield
        finally:
            for module, training in modes:
                module.training = training

    @property
    def least_tokens(self) -> int:
        """Tokens in a batch below which smaller ones would take as long. Our choice."""
        return 512 if self._device.type == "cpu" else 8192

    def batch_tokens(self, tokens: int) -> int:
        """`tokens`, or fewer where every position's logits are computed."""
        return tokens if self._split else min(tokens, max(1, 4 * HEAD_VALUES // self.config.vocab_size))

    def tensor(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The array on the model's device, integers as int64; a tensor is there already."""
        if isinstance(array, torch.Tensor):
            return array
        return torch.from_numpy(array.astype(np.bool_ if array.dtype == np.bool_ else np.int64)).to(self._device)

    def read(
        self,
        ids: np.ndarray | torch.Tensor,
        mask: Any,
        positions: np.ndarray | torch.Tensor,
        cache: Any = None,
    ) -> torch.Tensor:
        """Read a batch and forget it.

        Args:
            ids: token ids [rows, columns].
            mask: padding mask [rows, past + columns], or what `tree_mask` gives.
            positions: position ids [rows, columns].
            cache: keys and values of the past, which are added to.

        Returns:
            What `log_probs` predicts from, [rows, columns, width].
        """
        return self._forward(ids, mask, positions, cache, use_cache=cache is not None)[0]

    def read_prefixes(self, prefixes: Ragged, *, keep_all: bool) -> tuple[torch.Tensor, Any, np.ndarray, np.ndarray]:
        """Read what others will be read on top of, left-padded, so that all end in the last column.

        Args:
            prefixes: a row of token ids each.
            keep_all: keep every column in every layer; else layers keep what the model's decoding needs: a window, say.

        Returns:
            The last column's states [rows, width]; the cache; which columns are no padding, bool [rows, columns]; and
            their positions, int64 [rows, columns].
        """
        past = int(prefixes.lengths.max())
        column = np.arange(past) - (past - prefixes.lengths)[:, None]
        seen, positions = column >= 0, column.clip(0)
        ids = np.zeros(seen.shape, dtype=np.int64)
        ids[seen] = prefixes.values
        cache = DynamicCache() if keep_all else None
        out = self._forward(ids, self.tensor(seen), positions, cache, use_cache=True)
        return out[0][:, -1], out.past_key_values, seen, positions

    def _forward(
        self,
        ids: np.ndarray | torch.Tensor,
        mask: Any,
        positions: np.ndarray | torch.Tensor,
        cache: Any,
        use_cache: bool,
    ) -> Any:
        inputs = {"input_ids": self.tensor(ids), "attention_mask": mask, "use_cache": use_cache}
        if self._takes_positions:
            inputs["position_ids"] = self.tensor(positions)
        if cache is not None:
            inputs["past_key_values"] = cache
        return self.model.base_model(**inputs) if self._split else _whole(self.model, **inputs)

    def unseen(self, *shape: int) -> torch.Tensor:
        """An additive mask under which nothing is seen: float minimum, never booleans, for eager attention adds it."""
        return torch.full(shape, torch.finfo(self._dtype).min, dtype=self._dtype, device=self._device)

    def mask_of(self, seen: torch.Tensor) -> torch.Tensor:
        """The additive mask that lets see what `seen` says."""
        return self.unseen(*seen.shape).masked_fill_(seen, 0)

    def tree_mask(self, mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> Any:
        """What `read` takes as a mask where tokens see neither all that stands before them nor columns by distance.

        Args:
            mask: additive: which token may see which, if it is in its window, [rows, columns, past + columns].
            queries: positions of the tokens read, int64 [rows, columns].
            keys: and of all, cached ones included, int64 [rows, past + columns].

        Returns:
            An additive mask [rows, 1, columns, past + columns], or one for each kind of layer.
        """
        window = window_of(self.config)
        if window is None or window > int(keys.max()):
            return mask[:, None]
        far = queries[:, :, None] - keys[:, None, :] >= window
        near = mask.masked_fill(far, torch.finfo(self._dtype).min)[:, None]
        if not getattr(self.config, "layer_types", None):
            return near
        return dict(zip(_LAYERS, (mask[:, None], near), strict=True))

    def predict(self, states: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of all tokens float32 [n, vocabulary] from states [n, width]."""
        logits: torch.Tensor = self.model.get_output_embeddings()(states) if self._split else states
        return logits.float().log_softmax(-1)

    def log_probs(self, states: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of `tokens[i]` as predicted from `states[rows[i]]`, float32 [n]; `rows` never decreases."""
        found = [predicted[at, wanted] for predicted, at, wanted in self._predicted(states, rows, tokens)]
        return torch.cat(found).cpu().numpy()

    def rest(self, states: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of all tokens but those that `log_probs` is asked for, summed where they are predicted.

        Not a remainder, whose small differences of large numbers would say nothing. float32 [states].
        """
        found = []
        for predicted, at, wanted in self._predicted(states, rows, tokens):
            predicted[at, wanted] = -torch.inf
            found.append(predicted.logsumexp(-1))
        return torch.cat(found).cpu().numpy()

    def _predicted(
        self, states: torch.Tensor, rows: np.ndarray, tokens: np.ndarray
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """What `predict` gives for some states at a time, and which of them and of the tokens are asked for."""
        at_once = HEAD_VALUES if self._device.type != "cpu" else _CACHED_VALUES
        step = max(1, at_once // self.config.vocab_size)
        for first in range(0, len(states), step):
            predicted = self.predict(states[first : first + step])
            begin, end = np.searchsorted(rows, [first, first + step])
            yield predicted, self.tensor(rows[begin:end] - first), self.tensor(tokens[begin:end])


def rows_of(cache: Any, rows: torch.Tensor | None) -> Any:
    """The keys and values of those batch rows, repeats allowed, or of all; reading on top leaves `cache` as it was."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    if rows is not None:
        chosen.batch_select_indices(rows)
    return chosen


def columns_of(cache: Any, rows: torch.Tensor, columns: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values by layer, each [n, heads, m, width], at `columns` [n, m] of the batch rows `rows` [n]."""

    def at(states: torch.Tensor) -> torch.Tensor:
        return states[rows[:, None], :, columns].transpose(1, 2)

    return [(at(layer.keys), at(layer.values)) for layer in cache.layers]


def beside(cache: Any, more: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """`cache` (its own copy, every column kept) with more columns after its own."""
    for layer, (keys, values) in zip(cache.layers, more, strict=True):
        layer.keys, layer.values = torch.cat([layer.keys, keys], dim=2), torch.cat([layer.values, values], dim=2)
    return cache
