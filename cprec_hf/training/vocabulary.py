"""A vocabulary extended by new tokens, whose rows are trained alone until they have found their place.

    new_tokens: [Norvik, soundtrack]
    new_token_steps: 200

A new token's rows, of the input and of the output embeddings, begin as the mean of the rows of the pieces it took the
place of. For the first `new_token_steps` steps they are all that is trained; from then on everything is. Both are our
choice (the paper's public text extends no vocabulary).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import DELIMITER
from cprec_hf.errors import InputError


def extend_vocabulary(model: Any, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """Add tokens to a tokenizer and their rows to a model, both in place; returns the new ids.

    They are ordinary tokens, matched wherever their text stands. Models often have more rows than their tokenizer has
    tokens; those are used first.

    Raises:
        InputError: a token is empty, known already, given twice, holds the delimiter, or is not read back as one.
    """
    known = tokenizer.get_vocab()
    for i, token in enumerate(tokens):
        if not token.strip() or DELIMITER in token:
            raise InputError(f"`new_tokens[{i}]` is {token!r}; a token has some text and no line break")
        if token in known or token in tokens[:i]:
            raise InputError(f"`new_tokens[{i}]`, {token!r}, is in the vocabulary already; leave it out")
    pieces = Encoder(tokenizer).segments(tokens)
    tokenizer.add_tokens(list(tokens))
    ids: Any = tokenizer.convert_tokens_to_ids(list(tokens))
    found = Encoder(tokenizer).segments(tokens)
    for i, token in enumerate(tokens):
        if found.row(i).tolist() != [ids[i]]:
            raise InputError(f"`new_tokens[{i}]`, {token!r}, is not read as one token by this tokenizer; leave it out")
    if max(ids) >= len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    owner = torch.from_numpy(np.repeat(np.arange(len(tokens)), pieces.lengths))
    lengths = torch.from_numpy(pieces.lengths)[:, None]
    with torch.no_grad():
        for table in embedding_tables(model):
            old = table[torch.from_numpy(pieces.values).long()].float()
            sums = torch.zeros(len(tokens), table.shape[1]).index_add_(0, owner, old)
            table[torch.tensor(ids)] = (sums / lengths).to(table.dtype)
    return ids


def embedding_tables(model: Any) -> list[Tensor]:
    """The weights of a model's input and output embeddings, one if they are tied."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return list({id(end.weight): end.weight for end in ends if end is not None}.values())


class NewTokenWarmup(TrainerCallback):
    """Trains the rows of new tokens and nothing else for the first steps, then everything.

    Whatever the optimizer: gradients of all else are taken away before it steps, and old rows, which share a weight
    with new ones, are put back to the bit after it (weight decay would move them). When the rest joins in, the
    embeddings' moments begin anew, for those of old rows have been fed zeros. It keeps no state of its own, so a run
    resumes exactly on either side. Gradients are clipped, and their norm is logged, before any is taken away.

    Args:
        ids: of the new tokens.
        steps: how many; the run's step decides, a resumed one's too.
    """

    def __init__(self, ids: Sequence[int], steps: int) -> None:
        self.ids, self.steps = list(ids), steps
        self._kept: list[Tensor] = []

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Take away the gradients of all but the new rows, or, at the switch, the embeddings' moments."""
        tables = embedding_tables(model)
        if state.global_step == self.steps:
            for table in tables:
                optimizer.state.pop(table, None)
        if state.global_step >= self.steps:
            return
        ours = {id(table) for table in tables}
        for parameter in model.parameters():
            if id(parameter) not in ours:
                parameter.grad = None
        for table in tables:
            if table.grad is not None:
                new = torch.zeros_like(table.grad)
                new[self.ids] = table.grad[self.ids]
                table.grad = new
        if not self._kept:
            self._kept = [table.detach().clone() for table in tables]

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Put the old rows back."""
        if state.global_step >= self.steps:
            self._kept = []
            return
        with torch.no_grad():
            for table, kept in zip(embedding_tables(model), self._kept, strict=True):
                kept[self.ids] = table[self.ids]
                table.copy_(kept)


def new_tokens_of(arguments: Any, training: Any, model_arguments: Any) -> list[str]:
    """The new tokens of a recipe, none by default.

    Raises:
        InputError: steps for them without any, not fewer than the run has, with an adapter, or under sharded weights.
    """
    tokens, steps = list(arguments.new_tokens or []), arguments.new_token_steps
    if steps and not tokens:
        raise InputError("`new_token_steps` trains `new_tokens` first, and none are given")
    if steps < 0 or (0 < training.max_steps <= steps):
        raise InputError(f"`new_token_steps` is {steps}; give 0 or more, and fewer than the run's {training.max_steps}")
    if tokens and model_arguments.use_peft:
        raise InputError("`new_tokens` and `use_peft`: an adapter's base would lack their rows; train the whole model")
    sharded = training.fsdp or training.deepspeed or os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if steps and (sharded or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"):
        raise InputError("`new_token_steps` needs whole weights in each process: extend on one GPU or with DDP first")
    return tokens
