"""The list-wise loss: a softmax over the log-likelihoods of an item that came and of K that did not.

At a position of a history h, with the item that came next as i_0 and K siblings i_1 ... i_K:

    log p(i) = sum over the tokens of i's title of log p(token | h, tokens before it), divided by their number
               with `length_normalise` (mean instead of sum: what SimPO calls its reward, arXiv 2405.14734)
    s(i)     = beta log p(i)                                without a reference
    s(i)     = beta (log p(i) - log p_ref(i))               with one: the softmax loss of S-DPO (arXiv 2406.09215) at
                                                            every position; with K = 1 that is DPO's (arXiv 2305.18290)
    s(i)    -= log q(i)                                     where negatives are drawn by q (`listwise_negatives`)
    rank loss = -log softmax(s(i_0), ..., s(i_K))[i_0],     the mean over positions
    loss      = rank loss + lm_weight * LM loss,            the mean negative log-likelihood of the trunks' tokens

Without a reference, and with q, it is a sampled softmax over the catalogue (as in language models; for recommenders
Yi et al., RecSys 2019), with an autoregressive model of the title as its scorer. That combination is ours: neither the
paper nor DPO has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sequence_log_probs(log_probs: Tensor, places: Tensor) -> Tensor:
    """The log-likelihood of each sequence, in nats, of the shape of `places` without its last axis.

    Args:
        log_probs: of tokens, [n].
        places: the tokens of each sequence, int64 [..., longest]; -1 for padding.
    """
    padded = torch.cat([log_probs, log_probs.new_zeros(1)])
    return padded[places].sum(-1)


def listwise_losses(
    log_probs: Tensor,
    *,
    reference: Tensor | None = None,
    beta: float = 1.0,
    lengths: Tensor | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    """The rank loss of each list, [n_lists], in nats; see the module.

    Args:
        log_probs: log p of the items of each list, the one that came first, [n_lists, 1 + K].
        reference: log p_ref of them, same shape.
        beta: multiplies all scores.
        lengths: tokens of each, same shape: log p is divided by them.
        log_q: log q of each, same shape.
    """
    scores = log_probs if reference is None else log_probs - reference
    if lengths is not None:
        scores = scores / lengths
    scores = beta * scores
    if log_q is not None:
        scores = scores - log_q
    came = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return F.cross_entropy(scores, came, reduction="none")
