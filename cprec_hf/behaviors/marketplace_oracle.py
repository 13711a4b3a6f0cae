"""The best any method can do in a simulated marketplace, computed and not guessed.

Two ceilings on the users of an unseen domain: the latent oracle knows each user's tastes at the moment of the event;
the Bayes filter knows the world's parameters but sees only the user's history (items and times) and is exact: it keeps
the joint distribution over (favourite pair, style, noun), moves it by the drift before each event and conditions it on
each item bought, with the items already bought left out of every normaliser. No method that sees the history alone
can rank better in expectation of hit rate at 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from cprec_hf.behaviors import marketplace_words as words
from cprec_hf.behaviors.marketplace import N_EPOCHS, PAIRS, SPAN, START, Marketplace
from cprec_hf.errors import InputError

ROWS_PER_CHUNK = 500


class MarketplaceOracle:
    """Scores of candidates in one unseen domain of a `Marketplace`."""

    def __init__(self, market: Marketplace, domain: str) -> None:
        if domain not in market.config.unseen:
            raise InputError(
                f"the oracles need users who act in one domain only: {domain!r} is not among the unseen domains "
                f"{', '.join(market.config.unseen)}"
            )
        self.market = market
        self.domain = next(d for d in market.domains if d.name == domain)
        self.index = {item: i for i, item in enumerate(self.domain.item_ids.tolist())}
        events = pl.concat(market.event_chunks(unseen=domain)).sort("user_id", "timestamp")
        position = pl.int_range(pl.len()).over("user_id").alias("position")
        item = pl.col("item_id").replace_strict(self.index, return_dtype=pl.Int64).alias("item")
        self.events = events.with_columns(position, item)
        c = market.config
        self.theme = np.exp(market.theme_logits())
        self.style = np.exp(c.style_taste * np.eye(words.N_STYLES))
        self.noun = np.exp(c.noun_taste * np.eye(words.N_NOUNS))

    def latent_scores(
        self, user_ids: Sequence[str], timestamps: np.ndarray, candidates: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Log-odds of each candidate given the user's true tastes at the event. Shape: [rows, candidates].

        Args:
            user_ids: raw user ids of the marketplace [rows].
            timestamps: unix seconds of the target event [rows].
            candidates: item ids [rows][candidates], equally many in each row.
        """
        rows = self._rows(user_ids, timestamps)
        items = self._items(candidates)
        theme = np.log(self.theme)[rows["pair"].to_numpy(), rows["last_theme"].to_numpy()]
        style, noun = np.log(self.style)[rows["style"].to_numpy()], np.log(self.noun)[rows["noun"].to_numpy()]
        weights = np.log(self.domain.weights())[self._epochs(rows["timestamp"].to_numpy())]
        at = np.arange(len(items))[:, None]
        return (
            theme[at, self.domain.theme[items]] + style[at, self.domain.style[items]]
            + noun[at, self.domain.noun[items]] + weights[at, items]
        )  # fmt: skip

    def bayes_scores(
        self, user_ids: Sequence[str], timestamps: np.ndarray, histories: Sequence[Sequence[str]],
        candidates: Sequence[Sequence[str]],
    ) -> np.ndarray:  # fmt: skip
        """Exact probability of each candidate being the next item, given the history. Shape: [rows, candidates].

        Args:
            user_ids, timestamps, candidates: as for `latent_scores`.
            histories: item ids, oldest first [rows][any]; must be all the user did before.

        Raises:
            InputError: a history is not the user's whole history, so that the result would not be exact.
        """
        items = self._items(candidates)
        past_items, past_epochs = self._past(user_ids, timestamps, histories)
        epochs = self._epochs(np.asarray(timestamps))
        parts = [slice(i, i + ROWS_PER_CHUNK) for i in range(0, len(items), ROWS_PER_CHUNK)]
        return np.concatenate([self._filter(past_items[p], past_epochs[p], epochs[p], items[p]) for p in parts])

    def _filter(self, past: np.ndarray, past_epochs: np.ndarray, epochs: np.ndarray, items: np.ndarray) -> np.ndarray:
        d, n = self.domain, len(past)
        weights = d.weights()
        shape = (words.N_THEMES, words.N_STYLES, words.N_NOUNS)
        mass = np.stack([np.bincount(d.cell, w, np.prod(shape)) for w in weights]).reshape(N_EPOCHS, *shape)
        belief = np.full((n, len(PAIRS), words.N_STYLES, words.N_NOUNS), 1.0 / (len(PAIRS) * shape[1] * shape[2]))
        last = np.full(n, -1)
        for t in range(past.shape[1]):
            rows = np.flatnonzero(past[:, t] >= 0)
            now, bought = past[rows, t], past[rows, :t]
            moved = self._drift(belief[rows]) if t else belief[rows]
            theme = self.theme[:, last[rows]].transpose(1, 0, 2)  # [rows, pairs, themes]
            normaliser = self._normaliser(mass[past_epochs[rows, t]], weights[past_epochs[rows, t]], bought, theme)
            likelihood = (
                theme[np.arange(len(rows)), :, d.theme[now]][:, :, None, None]
                * self.style[d.style[now]][:, None, :, None] * self.noun[d.noun[now]][:, None, None, :]
            )  # fmt: skip
            moved *= likelihood / normaliser
            belief[rows] = moved / moved.sum(axis=(1, 2, 3), keepdims=True)
            last[rows] = d.theme[now]
        belief = np.where((past[:, 0] >= 0)[:, None, None, None], self._drift(belief), belief)
        theme = self.theme[:, last].transpose(1, 0, 2)
        share = belief / self._normaliser(mass[epochs], weights[epochs], past, theme)
        cells = np.einsum("nfsc,nfa->nasc", share, theme, optimize=True) @ self.noun
        cells = np.einsum("nasd,sb->nabd", cells, self.style, optimize=True).reshape(n, -1)
        at = np.arange(n)[:, None]
        return cells[at, d.cell[items]] * weights[epochs[:, None], items]

    def _normaliser(self, mass: np.ndarray, weights: np.ndarray, bought: np.ndarray, theme: np.ndarray) -> np.ndarray:
        """Sum of exp(logit) over the items not bought, for every state. Shape: [rows, pairs, styles, nouns]."""
        left, at = mass.copy(), np.arange(len(mass))
        for t in range(bought.shape[1]):
            rows = at[bought[:, t] >= 0]
            j = bought[rows, t]
            left[rows, self.domain.theme[j], self.domain.style[j], self.domain.noun[j]] -= weights[rows, j]
        left = np.einsum("nabd,sb->nasd", left, self.style, optimize=True) @ self.noun.T
        return np.einsum("nasc,nfa->nfsc", left, theme, optimize=True)

    def _drift(self, belief: np.ndarray) -> np.ndarray:
        rate = self.market.config.drift
        for axis in (1, 2, 3):
            belief = (1 - rate) * belief + rate * belief.mean(axis=axis, keepdims=True)
        return belief

    def _epochs(self, timestamps: np.ndarray) -> np.ndarray:
        return np.minimum((timestamps - START) * N_EPOCHS // SPAN, N_EPOCHS - 1)

    def _items(self, candidates: Sequence[Sequence[str]]) -> np.ndarray:
        flat = pl.Series(np.asarray(candidates).ravel()).replace_strict(self.index, return_dtype=pl.Int64)
        return flat.to_numpy().reshape(len(candidates), -1)

    def _rows(self, user_ids: Sequence[str], timestamps: np.ndarray) -> pl.DataFrame:
        asked = pl.DataFrame({"user_id": list(user_ids), "timestamp": np.asarray(timestamps, dtype=np.int64)})
        found = asked.join(self.events, on=["user_id", "timestamp"], how="left", maintain_order="left")
        if found["item"].null_count():
            row = found.filter(pl.col("item").is_null()).row(0, named=True)
            raise InputError(
                f"user {row['user_id']} has no event at {row['timestamp']} in this marketplace; was the corpus built "
                "from the same config and seed?"
            )
        return found

    def _past(
        self, user_ids: Sequence[str], timestamps: np.ndarray, histories: Sequence[Sequence[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Items and epochs of each history as rows padded with -1, checked against the users' true histories."""
        rows = self._rows(user_ids, timestamps).select("user_id", length="position").with_row_index("row")
        joined = rows.join(self.events.select("user_id", "item", "item_id", "timestamp", "position"), on="user_id")
        joined = joined.filter(pl.col("position") < pl.col("length")).sort("row", "position")
        truth = joined.group_by("row", maintain_order=True).agg("item_id")
        given = pl.DataFrame({"row": rows["row"], "given": pl.Series(list(histories), dtype=pl.List(pl.String))})
        wrong = given.join(truth, on="row", how="left").filter(pl.col("item_id").fill_null([]) != pl.col("given"))
        if len(wrong):
            raise InputError(
                f"row {wrong['row'][0]}: the history given is not all that user did before; the exact Bayes filter "
                "needs a history_length no shorter than the users' histories"
            )
        width = max(int(rows["length"].to_numpy().max(initial=0)), 1)
        items, epochs = np.full((len(rows), width), -1), np.zeros((len(rows), width), dtype=np.int64)
        where = joined["row"].to_numpy(), joined["position"].to_numpy()
        items[where] = joined["item"].to_numpy()
        epochs[where] = self._epochs(joined["timestamp"].to_numpy())
        return items, epochs
