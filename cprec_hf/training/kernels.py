"""The one module through which fused kernels come in: Liger's layers and the loss head, the same loss on every device.

Stock TRL gives every run a fused head that also computes entropies and accuracies nobody here reads, and installing
Liger's own fused loss first is silently overridden. So Liger's layer kernels are applied here, without its loss, and
the model's forward learns to return the summed next-token loss itself, straight from the backbone's hidden states and
the head's weight. It runs inside `forward`, so that DDP and FSDP hooks fire. Attention stands in `attention.py`.

A loss head never holds all logits at once. There are three, switched by the recipe key `loss_head`:

    liger   Liger's fused linear cross-entropy, in Triton: gradients are made in the forward pass
    trl     TRL's fused head without its entropies, in Triton or torch: logits are computed again in the backward pass
    torch   the same idea as Liger's in plain torch, on any device
"""

from __future__ import annotations

import functools
import importlib.util
import types
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from cprec_hf.errors import InputError
from cprec_hf.ranking.reader import head_is_separate

Head = Literal["liger", "trl", "torch"]
HEADS = ("auto", *get_args(Head))
IGNORED = -100

CHUNK_LOGITS, LEAST_ROWS = 1 << 22, 512  # 16 MB of logits, unless that is too few rows to keep a matrix unit busy
TRL_COLUMNS = 1 << 15  # what TRL itself passes


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


def choose_head(asked: str, device: torch.device, plain_head: bool) -> Head | None:
    """The loss head a run uses, or None for TRL's own loss, which knows heads that are not plain.

    `auto` is Liger's on a GPU where it is installed and torch's elsewhere. On a CPU that was measured (torch's takes
    a quarter of the time of TRL's); on a GPU no head has been measured yet, and the choice is the one that computes
    least: `benchmarks/train_gpu.py` times all three.

    Args:
        asked: the recipe's `loss_head`.
        device: where the model will be trained.
        plain_head: of `has_plain_head`.

    Raises:
        InputError: no such head, or it cannot run here or on this model.
    """
    if asked not in HEADS:
        raise InputError(f"`loss_head` is {asked!r}; choose one of {', '.join(HEADS)}")
    liger = importlib.util.find_spec("liger_kernel") is not None
    if asked == "liger" and not (liger and device.type == "cuda"):
        lacks = "a GPU" if liger else "liger-kernel (pip install 'cprec-hf[gpu]')"
        raise InputError(f"`loss_head: liger` needs {lacks}; use `auto`, `trl` or `torch`")
    if not plain_head:
        if asked in ("liger", "torch"):
            raise InputError(
                f"`loss_head: {asked}` reads the head's weight, and this model's loss is more than that weight applied "
                "to its hidden states, or the weight is divided over processes; use `auto` or `trl`"
            )
        return None
    if asked == "auto":
        return "liger" if liger and device.type == "cuda" else "torch"
    return asked  # type: ignore[return-value]


def apply_kernels(model: Any, device: torch.device, head: Head | None, loss: str = "TRL's own loss") -> str:
    """Put Liger's layer kernels into `model` where they can run, and the loss head.

    Args:
        model: a causal language model of transformers (inside its PEFT wrapper, if any), patched in place.
        device: where it will be trained.
        head: of `choose_head`.
        loss: what the loss is called where there is no such head.

    Returns:
        One line that says what this run uses.
    """
    if head is not None:
        teach_summed_loss(model, head)
    losses = {"liger": "Liger's fused loss", "trl": "TRL's fused loss, without entropies", None: loss}
    used = losses.get(head, "torch's chunked loss")
    attention = model.config._attn_implementation
    if device.type != "cuda":
        layers = f"plain torch layers on the {device.type} (Liger's need a GPU)"
    elif importlib.util.find_spec("liger_kernel") is None:
        layers = "plain torch layers, for Liger is not installed (pip install 'cprec-hf[gpu]')"
    else:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if model.config.model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
            _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=False)
            layers = f"Liger's layer kernels for {model.config.model_type}"
        else:
            layers = f"plain torch layers, for Liger has none for {model.config.model_type}"
    return f"kernels: {used}; {layers}; attention {attention}"


@torch.compiler.disable
def summed_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: Head = "torch") -> Tensor:
    """The summed negative log-likelihood of each position's next token, in nats, its softmax in float32.

    Args:
        hidden: last hidden states, [batch, length, width].
        weight: the head's, [vocabulary, width]; a DTensor under FSDP is gathered.
        bias: the head's, [vocabulary], or None.
        labels: token ids, [batch, length], not shifted; `IGNORED` positions are not predicted.
        head: which kernels compute it.

    Returns:
        A scalar; zero, and differentiable, where no position is predicted.
    """
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    if isinstance(bias, DTensor):
        bias = bias.full_tensor()
    hidden, labels = hidden[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    if head == "liger":
        return _ligers_loss(hidden, weight, bias, labels)
    predicted = (labels != IGNORED).nonzero().flatten()  # a completion-only row predicts few of its positions
    if len(predicted) < len(labels):
        hidden, labels = hidden[predicted], labels[predicted]
    if head == "trl":
        from trl.kernels import ChunkedLogProbFunction

        only = ("log_probs",)
        return -ChunkedLogProbFunction.apply(hidden, weight, bias, labels, 1.0, TRL_COLUMNS, None, 1.0, only)[0].sum()
    loss: Tensor = _ChunkedLoss.apply(hidden, weight, bias, labels, torch.is_grad_enabled())
    return loss


def _ligers_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Liger's loss. Under autocast it would cast the weight anew for each of its chunks, often over a hundred."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    dtype = compute_dtype(hidden)
    bias = None if bias is None else bias.to(dtype)
    # The weight's gradient is a sum over chunks, which bfloat16 would round as often.
    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum", accum_dtype=torch.float32)
    return loss(weight.to(dtype), hidden.to(dtype), labels, bias)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a matrix product with `tensor` is computed in here."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T + bias`, some rows at a time, with the gradients made along the way.

    The logits of a chunk become its gradient in place, so none are kept, filled with zeros or read a second time
    (the idea of Liger's fused linear cross-entropy, arXiv 2410.10989). One backward pass only.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, with_grad: bool
    ) -> Tensor:
        """The summed loss of hidden [n, width] with weight [vocabulary, width] and labels [n], in float32."""
        dtype = compute_dtype(hidden)
        h, w, b = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        need_hidden, need_weight, need_bias = (with_grad and need for need in ctx.needs_input_grad[:3])
        grad_hidden = torch.zeros_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need_bias else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        rows = max(LEAST_ROWS, CHUNK_LOGITS // len(weight))
        for start in range(0, len(h), rows):
            chunk, label = h[start : start + rows], labels[start : start + rows].unsqueeze(1)
            log_p = F.log_softmax(F.linear(chunk, w, b), dim=-1, dtype=torch.float32)
            loss -= log_p.gather(1, label).sum()
            if not with_grad:
                continue
            exact = log_p.exp_().scatter_add_(1, label, log_p.new_full(label.shape, -1.0))
            grad = exact.to(dtype)
            if grad_bias is not None:
                grad_bias += exact.sum(0)
            if grad_weight is not None:
                if dtype == torch.float32:
                    grad_weight.addmm_(grad.t(), chunk)
                else:
                    grad_weight += grad.t() @ chunk
            if grad_hidden is not None:
                grad_hidden[start : start + rows] = grad @ w
        ctx.gradients = grad_hidden, grad_weight, grad_bias
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """What the forward pass made, times the gradient of the loss."""
        made, ctx.gradients = ctx.gradients, None
        scaled = (None if g is None else g.mul_(grad).to(t) for g, t in zip(made, ctx.dtypes, strict=True))
        return (*scaled, None, None)


def teach_summed_loss(model: Any, head: Head = "torch") -> None:
    """Let `model(..., labels=labels, summed_loss=True)` return `summed_loss` instead of logits.

    Every other call goes to the forward that was there before.

    Args:
        model: a causal language model of transformers with a plain head (inside its PEFT wrapper, if any); changed
            in place.
        head: which kernels compute it.
    """
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` and the Trainer read the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("summed_loss", False):
            return original(*args, **kwargs)
        labels = kwargs.pop("labels")
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        output = self.get_output_embeddings()  # looked up on each call: FSDP and PEFT replace it
        return summed_loss(hidden, output.weight, output.bias, labels, head)

    model.forward = types.MethodType(forward, model)
