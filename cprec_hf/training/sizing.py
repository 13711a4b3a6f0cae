"""What training a model costs, before it is paid: parameters, floating-point operations and memory a GPU.

    python -m cprec_hf.training.sizing                                          # the recipes' models, as in the docs
    python -m cprec_hf.training.sizing --model Qwen/Qwen3-4B-Base --processes 4 --tokens 16384

Estimates for dense models of Llama's and Qwen3's kind, trained whole with AdamW: float32 weights, bfloat16 by autocast
(`bf16: true`), documents packed, attention that keeps no scores, a fused loss head. docs/scaling.md explains the terms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3Config

from cprec_hf.command import run_as_command
from cprec_hf.errors import InputError

H100_PEAK = 989e12
"""Dense bfloat16 operations a second of an H100 SXM by NVIDIA's data sheet; an H200's are the same."""

_WEIGHT, _GRADIENT, _MOMENTS = 4, 4, 8  # bytes a parameter: float32, and AdamW's two moments

_QWEN: dict[str, Any] = {
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
}
_LLAMA: dict[str, Any] = {
    "vocab_size": 128256,
    "head_dim": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


def _shape(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


def recipe_config(name: str) -> PretrainedConfig:
    """The shape of a recipe folder's base model, without asking the Hub; a fresh object each time.

    Args:
        name: qwen3-0.6b, qwen3-1.7b, llama-3.2-1b or qwen3-8b.
    """
    if name == "llama-3.2-1b":
        return LlamaConfig(**_LLAMA, **_shape(2048, 8192, 16, 32, True))
    shapes = {
        "qwen3-0.6b": _shape(1024, 3072, 28, 16, True),
        "qwen3-1.7b": _shape(2048, 6144, 28, 16, True),
        "qwen3-8b": _shape(4096, 12288, 36, 32, False),
    }
    return Qwen3Config(**_QWEN, **shapes[name])


@dataclass(frozen=True)
class Size:
    """A model's counts.

    Attributes:
        parameters: all of them, tied ones once.
        products: weights that a token is multiplied with: every linear layer's, the head's too if it is tied.
        head: those of them that are the head's, vocabulary x width.
        hidden: width.
        intermediate: width of the feed-forward layers.
        layers: their number.
        queries: attention heads.
        keys: key and value heads.
        head_width: of one attention head.
        qk_norm: whether queries and keys are normalised, as in Qwen3.
    """

    parameters: int
    products: int
    head: int
    hidden: int
    intermediate: int
    layers: int
    queries: int
    keys: int
    head_width: int
    qk_norm: bool

    @classmethod
    def of(cls, config: PretrainedConfig) -> Size:
        """Count a model of this config, built without memory for its weights."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        linear = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, nn.Linear))
        head: Any = model.get_output_embeddings()
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            products=linear,
            head=head.weight.numel(),
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            queries=config.num_attention_heads,
            keys=config.num_key_value_heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            qk_norm=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        )

    def training_flops(self, tokens: float, pairs: float) -> float:
        """Operations of one step: forward, and backward twice that; nothing for recomputation.

        A multiplication and an addition are two. Norms, rotations and softmaxes are not counted, as is usual.

        Args:
            tokens: of the documents, padding not counted.
            pairs: of tokens that attend to one another within their documents, `causal_pairs`.
        """
        return 3 * (2 * self.products * tokens + 4 * self.layers * self.queries * self.head_width * pairs)

    def state_bytes(self, processes: int = 1) -> float:
        """Weights, gradients and AdamW's moments, divided over `processes` as by FSDP2 or ZeRO-3."""
        return (_WEIGHT + _GRADIENT + _MOMENTS) * self.parameters / processes

    def working_bytes(self, processes: int = 1) -> float:
        """The bfloat16 copies of weights in use: all on one process; with more, two layers, embeddings and head."""
        embeddings = self.parameters - (self.products - self.head)  # and the norms, which are few
        layer = (self.products - self.head) / self.layers
        return 2 * (self.parameters if processes == 1 else 2 * layer + embeddings)

    def activation_bytes(self, tokens: int, *, checkpointing: bool) -> float:
        """What the backward pass needs of the forward pass of `tokens` tokens on one process, plain torch layers.

        The residual stream is float32, for the embeddings are. With checkpointing each layer's input is kept, and
        one layer at a time is computed again. Liger's layers keep less; by how much nobody has measured here.
        """
        queries, keys = self.queries * self.head_width, self.keys * self.head_width
        layer = 26 * self.hidden + 8 * self.intermediate + 8  # the residual stream and its norms; the gated products
        layer += 6 * queries + 4 * keys + 4 * self.queries  # rotated queries and keys, values, outputs, normalisers
        if self.qk_norm:
            layer += 6 * queries + 6 * keys + 4 * self.queries + 4 * self.keys
        return tokens * (4 * self.hidden * self.layers + layer if checkpointing else layer * self.layers)

    def logit_bytes(self, tokens: int) -> float:
        """One float32 copy of all logits, which a fused head never makes; an unfused one makes two and more."""
        return 4 * tokens * self.head / self.hidden

    def peak_bytes(self, tokens: int, processes: int = 1, *, checkpointing: bool) -> float:
        """The sum of all but the logits: an estimate of what one GPU must have free, fragments not counted."""
        activations = self.activation_bytes(tokens, checkpointing=checkpointing)
        return self.state_bytes(processes) + self.working_bytes(processes) + activations


def causal_pairs(lengths: Sequence[int]) -> int:
    """Pairs of a token and one it attends to, itself included, in documents of these lengths."""
    return sum(int(n) * (int(n) + 1) // 2 for n in lengths)


def mfu(flops: float, seconds: float, peak: float = H100_PEAK) -> float:
    """Model FLOPs utilisation: the share of a device's peak that `flops` useful operations in `seconds` come to."""
    return flops / seconds / peak


ROWS = (
    ("qwen3-0.6b", 1, 16384), ("llama-3.2-1b", 1, 16384), ("qwen3-1.7b", 1, 16384), ("qwen3-1.7b", 8, 16384),
    ("qwen3-8b", 8, 8192), ("qwen3-8b", 16, 8192),
)  # fmt: skip
"""The documentation's table: recipe, GPUs that share the state, tokens a GPU."""


def table(rows: Sequence[tuple[str, Size, int, int]]) -> str:
    """A Markdown table of memory a GPU, in GB of 10^9 bytes, a line for each (name, size, processes, tokens)."""
    lines = [
        "| model | parameters | GPUs | tokens a GPU | state | bf16 copies | activations | with checkpointing | sum | "
        "sum with checkpointing | logits avoided |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for name, size, processes, tokens in rows:
        whole, less = (size.activation_bytes(tokens, checkpointing=c) for c in (False, True))
        sums = [size.peak_bytes(tokens, processes, checkpointing=c) for c in (False, True)]
        state, working = size.state_bytes(processes), size.working_bytes(processes)
        shown = [f"{n / 1e9:.1f}" for n in (state, working, whole, less, *sums, size.logit_bytes(tokens))]
        cells = [name, f"{size.parameters / 1e9:.2f} B", str(processes), f"{tokens:,}", *shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table: of the recipes' models, or of one model of the Hub or a folder.

    Raises:
        InputError: no such model, or its config lacks what is counted.
    """
    parser = argparse.ArgumentParser(description="What training a model needs of each GPU's memory.")
    parser.add_argument("--model", help="a folder or Hub repo; the recipes' models if not given")
    parser.add_argument("--processes", type=int, default=1, help="GPUs that share weights, gradients and moments")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens a GPU reads at once")
    given = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if given.model is None:
        print(table([(name, Size.of(recipe_config(name)), processes, tokens) for name, processes, tokens in ROWS]))
    else:
        try:
            size = Size.of(AutoConfig.from_pretrained(given.model, trust_remote_code=False))
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(
                f"`--model {given.model}`: no config of a dense model can be read there: {error}"
            ) from None
        print(table([(given.model, size, given.processes, given.tokens)]))


if __name__ == "__main__":
    run_as_command(main)
