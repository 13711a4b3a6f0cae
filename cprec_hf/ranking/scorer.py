"""One model and one catalogue: scores of candidates, and the best items of everything, exactly.

Whole catalogues are searched by `sum` where that proves its result, else every item is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.request import Request, token_limit
from cprec_hf.ranking.scoring import score_candidates, score_catalogue
from cprec_hf.ranking.search import MAX_NODES, can_search, top_rows

Score = Literal["sum", "mean", "pmi"]
"""How tokens make an item's score, in nats.

sum: the log-probability of the title after the history: the model's own ranking.
mean: the same per token, so that a title is not ranked low for being long.
pmi: how much the history raised it: `sum` less the log-probability after an empty history (and the same list of
    candidates, if prompts show it). That takes out what makes a title likely for everybody, popularity included. Our
    choice of calibration; whether it helps, validation must say.
"""

_SCORES = 1 << 22  # (user, item) scores held at once, which bounds memory over large catalogues
_SHARE = 4  # a search may read one in so many of the catalogue's nodes; beyond, scoring all is as fast


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `title` is the full one, `score` in nats (see `Score`)."""

    item_id: str
    title: str
    score: float


class Scorer:
    """Scores the items of one catalogue with one model.

    Args:
        model: any causal language model of transformers or PEFT.
        catalogue: the items.
        record: of the model: history length, window, and whether prompts list their candidates.
        max_batch_tokens: tokens held by one forward pass, cached ones included; bounds memory.
    """

    def __init__(self, model: Any, catalogue: Catalogue, record: ModelRecord, max_batch_tokens: int) -> None:
        self.model, self.catalogue, self.record = model, catalogue, record
        self.max_batch_tokens = max_batch_tokens

    def candidates(self, request: Request, score: Score) -> np.ndarray:
        """Scores of each user's candidates, float32 [users, candidates]. Raises `InputError` for an unknown score."""
        return self.candidates_by(request, [score])[score]

    def candidates_by(self, request: Request, scores: Sequence[Score]) -> dict[Score, np.ndarray]:
        """`candidates` by several scores, of one reading of the histories. Raises `InputError` for an unknown one."""
        for score in scores:
            _check_score(score)
        if not request.codes.size:
            return {score: np.empty(request.codes.shape, dtype=np.float32) for score in scores}
        total = self._log_probs(request.prompts, np.arange(len(request.codes)), request.codes)
        found = {"sum": total}
        if "mean" in scores:
            found["mean"] = (total / self.catalogue.codes.lengths[request.codes]).astype(np.float32)
        if "pmi" in scores:
            found["pmi"] = total - self._log_probs(*request.empty_prompts(), request.codes)
        return {score: found[score] for score in scores}

    def best(self, histories: Ragged, k: int, excluded: Ragged, score: Score) -> tuple[np.ndarray, np.ndarray]:
        """The `k` best items of the whole catalogue.

        Args:
            histories: item rows, oldest first, a row a user.
            k: how many.
            excluded: item rows not wanted, a row a user.
            score: see `Score`.

        Returns:
            Items int64 [users, k], best first, those of one title in the catalogue's order, -1 where there are no more;
            and their scores float32 [users, k].

        Raises:
            InputError: an unknown score, or a title too long for the model with its prompt.
        """
        _check_score(score)
        catalogue, n = self.catalogue, len(histories)
        items, scores = np.full((n, k), -1), np.full((n, k), -np.inf, dtype=np.float32)
        if not n or not len(catalogue):
            return items, scores
        prompts, empty = self._prompts(histories)
        left = np.arange(n)
        if score == "sum" and can_search(self.model, prompts, catalogue.trie):
            items, scores, proven = self._search(prompts, k, excluded)
            left = np.flatnonzero(~proven)
        if len(left):
            prior = self._all(empty) if score == "pmi" else 0.0
            block = max(1, _SCORES // len(catalogue))
            for users in np.split(left, range(block, len(left), block)):
                found = self._scored(prompts.take(users), prior, score)
                items[users], scores[users] = self._sorted(found, k, excluded.take(users))
        return items, scores

    def everything(self, histories: Ragged, score: Score) -> np.ndarray:
        """Scores of every item of the catalogue, float32 [users, items]; give as many users as memory has room for.

        Args:
            histories: item rows, oldest first, a row a user.
            score: see `Score`.

        Raises:
            InputError: an unknown score, or a title too long for the model with its prompt.
        """
        return self.everything_by(histories, [score])[score]

    def everything_by(self, histories: Ragged, scores: Sequence[Score]) -> dict[Score, np.ndarray]:
        """`everything` by several scores, of one reading of the histories. Raises as `everything`."""
        for score in scores:
            _check_score(score)
        if not len(histories) or not len(self.catalogue):
            return {score: np.zeros((len(histories), len(self.catalogue)), dtype=np.float32) for score in scores}
        prompts, empty = self._prompts(histories)
        prior = self._all(empty) if "pmi" in scores else 0.0
        total = self._all(prompts)
        return {score: self._by(score, total, prior) for score in scores}

    def _prompts(self, histories: Ragged) -> tuple[Ragged, Ragged]:
        """Each user's prompt with room for the catalogue's longest title, and the one without history."""
        catalogue = self.catalogue
        opening, limit = catalogue.openings(1, None), token_limit(self.model, self.record)
        catalogue.check_fits(opening, np.array([[catalogue.codes.lengths.argmax()]]), limit)
        room = np.full(len(histories), limit - int(catalogue.codes.lengths.max()))
        openings = np.repeat(opening, len(histories), axis=0)
        prompts = catalogue.prompts(openings, histories, self.record.history_length, room)
        return prompts, catalogue.prompts(opening, Ragged.empty(1), 0, room[:1])

    def _scored(self, prompts: Ragged, prior: np.ndarray | float, score: Score) -> np.ndarray:
        return self._by(score, self._all(prompts), prior)

    def _by(self, score: Score, total: np.ndarray, prior: np.ndarray | float) -> np.ndarray:
        """Scores [users, items] from the log-probabilities of all codes after the prompts, and after no history."""
        per = self.catalogue.codes.lengths if score == "mean" else 1
        return ((total - (prior if score == "pmi" else 0.0)) / per).astype(np.float32)[:, self.catalogue.code_of]

    def _search(self, prompts: Ragged, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `best`, and whether the search proved it, bool [users]."""
        catalogue, trie = self.catalogue, self.catalogue.trie
        budget = max(1, min(MAX_NODES, int((trie.n_children > 0).sum()) // _SHARE))
        found = top_rows(
            self.model, prompts, trie, k, excluded=_exhausted(catalogue, excluded), max_nodes=budget,
            max_batch_tokens=self.max_batch_tokens,
        )  # fmt: skip
        by_code, bounds = catalogue.by_code
        codes = found.rows.ravel()
        begins, ends = bounds[codes.clip(0)], np.where(codes >= 0, bounds[codes + 1], bounds[codes.clip(0)])
        place = np.repeat(np.arange(len(codes)), ends - begins)
        item, user = by_code[ranges(begins, ends)], place // k
        wanted = ~np.isin(user * len(catalogue) + item, _pairs(excluded, len(catalogue)))
        item, user, score = item[wanted], user[wanted], found.log_probs.ravel()[place][wanted]
        column = np.arange(len(user)) - np.searchsorted(user, user)
        first = column < k
        items, scores = np.full((len(prompts), k), -1), np.full((len(prompts), k), -np.inf, dtype=np.float32)
        items[user[first], column[first]], scores[user[first], column[first]] = item[first], score[first]
        return items, scores, found.proven

    def _sorted(self, scores: np.ndarray, k: int, excluded: Ragged) -> tuple[np.ndarray, np.ndarray]:
        """The best of all items' scores [users, items], which are changed."""
        scores[np.repeat(np.arange(len(scores)), excluded.lengths), excluded.values] = -np.inf
        wide = min(k, scores.shape[1])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :wide]
        found = np.take_along_axis(scores, best, axis=1)
        pad = ((0, 0), (0, k - wide))
        items = np.pad(np.where(np.isfinite(found), best, -1), pad, constant_values=-1)
        return items, np.pad(found, pad, constant_values=-np.inf)

    def _all(self, prompts: Ragged) -> np.ndarray:
        return score_catalogue(self.model, prompts, self.catalogue.trie, max_batch_tokens=self.max_batch_tokens)

    def _log_probs(self, prompts: Ragged, owners: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Of the titles `codes` [users, n] after the prompts `owners` [users]; float32 [users, n].

        Each title once a prompt: what shares a title has the same score to the last bit, so metrics see the tie.
        """
        n_codes = len(self.catalogue.codes)
        pairs, place = np.unique(owners[:, None] * n_codes + codes, return_inverse=True)
        scores = score_candidates(
            self.model, prompts, self.catalogue.trie, pairs // n_codes, which=pairs % n_codes,
            max_batch_tokens=self.max_batch_tokens,
        )  # fmt: skip
        return scores[place].reshape(codes.shape)


def listed(catalogue: Catalogue, items: np.ndarray, scores: np.ndarray) -> list[Recommendation]:
    """One user's row of `Scorer.best` with ids and titles."""
    items, scores = items[items >= 0], scores[items >= 0]
    columns = catalogue.ids.take(items).to_pylist(), catalogue.names.take(items).to_pylist(), scores.tolist()
    return [Recommendation(*row) for row in zip(*columns, strict=True)]


def _check_score(score: str) -> None:
    if score not in ("sum", "mean", "pmi"):
        raise InputError(f"score is {score!r}; choose sum, mean or pmi")


def _pairs(rows: Ragged, n_items: int) -> np.ndarray:
    """Rows of items as distinct numbers user * n_items + item."""
    return np.unique(np.repeat(np.arange(len(rows)), rows.lengths) * n_items + rows.values)


def _exhausted(catalogue: Catalogue, seen: Ragged) -> Ragged:
    """The codes of which a user has seen every item, a row a user."""
    user, item = np.divmod(_pairs(seen, len(catalogue)), len(catalogue))
    pairs, counts = np.unique(user * len(catalogue.codes) + catalogue.code_of[item], return_counts=True)
    user, code = np.divmod(pairs, len(catalogue.codes))
    all_seen = counts == np.diff(catalogue.by_code[1])[code]
    return Ragged(code[all_seen].astype(np.int32), offsets_of(np.bincount(user[all_seen], minlength=len(seen))))
