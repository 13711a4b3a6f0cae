"""Siblings of the targets of list-wise training: K titles of the domain's whole catalogue, drawn anew in every epoch.

Left out are what the user did in training rows and what shares its title, and nothing else: to leave out the item that
validation or test asks for, or the frozen candidates, would tell the model what they are (an item that never comes as
a negative is one to believe in). Validation and test rows are not read here at all.

Each list of siblings owns a stream, keyed by (corpus, seed, domain, user, row, epoch, position), so that it depends on
no batch, process or resume (`corpus/candidates.py`). What the numbers of a stream stand for:

    uniform     every item of the catalogue alike
    popularity  in proportion to an item's training events plus one; with the log-q correction
    category    uniformly among the items of the target's category
    in_batch    the items of the histories in the batch, as often as they stand there; with the log-q correction

A source that runs out of different titles is filled up uniformly. The log-q correction subtracts log q(item), the
log-probability of drawing it, from the score of every item of a list, the target too: a softmax over a sample then
estimates the one over the catalogue (Bengio and Senécal 2008; for recommenders Yi et al., RecSys 2019). In a batch, an
item is drawn as often as people took it, so q is its share of training events plus one there too. Draws are without
repeats in a list, for which q is not corrected (our choice). Where all of a list are equally likely, log q cancels.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from cprec_hf.corpus.candidates import draw_from_pool, row_keys, vary_keys
from cprec_hf.corpus.pools import Pool, category_pool
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue

Source = Literal["uniform", "popularity", "category", "in_batch"]
SOURCES = get_args(Source)
_POSITIONS = 1 << 20  # more than a history has items


class Siblings:
    """Draws the negatives of a domain's rows.

    Attributes:
        log_q: the log-probability of drawing each title, float32 [titles], where scores are corrected by it; or None.

    Args:
        catalogue: of the domain.
        count: negatives a list, K.
        source: see the module.
        events: training events of each item, int [n_items].
        categories: of each item, string [n_items], null where unknown; for `category`.

    Raises:
        InputError: no such source, fewer than one negative, fewer titles than `count` + 2, or no categories to draw by.
    """

    def __init__(
        self, catalogue: Catalogue, count: int, source: str, events: np.ndarray, categories: pa.Array | None
    ) -> None:
        n_titles = len(catalogue.codes)
        if source not in SOURCES:
            raise InputError(f"`negative_source` is {source!r}; choose one of {', '.join(SOURCES)}")
        if count < 1:
            raise InputError(f"`negatives` is {count}; give at least 1")
        if n_titles < count + 2:
            raise InputError(
                f"`negatives` is {count} and domain {catalogue.domain!r} has {n_titles} different titles; give at most "
                f"{n_titles - 2}, or bring more items"
            )
        self.count, self.source, self.n_titles = count, source, n_titles
        items = np.bincount(catalogue.code_of, minlength=n_titles)  # two items of one title are two tickets
        weights = np.bincount(catalogue.code_of, weights=events, minlength=n_titles).astype(np.int64) + items
        corrected = source in ("popularity", "in_batch")
        self.log_q = np.log(weights / weights.sum()).astype(np.float32) if corrected else None
        self._uniform = _line(np.arange(n_titles), items)
        self._pool = _line(np.arange(n_titles), weights) if source == "popularity" else self._uniform
        if source == "category":
            self._pool = _by_category(catalogue, categories)

    def draw(self, targets: np.ndarray, seen: Ragged, keys: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Negatives of some lists.

        Args:
            targets: titles, rows of `catalogue.codes` [n_lists].
            seen: titles that each list's user took in training rows, the target among them or not.
            keys: of each list's stream, uint64 [n_lists].
            batch: all titles of the batch's histories, with repeats; for `in_batch`.

        Returns:
            Titles, int64 [n_lists, count], all different in a list, none the list's target.

        Raises:
            InputError: a user's history leaves fewer than `count` titles.
        """
        pool = self._pool
        if self.source == "in_batch":
            titles, times = np.unique(batch, return_counts=True)
            pool = _line(titles, times, self.n_titles)
        drawn, _ = draw_from_pool(pool, seen, targets, keys, self.count + 1, np.arange(self.n_titles))
        return drawn[drawn != targets[:, None]].reshape(len(targets), self.count)


def stream_keys(key: str, users: pa.Array, index: np.ndarray) -> np.ndarray:
    """The key of each row's streams, uint64 [n_rows].

    Args:
        key: `CORPUS/SEED/DOMAIN` or the like.
        users: the id of each row's user.
        index: the place of a row among its user's, int [n_rows].
    """
    return row_keys(key, "listwise", users, index)


def list_keys(rows: np.ndarray, epochs: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The keys of lists: of the stream of each one's row, its epoch and the place of its target, all [n_lists]."""
    return vary_keys(rows, epochs * _POSITIONS + positions)


def _line(titles: np.ndarray, weights: np.ndarray, size: int | None = None) -> Pool:
    """Some titles by weight, the same for whatever target of the catalogue's `size`."""
    ends = np.cumsum(weights.astype(np.int64))
    part_of = np.zeros(size or len(titles), dtype=np.int64)
    return Pool(titles.astype(np.int64), ends, part_of, np.array([0, ends[-1] if len(ends) else 0]))


def _by_category(catalogue: Catalogue, categories: pa.Array | None) -> Pool:
    """The titles of each category alike; a title of several items is of its first's."""
    if categories is None or categories.null_count == len(categories):
        raise InputError(
            f"`negative_source` is category, and no item of {catalogue.domain!r} has one in this corpus; give another "
            "source, or build the corpus from items with a column `category`"
        )
    of_item = categories.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    of_title = np.full(len(catalogue.codes), -1, dtype=np.int64)
    of_title[catalogue.code_of[::-1]] = of_item[::-1]
    return category_pool(of_title)
