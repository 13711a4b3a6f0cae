"""Why an item has its score: the tokens of its title, and what each item of the history did to them.

    explanation = explain(recommender, ["item-7", "item-3"], "item-12")
    print(explanation.describe())

A history item's contribution is the score with it less the score without it: leave-one-out over the prompt, which is
exact about the model and needs no gradients. It is no share: contributions do not sum to the score, and two items that
say the same each contribute little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.reader import Reader
from cprec_hf.ranking.recommender import Recommender, Score
from cprec_hf.ranking.request import Request


@dataclass(frozen=True, eq=False)
class Explanation:
    """One item's score taken apart, in nats (see `recommender.Score`)."""

    item: str
    """The item's id."""
    score: float
    """Its score, as `Recommender.rank` gives it."""
    tokens: list[str]
    """The text that each token of the title's line adds; together the line. Empty for all but one token of a character
    that takes several."""
    token_scores: np.ndarray
    """What each token adds to the score, float32 [tokens]; their sum is the score."""
    history: list[str]
    """The ids of the history items that were in the prompt, oldest first."""
    titles: list[str]
    """Their full titles."""
    contributions: np.ndarray
    """By how much each of them raised the score: score with all less score without it, float32 [history]."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        arrays = {"token_scores": self.token_scores.tolist(), "contributions": self.contributions.tolist()}
        return {**vars(self), **arrays}

    def describe(self, n_items: int = 3) -> str:
        """Lines for a person: the `n_items` history items that raised the score most, and the tokens."""
        most = np.argsort(-self.contributions, kind="stable")[:n_items]
        raised = [f"  {self.contributions[i]:+.2f}  {self.titles[i]}" for i in most if self.contributions[i] > 0]
        tokens = [f"  {s:+.2f}  {text!r}" for s, text in zip(self.token_scores.tolist(), self.tokens, strict=True)]
        lines = ["Raised most by (nats lost without it):", *(raised or ["  no item of the history"])]
        return "\n".join([*lines, "Token by token (nats):", *tokens])


def explain(
    recommender: Recommender, history: Sequence[str], item: str, domain: str | None = None, score: Score = "sum"
) -> Explanation:
    """Explain the score that `Recommender.rank` gives an item after a history, as the only candidate.

    Everything is read in one batch: the prompt, the prompt without each of its items (no older item moves up), and the
    prompt without any, which `pmi` compares with. With `pmi` a token's score is what the history added to it; with
    `mean` its log-probability over the number of tokens.

    Args:
        recommender: the model, its template and its items.
        history: item ids, oldest first; may be empty. Trimmed as `rank` trims it.
        item: the id of the item to explain.
        domain: the domain of all ids; by default the one the model was fine-tuned on.
        score: see `recommender.Score`.

    Raises:
        InputError: unknown item, domain or score; a title too long for the model; or the model was trained to choose
            from a list in its prompt, and there is none.
    """
    if score not in ("sum", "mean", "pmi"):
        raise InputError(f"score is {score!r}; choose sum, mean or pmi")
    if recommender.record.candidate_list_in_prompt:
        raise InputError(
            "this model's prompts begin with the list it chooses from (candidate_list_in_prompt); one item after a "
            "history has no score of its own there to explain"
        )
    request = recommender.request([history], [[item]], domain)
    kept = _items_in_prompt(request)
    code, catalogue = int(request.codes[0, 0]), request.catalogue
    log_probs = _read(recommender, _variants(request, kept), catalogue.codes.row(code))
    total = log_probs[:-1].sum(axis=1)
    by_token = log_probs[0]
    if score == "pmi":
        by_token = by_token - log_probs[-1]  # without any history; contributions are differences, so it cancels there
    elif score == "mean":
        by_token, total = by_token / len(by_token), total / len(by_token)
    return Explanation(
        item=item,
        score=float(by_token.sum()),
        tokens=_texts(recommender, catalogue, item),
        token_scores=by_token.astype(np.float32),
        history=catalogue.ids.take(kept).to_pylist(),
        titles=catalogue.names.take(kept).to_pylist(),
        contributions=(total[0] - total[1:]).astype(np.float32),
    )


def _items_in_prompt(request: Request) -> np.ndarray:
    """The rows of the history's items that the trimmed prompt holds, oldest first, int64 [n]."""
    catalogue = request.catalogue
    rows = request.histories.values
    lengths = catalogue.codes.lengths[catalogue.code_of[rows]]
    room = int(request.prompts.lengths[0] - catalogue.opening_tokens(request.openings)[0])
    return rows[int((lengths[::-1].cumsum()[::-1] > room).sum()) :]


def _variants(request: Request, kept: np.ndarray) -> Ragged:
    """Prompts of all the items, of all but one for each of them, and of none; the items' order stays."""
    n = len(kept)
    without_one = ~np.eye(n, dtype=bool)
    rows = np.concatenate([kept, np.broadcast_to(kept, (n, n))[without_one]])
    histories = Ragged(rows, offsets_of(np.array([n, *[n - 1] * n, 0])))
    openings, room = np.repeat(request.openings, n + 2, axis=0), np.repeat(request.room, n + 2)
    return request.catalogue.prompts(openings, histories, n, room)


def _read(recommender: Recommender, prompts: Ragged, line: np.ndarray) -> np.ndarray:
    """The log-probability of each token of one line after each prompt, float64 [prompts, tokens], in one batch."""
    reader = Reader(recommender.model)
    lines = Ragged(np.tile(line, len(prompts)), np.arange(len(prompts) + 1) * len(line))
    read = Ragged(np.tile(line[:-1], len(prompts)), np.arange(len(prompts) + 1) * (len(line) - 1))
    whole = prompts.join(read)
    column = np.arange(int(whole.lengths.max()))
    real = column < whole.lengths[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    ids[real] = whole.values
    row, predicts = np.nonzero(real & (column >= prompts.lengths[:, None] - 1))
    with reader.reading(prompts.row(0)):
        states = reader.read(ids, reader.tensor(real), np.broadcast_to(column, real.shape))
        states = states[reader.tensor(row), reader.tensor(predicts)]
        found = reader.log_probs(states, np.arange(len(row)), lines.values)
    return found.reshape(len(prompts), len(line)).astype(np.float64)


def _texts(recommender: Recommender, catalogue: Catalogue, item: str) -> list[str]:
    """What each token adds to the text of the item's line."""
    items = recommender.items
    mine = pc.and_(pc.equal(items["domain"], catalogue.domain), pc.equal(items["item_id"], item))
    line = recommender._template.line(items.filter(mine)["title"][0].as_py())
    ends = [0, *recommender._encoder.ends([line]).row(0).tolist()]
    return [line[begin:end] for begin, end in pairwise(ends)]
