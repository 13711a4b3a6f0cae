"""The head of list-wise training: log-probabilities of chosen tokens, and logits only where some are predicted.

A step of list-wise training scores the tokens of a history and those of its branches; what they are worth to the loss
is known only when all sequences are summed. So the head gives log-probabilities, differentiable, and makes the logits
again in the backward pass; `kernels` has the heads whose loss is a plain sum.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from cprec_hf.errors import InputError
from cprec_hf.training.kernels import CHUNK_LOGITS, HEADS, LEAST_ROWS, TRL_COLUMNS, compute_dtype

TokenHead = Literal["trl", "torch", "logits"]


def choose_token_head(asked: str, device: torch.device, plain_head: bool) -> TokenHead:
    """The head a run uses: TRL's kernel on a GPU, plain torch elsewhere (four times faster than TRL's on a CPU).

    Args:
        asked: the recipe's `loss_head`.
        device: where the model will be trained.
        plain_head: of `kernels.has_plain_head`; a model without one computes all its logits itself ("logits").

    Raises:
        InputError: no such head, or it cannot do this.
    """
    if asked not in HEADS:
        raise InputError(f"`loss_head` is {asked!r}; choose one of {', '.join(HEADS)}")
    if asked == "liger":
        raise InputError("`loss_head: liger` gives a sum and no log-probabilities of sequences; use auto, trl or torch")
    if not plain_head:
        if asked != "auto":
            raise InputError(
                f"`loss_head: {asked}` reads the head's weight, and this model's logits are more than that weight "
                "applied to its hidden states, or the weight is divided over processes; use `auto`"
            )
        return "logits"
    if asked == "auto":
        return "trl" if device.type == "cuda" else "torch"
    return asked  # type: ignore[return-value]


@torch.compiler.disable
def token_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, tokens: Tensor, head: TokenHead = "torch"
) -> Tensor:
    """The log-probability of some tokens, each as predicted from some hidden state, softmax in float32 or finer.

    Memory grows with the states given, a bounded number of whose logits is held at once, and made again in the
    backward pass (as in TRL's head; what each token weighs in a loss is not known before).

    Args:
        hidden: states that predict something, [n, width].
        weight: the head's, [vocabulary, width]; a DTensor under FSDP is gathered.
        bias: the head's, [vocabulary], or None.
        rows: the state that predicts each token, int64 [m].
        tokens: ids, int64 [m].
        head: "trl" for TRL's Triton kernel, else plain torch, which computes a state's logits once for all its tokens.

    Returns:
        [m], in nats.
    """
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    if isinstance(bias, DTensor):
        bias = bias.full_tensor()
    if head == "trl":
        from trl.kernels import ChunkedLogProbFunction

        only = ("log_probs",)
        found: Tensor = ChunkedLogProbFunction.apply(
            hidden[rows], weight, bias, tokens, 1.0, TRL_COLUMNS, None, 1.0, only
        )[0]
        return found
    log_probs: Tensor = _TokenLogProbs.apply(hidden, weight, bias, rows, tokens)
    return log_probs


class _TokenLogProbs(torch.autograd.Function):
    """See `token_log_probs`."""

    @staticmethod
    def _chunks(n: int, weight: Tensor) -> list[slice]:
        size = max(LEAST_ROWS, CHUNK_LOGITS // len(weight))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [m] of tokens [m] predicted from hidden [n, width][rows], `rows` in any order."""
        dtype = compute_dtype(hidden)
        fine = torch.promote_types(dtype, torch.float32)
        h, w, b = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        order = rows.argsort(stable=True)
        bounds = torch.searchsorted(rows[order], torch.arange(len(h) + 1, device=rows.device)).tolist()
        out = torch.empty(len(rows), dtype=fine, device=hidden.device)
        totals = torch.empty(len(h), dtype=fine, device=hidden.device)
        for part in _TokenLogProbs._chunks(len(h), weight):
            logits = F.linear(h[part], w, b).to(fine)
            totals[part] = logits.logsumexp(-1)
            mine = order[bounds[part.start] : bounds[part.stop]]
            out[mine] = logits[rows[mine] - part.start, tokens[mine]] - totals[rows[mine]]
        ctx.save_for_backward(h, w, b, rows, tokens, order, totals)
        ctx.bounds, ctx.dtypes = bounds, (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Of hidden, weight and bias, the logits made again."""
        h, w, b, rows, tokens, order, totals = ctx.saved_tensors
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        fine = totals.dtype
        grad_hidden = torch.zeros_like(h, dtype=fine) if need_hidden else None
        grad_weight = torch.zeros_like(w, dtype=fine) if need_weight else None
        grad_bias = torch.zeros_like(b, dtype=fine) if b is not None and need_bias else None
        for part in _TokenLogProbs._chunks(len(h), w):
            mine = order[ctx.bounds[part.start] : ctx.bounds[part.stop]]
            row, weighs = rows[mine] - part.start, grad[mine].to(fine)
            p = F.linear(h[part], w, b).to(fine).sub_(totals[part, None]).exp_()
            p.mul_(-torch.zeros_like(totals[part]).index_add_(0, row, weighs)[:, None])
            p.index_put_((row, tokens[mine]), weighs, accumulate=True)
            if grad_bias is not None:
                grad_bias += p.sum(0)
            made = p.to(h.dtype)
            if grad_weight is not None:
                grad_weight += made.t() @ h[part]
            if grad_hidden is not None:
                grad_hidden[part] = made @ w
        made_all = (grad_hidden, grad_weight, grad_bias)
        return (*(None if g is None else g.to(t) for g, t in zip(made_all, ctx.dtypes, strict=True)), None, None)


def teach_token_log_probs(model: Any, head: TokenHead = "torch") -> None:
    """Let `model(..., scored=(states, rows, tokens))` return `token_log_probs` instead of logits.

    Every other call goes to the forward that was there before. It runs inside `forward`, so that DDP and FSDP hooks
    fire.

    Args:
        model: a causal language model of transformers (inside its PEFT wrapper, if any); changed in place.
        head: what computes them; "logits" where the model's own logits have to be asked for, all positions of them.
    """
    original = model.forward

    @functools.wraps(type(model).forward)  # `generate` and the Trainer read the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        scored = kwargs.pop("scored", None)
        if scored is None:
            return original(*args, **kwargs)
        states, rows, tokens = scored  # places in the batch read row after row; see token_log_probs
        kwargs["use_cache"] = False
        if head == "logits":
            logits = original(*args, **kwargs).logits.flatten(0, 1)[states]
            return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)[rows, tokens]
        hidden = self.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)[states]
        output = self.get_output_embeddings()  # looked up on each call: FSDP and PEFT replace it
        return token_log_probs(hidden, output.weight, output.bias, rows, tokens, head)

    model.forward = types.MethodType(forward, model)
