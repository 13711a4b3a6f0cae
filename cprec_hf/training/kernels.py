"""The one module through which fused kernels come in: Liger's on a GPU, plain torch on a CPU, the same loss on both.

Stock TRL gives every run a fused head that also computes entropies and accuracies nobody here reads, and installing
Liger's own fused loss first is silently overridden. So Liger's layer kernels are applied here, without its loss, and
the model's forward learns to return the summed next-token loss itself, straight from the backbone's hidden states and
the head's weight. It runs inside `forward`, so that DDP and FSDP hooks fire.
"""

from __future__ import annotations

import functools
import importlib.util
import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from cprec_hf.ranking.reader import head_is_separate

IGNORED = -100


def has_plain_head(model: Any) -> bool:
    """Whether a model's loss is that of its head applied to its hidden states, and nothing more, tried on two tokens.

    Where it is not, TRL's head is kept, or the model would be trained on another function than it computes. To be
    asked before `apply_kernels`, whose kernels need a GPU, while the weights may yet be on the CPU (under FSDP).

    Args:
        model: a causal language model of transformers, without a PEFT wrapper; left as it was.
    """
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):  # the routers' loss comes on top
        return False
    attention, training = model.config._attn_implementation, model.training
    if "flash" in attention and model.device.type == "cpu":
        model.set_attn_implementation("eager")
    model.eval()
    try:
        with torch.no_grad():
            return head_is_separate(model, torch.tensor([[3, 4]], device=model.device) % config.vocab_size)
    finally:
        model.train(training)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)


def apply_kernels(model: Any, device: torch.device, plain_head: bool) -> str:
    """Put Liger's layer kernels into `model` where they can run; the loss follows `summed_loss`.

    Args:
        model: a causal language model of transformers, patched in place.
        device: where it will be trained.
        plain_head: of `has_plain_head`.

    Returns:
        One line that says what this run uses.
    """
    if device.type != "cuda":
        return f"kernels: plain torch on the {device.type} (Liger's need a GPU)"
    if importlib.util.find_spec("liger_kernel") is None:
        return "kernels: plain torch, for Liger is not installed (pip install 'cprec-hf[gpu]')"
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    loss = "Liger's fused loss" if plain_head else "TRL's fused loss"
    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"kernels: {loss}; Liger has no layer kernels for {model.config.model_type}"
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False)
    return f"kernels: {loss} and its layer kernels for {model.config.model_type}"


def summed_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """The summed negative log-likelihood of each position's next token, in nats, computed in float32.

    Args:
        hidden: last hidden states, [batch, length, width].
        weight: the head's, [vocabulary, width]; a DTensor under FSDP is gathered.
        bias: the head's, [vocabulary], or None.
        labels: token ids, [batch, length], not shifted; `IGNORED` positions are not predicted.

    Returns:
        A scalar; zero, and differentiable, where no position is predicted.
    """
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    if isinstance(bias, DTensor):
        bias = bias.full_tensor()
    hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    if hidden.is_cuda and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum")(weight, hidden, labels, bias)
    predicted = (labels != IGNORED).nonzero().flatten()  # a completion-only row predicts few of its positions
    if len(predicted) < len(labels):
        hidden, labels = hidden[predicted], labels[predicted]
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, reduction="sum")


def teach_summed_loss(model: Any) -> None:
    """Let `model(..., labels=labels, summed_loss=True)` return `summed_loss` instead of logits.

    Every other call goes to the forward that was there before.

    Args:
        model: a causal language model of transformers with a plain head (inside its PEFT wrapper, if any); changed
            in place.
    """
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` and the Trainer read the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("summed_loss", False):
            return original(*args, **kwargs)
        labels = kwargs.pop("labels")
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        head = self.get_output_embeddings()  # looked up on each call: FSDP and PEFT replace it
        return summed_loss(hidden, head.weight, head.bias, labels)

    model.forward = types.MethodType(forward, model)
