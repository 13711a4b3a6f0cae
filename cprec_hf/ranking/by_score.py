"""A recommender's scores by every rule at once, of one reading of the histories: what validation chooses a rule from.

scores = rank_by_scores(recommender, histories, candidates)  # {"sum": ..., "mean": ..., "pmi": ...}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from cprec_hf.ranking.scorer import Score

if TYPE_CHECKING:
    from cprec_hf.ranking.recommender import Recommender

SCORES: tuple[Score, ...] = get_args(Score)


def rank_by_scores(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]] | None,
    domain: str | None = None,
) -> dict[Score, np.ndarray]:
    """What `Recommender.rank` gives by each of `SCORES`, to the last bit; arguments and errors as there.

    Returns:
        float32 [users, candidates] by score.
    """
    if candidates is None:
        recommender._require_no_list()
        catalogue = recommender._catalogue(domain)
        past = catalogue.rows(histories, "histories")
        return recommender._scorer(catalogue).everything_by(past, SCORES)
    request = recommender.request(histories, candidates, domain)
    return recommender._scorer(request.catalogue).candidates_by(request, SCORES)
