"""All scores of one reading are those of three."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.ranking.by_score import SCORES, rank_by_scores
from cprec_hf.ranking.recommender import Recommender

TITLES = ["red lamp", "blue chair", "red lamp", "wooden desk", "garden table", "dark mug for the kitchen"]
IDS = [f"i{n}" for n in range(len(TITLES))]
HISTORIES = [["i0", "i1"], ["i4"], []]


def recommender(tokenizer: Any, tiny_model: Callable[..., Any], listed: bool) -> Recommender:
    record = ModelRecord(
        stage="sft", base="b", template_version="1", max_title_tokens=40, history_length=20, domain="Books",
        corpus="toy", corpus_revision=None, corpus_hash="h", schedule={}, tokens=1, seed=0, parents=[],
        candidate_list_in_prompt=listed,
    )  # fmt: skip
    items = {"item_id": IDS, "domain": ["Books"] * len(IDS), "title": TITLES, "full_title": TITLES}
    return Recommender(tiny_model(tokenizer), tokenizer, record, pa.table(items))


@pytest.mark.parametrize("listed", [False, True])
def test_scores_are_those_of_rank(byte_level_tokenizer: Any, tiny_model: Callable[..., Any], listed: bool) -> None:
    made = recommender(byte_level_tokenizer, tiny_model, listed)
    offered = [["i0", "i2", "i3"], ["i5", "i1", "i2"], ["i3", "i4", "i0"]]
    for candidates in [offered] if listed else [offered, None]:
        found = rank_by_scores(made, HISTORIES, candidates)
        assert tuple(found) == SCORES == ("sum", "mean", "pmi")
        for score in SCORES:
            np.testing.assert_array_equal(found[score], made.rank(HISTORIES, candidates, score=score))
    if listed:
        with pytest.raises(InputError, match="this model needs candidates"):
            rank_by_scores(made, HISTORIES, None)
    for candidates in [[]] if listed else [[], None]:
        assert all(len(scores) == 0 for scores in rank_by_scores(made, [], candidates).values())
