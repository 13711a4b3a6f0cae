"""The search against scoring every row: what it proves is the best there is, and what it does not prove it says."""

from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking import search
from cprec_hf.ranking.scoring import score_catalogue
from cprec_hf.ranking.search import can_search, top_rows
from cprec_hf.ranking.trie import Trie

from .models import GROUPED, KINDS, random_model, random_rows

MODELS = {
    "qwen3": (transformers.Qwen3Config, GROUPED),
    "llama, tied": (transformers.LlamaConfig, GROUPED | {"tie_word_embeddings": True}),
    "granite, scaled logits": (transformers.GraniteConfig, GROUPED | {"logits_scaling": 3.0}),
    "mistral": KINDS["sliding windows"],
    "gemma3": KINDS["some sliding windows"],
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    config, values = MODELS[request.param]
    return random_model(config, **values)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_proven_is_the_best_there_is(model: Any, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    prefixes = random_rows(rng, rng.integers(1, 30, data.draw(st.integers(1, 5))))
    rows = random_rows(
        rng, rng.integers(1, 7, data.draw(st.integers(1, 150))), most=data.draw(st.integers(3, 12)), end=1
    )
    excluded = Ragged.from_lists(
        rng.choice(len(rows), rng.integers(0, len(rows) + 1), replace=False).tolist() for _ in range(len(prefixes))
    )
    k, limit = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([1, 5, 40, 10_000]))
    trie, tokens = Trie.of(rows), data.draw(st.integers(1, 2000))
    found = top_rows(model, prefixes, trie, k, excluded=excluded, max_nodes=limit, max_batch_tokens=tokens)
    scores = score_catalogue(model, prefixes, trie)
    for user in range(len(prefixes)):
        allowed = np.setdiff1d(np.arange(len(rows)), excluded.row(user))
        best = allowed[np.argsort(-scores[user, allowed], kind="stable")][:k]
        mine = found.rows[user][found.rows[user] >= 0]
        assert set(mine) <= set(allowed.tolist()) and len(set(mine)) == len(mine)
        np.testing.assert_allclose(found.log_probs[user][: len(mine)], scores[user, mine], atol=1e-4)
        assert (np.diff(found.log_probs[user][: len(mine)]) <= 0).all()
        assert found.nodes[user] <= limit + (512 if limit > 512 else 0) + 32 * len(trie.levels)
        assert len(mine) == len(best), "as many as there are, proven or not"
        if found.proven[user]:
            np.testing.assert_allclose(scores[user, mine], scores[user, best], atol=1e-4)
        if limit == 10_000:
            assert found.proven[user]


def test_a_search_reads_less_than_the_tree_and_its_doubt_is_justified(model: Any) -> None:
    rng = np.random.default_rng(1)
    prefixes, rows = random_rows(rng, [20, 3, 35, 11]), random_rows(rng, rng.integers(2, 8, 600), most=9, end=1)
    trie = Trie.of(rows)
    inner = int((trie.n_children > 0).sum()) - 1
    whole = top_rows(model, prefixes, trie, 5)
    assert whole.proven.all() and (whole.nodes < inner / 3).all() and (whole.nodes > 0).all()
    scores = score_catalogue(model, prefixes, trie)
    assert (np.argsort(-scores, axis=1)[:, :5] == whole.rows).all()
    short = top_rows(model, prefixes, trie, 5, max_nodes=6)
    assert not short.proven.any()
    assert ((short.nodes >= 6) & (short.nodes <= 6 + 32 * 8)).all() and (short.rows >= 0).all()


@pytest.mark.parametrize("at_once", [1, 5])
def test_steps_of_any_width_find_the_same(model: Any, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    prefixes, rows = random_rows(rng, [20, 3]), random_rows(rng, rng.integers(2, 8, 100), most=9, end=1)
    wide = top_rows(model, prefixes, Trie.of(rows), 4)
    monkeypatch.setattr(search, "_AT_ONCE", at_once)
    narrow = top_rows(model, prefixes, Trie.of(rows), 4)
    assert (narrow.rows == wide.rows).all() and narrow.proven.all()
    assert (narrow.nodes <= wide.nodes).all()


def test_an_open_node_that_was_let_go_forbids_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(transformers.Qwen3Config, **GROUPED)
    rng = np.random.default_rng(3)
    prefixes, rows = random_rows(rng, [8, 5, 13]), random_rows(rng, rng.integers(3, 6, 400), end=1)
    assert top_rows(model, prefixes, Trie.of(rows), 10).proven.all()
    monkeypatch.setattr(search, "_OPEN", 40)
    scores = score_catalogue(model, prefixes, Trie.of(rows))
    found = top_rows(model, prefixes, Trie.of(rows), 10)
    best = -np.sort(-scores, axis=1)[:, :10]
    assert not found.proven.all()
    np.testing.assert_allclose(found.log_probs[found.proven], best[found.proven], atol=1e-4)


def test_nobody_nothing_and_what_cannot_be_searched() -> None:
    model = random_model(transformers.Qwen3Config, **GROUPED)
    rng = np.random.default_rng(4)
    prefixes, rows = random_rows(rng, [5]), Trie.of(Ragged.from_lists([[3, 1], [4, 1]]))
    assert top_rows(model, random_rows(rng, []), rows, 3).rows.shape == (0, 3)
    few = top_rows(model, prefixes, rows, 5)
    assert (few.rows[0, 2:] == -1).all() and np.isneginf(few.log_probs[0, 2:]).all() and few.proven.all()
    for wrong in ([[3], [3, 1]], [[3, 1], [3, 1]]):
        with pytest.raises(ValueError, match="repeat or begin one another"):
            top_rows(model, prefixes, Trie.of(Ragged.from_lists(wrong)), 1)
    config, values = KINDS["a table of positions"]
    other = random_model(config, **values)
    assert not can_search(other, prefixes, rows)
    with pytest.raises(InputError, match="another method"):
        top_rows(other, prefixes, rows, 1)
