"""What is asked of a recommender, checked and in numbers: whose histories, which candidates, and their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.reader import Reader
from cprec_hf.ranking.recommender import Recommender


@dataclass(frozen=True, eq=False)
class Request:
    """Histories and candidates of one domain, as `read_request` checked them."""

    catalogue: Catalogue
    """The domain's items."""
    rows: np.ndarray
    """Item rows of all histories, oldest first, int64 [n]."""
    offsets: np.ndarray
    """Where each history begins, int64 [users + 1]."""
    codes: np.ndarray
    """The candidates, rows of `catalogue.codes` [users, candidates]."""
    openings: np.ndarray
    """What stands before each history, as `Catalogue.openings` gives it."""
    room: np.ndarray
    """Most tokens each user's prompt may take beside the longest candidate, int64 [users]."""
    history_length: int
    """Most items of a history that count."""

    @property
    def prompts(self) -> Ragged:
        """Each user's prompt as `Recommender.rank` writes it, one row of token ids a user."""
        return self.catalogue.prompts(self.openings, self.rows, self.offsets, self.history_length, self.room)


def read_request(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]],
    domain: str | None = None,
) -> Request:
    """Check what `Recommender.rank` takes and put it in numbers.

    Args:
        recommender: whose items, template and sizes.
        histories: item ids, oldest first, a list a user; may be empty.
        candidates: item ids, a list a user, all of one length of at least one.
        domain: the domain of all ids; by default the one the model was fine-tuned on.

    Raises:
        InputError: unknown item or domain, lists that do not match, or titles too long for the model.
    """
    catalogue = recommender._catalogue(domain)
    rows, offsets = catalogue.rows(histories, "histories")
    wanted, bounds = catalogue.rows(candidates, "candidates")
    sizes = np.diff(bounds)
    if len(sizes) != len(offsets) - 1:
        raise InputError(f"{len(offsets) - 1} histories but {len(sizes)} lists of candidates; give one each")
    if len(sizes) and (sizes.min() < sizes.max() or not sizes[0]):
        raise InputError(f"lists of {sizes.min()} to {sizes.max()} candidates; give all one length of at least one")
    codes = catalogue.code_of[wanted].reshape(len(sizes), sizes[0] if len(sizes) else 0)
    record = recommender.record
    openings = catalogue.openings(len(codes), codes if record.candidate_list_in_prompt else None)
    room = np.zeros(0, dtype=np.int64)
    if len(codes):
        context = Reader(recommender.model).context
        # The last token is predicted and never read, so it needs no position.
        bounds_of_all = [context + 1 if context is not None else None, record.window_tokens or None]
        limit = min((bound for bound in bounds_of_all if bound is not None), default=np.iinfo(np.int32).max)
        catalogue.check_fits(openings, codes, limit)
        room = limit - catalogue.codes.lengths[codes].max(axis=1)
    return Request(catalogue, rows, offsets, codes, openings, room, record.history_length)
