"""Yes or no: does the user choose this item next? TALLRec's form (arXiv 2305.00447), as a baseline.

    scores = pointwise_scores(recommender, histories, candidates)  # log P(yes) - log P(no)

A question about one candidate stands behind the history, in the template's words, and its two answers are compared. For
models that were trained so (`training/pointwise.py`); any other answers as it likes. All questions about a user's
candidates are one tree behind one prompt, so a history is read once, as in `Recommender.rank`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import Template
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.request import Request
from cprec_hf.ranking.scoring import score_candidates

if TYPE_CHECKING:
    from cprec_hf.ranking.recommender import Recommender


class Questions:
    """The questions about a catalogue's titles, and their answers, as token ids.

    Attributes:
        asked: the question about each title, a row a row of `catalogue.codes`.
        answers: the two answers, yes first.

    Args:
        catalogue: whose titles.
        encoder: the model's.
        template: the model's.
    """

    def __init__(self, catalogue: Catalogue, encoder: Encoder, template: Template) -> None:
        self.catalogue = catalogue
        opening = encoder.segments([template.question()])
        self.asked = opening.take(np.zeros(len(catalogue.codes))).join(catalogue.codes)
        self.answers = encoder.segments([template.answer(yes) for yes in (True, False)])
        self._beside = int(opening.lengths[0] + self.answers.lengths.max())

    def prompts(self, request: Request) -> Ragged:
        """Each user's prompt, with room for the question about the longest candidate and its answer.

        Raises:
            InputError: there is no room for that, even without a history.
        """
        catalogue = self.catalogue
        catalogue.check_fits(request.openings, request.codes, request.limit - self._beside)
        room = request.room - self._beside
        return catalogue.prompts(request.openings, request.histories, request.history_length, room)

    def answered(self, codes: np.ndarray, yes: np.ndarray) -> Ragged:
        """Questions about `codes` with their answers, a row each; both [n]."""
        return self.asked.take(codes).join(self.answers.take(np.where(yes, 0, 1)))


def pointwise_scores(
    recommender: Recommender,
    histories: Sequence[Sequence[str]],
    candidates: Sequence[Sequence[str]],
    domain: str | None = None,
) -> np.ndarray:
    """How much likelier yes is than no, of each user's candidates.

    Args:
        recommender: the model, its template and its items.
        histories: item ids, oldest first, a list a user; see `Recommender.rank`.
        candidates: item ids, a list a user, all of one length.
        domain: the domain of all ids; by default the one the model was fine-tuned on.

    Returns:
        log P(yes) - log P(no), float32 [users, candidates], in nats.

    Raises:
        InputError: as `Recommender.rank`.
    """
    request = recommender.request(histories, candidates, domain)
    if not request.codes.size:
        return np.empty(request.codes.shape, dtype=np.float32)
    questions = Questions(request.catalogue, recommender._encoder, recommender._template)
    # Each title once a prompt: what shares a title has the same score to the last bit, so metrics see the tie.
    n_codes, users = len(request.catalogue.codes), np.arange(len(request.codes))
    pairs, place = np.unique(users[:, None] * n_codes + request.codes, return_inverse=True)
    used, which = np.unique(pairs % n_codes, return_inverse=True)
    rows = questions.answered(np.tile(used, 2), np.repeat([True, False], len(used)))
    scores = score_candidates(
        recommender.model, questions.prompts(request), rows, np.tile(pairs // n_codes, 2),
        which=np.concatenate([which, which + len(used)]), max_batch_tokens=recommender.max_batch_tokens,
    )  # fmt: skip
    # What the two have in common, the question, cancels.
    return (scores[: len(pairs)] - scores[len(pairs) :])[place].reshape(request.codes.shape)
