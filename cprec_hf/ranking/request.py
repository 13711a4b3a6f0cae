"""What is asked of a recommender, checked and in numbers: whose histories, which candidates, and their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.reader import Reader


@dataclass(frozen=True, eq=False)
class Request:
    """Histories and candidates of one domain, as `read_request` checked them."""

    catalogue: Catalogue
    """The domain's items."""
    histories: Ragged
    """Item rows, oldest first, a row a user."""
    codes: np.ndarray
    """The candidates, rows of `catalogue.codes` [users, candidates]."""
    openings: np.ndarray
    """What stands before each history, as `Catalogue.openings` gives it."""
    limit: int
    """Most tokens of a prompt with one candidate."""
    history_length: int
    """Most items of a history that count."""

    @cached_property
    def room(self) -> np.ndarray:
        """Most tokens each user's prompt may take beside the longest candidate, int64 [users]."""
        return self.limit - self.catalogue.codes.lengths[self.codes].max(axis=1, initial=0)

    @cached_property
    def prompts(self) -> Ragged:
        """Each user's prompt, one row of token ids a user."""
        return self.catalogue.prompts(self.openings, self.histories, self.history_length, self.room)

    def empty_prompts(self) -> tuple[Ragged, np.ndarray]:
        """The distinct prompts without any history (one, but for lists of candidates), and each user's, int64 [users].

        They have as much room as there is: nothing is trimmed from them.
        """
        same, user = np.unique(self.openings, axis=0, return_inverse=True)
        room = np.full(len(same), self.limit)
        return self.catalogue.prompts(same, Ragged.empty(len(same)), 0, room), user.ravel()


def read_request(
    model: Any,
    record: ModelRecord,
    catalogue: Catalogue,
    histories: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]],
    *,
    skip_unknown: bool = False,
) -> Request:
    """Check what `Recommender.rank` takes and put it in numbers.

    Args:
        model: any causal language model.
        record: of the model.
        catalogue: of the domain of all ids.
        histories: item ids, oldest first, a list a user; may be empty.
        candidates: item ids, a list a user, all of one length.
        skip_unknown: leave out what the catalogue does not have from histories.

    Raises:
        InputError: an unknown item, lists that do not match, or titles too long for the model.
    """
    past = catalogue.rows(histories, "histories", skip_unknown=skip_unknown)
    wanted = catalogue.rows(candidates, "candidates")
    sizes = wanted.lengths
    if len(sizes) != len(past):
        raise InputError(f"{len(past)} histories but {len(sizes)} lists of candidates; give one each")
    if len(uneven := np.flatnonzero(sizes != sizes[:1])):
        raise InputError(f"candidates[0] has {sizes[0]} items but candidates[{uneven[0]}] {sizes[uneven[0]]}")
    codes = catalogue.code_of[wanted.values].reshape(len(sizes), sizes[0] if len(sizes) else 0)
    openings = catalogue.openings(len(codes), codes if record.candidate_list_in_prompt else None)
    limit = token_limit(model, record)
    if codes.size:
        catalogue.check_fits(openings, codes, limit)
    return Request(catalogue, past, codes, openings, limit, record.history_length)


def token_limit(model: Any, record: ModelRecord) -> int:
    """Most tokens of a prompt with one candidate: what fits the corpus' windows and the model's positions."""
    context = Reader(model).context
    # A candidate's last token is predicted and never read, so it needs no position.
    limits = [record.window_tokens, context + 1 if context is not None else None]
    return min([limit for limit in limits if limit], default=np.iinfo(np.int32).max)
