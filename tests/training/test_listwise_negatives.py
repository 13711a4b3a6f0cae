"""Siblings: whose they may be, how often each comes, and that they say nothing of what is held out."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.training.listwise_negatives import SOURCES, Siblings, list_keys, stream_keys

TITLES = [f"{a} {b}" for a in ("red", "blue", "green", "dark") for b in ("lamp", "mug", "ball")]
TITLES += ["red lamp", "blue mug"]  # two items share a title with another


@pytest.fixture(scope="module")
def catalogue(byte_level_tokenizer):
    rows = [{"item_id": f"i{n}", "domain": "D", "title": t, "full_title": t} for n, t in enumerate(TITLES)]
    return Catalogue(pa.Table.from_pylist(rows), "D", Encoder(byte_level_tokenizer), load_template("1"))


CATEGORIES = pa.array([["lamps", "mugs", "balls"][n % 3] for n in range(12)] + ["lamps", None])
EVENTS = np.array([0, 5, 1, 0, 30, 2, 0, 0, 7, 1, 1, 1, 4, 0])


def siblings_of(catalogue, count, source):
    return Siblings(catalogue, count, source, EVENTS, CATEGORIES)


def keys_of(n, key="k"):
    return stream_keys(key, pa.array([f"u{i}" for i in range(n)]), np.zeros(n, dtype=np.int64))


@settings(max_examples=30)
@given(st.data())
def test_never_the_target_nor_what_the_user_took_nor_a_title_twice(catalogue, data):
    n_titles = len(catalogue.codes)
    assert n_titles == 12
    count, source = data.draw(st.integers(1, 5)), data.draw(st.sampled_from(SOURCES))
    lists = data.draw(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=6), min_size=1, max_size=6))
    seen, targets = Ragged.from_lists(lists), np.array([row[-1] for row in lists])
    siblings, keys = siblings_of(catalogue, count, source), keys_of(len(lists))
    got = siblings.draw(targets, seen, keys, seen.values)
    assert got.shape == (len(lists), count)
    for row, target, drawn in zip(lists, targets, got.tolist(), strict=True):
        assert len({*drawn}) == count and not {*drawn} & {*row, target}
    again = siblings.draw(targets[:1], seen.take(np.array([0])), keys[:1], seen.values)
    assert again[0].tolist() == got[0].tolist()  # a list's draw is its own, whoever else is in the batch


@pytest.mark.parametrize("source", ["uniform", "popularity", "category", "in_batch"])
def test_each_comes_as_often_as_its_source_says(catalogue, source):
    """One negative a list, so that draws without repeats are draws; a target that is never drawn takes its share."""
    n, target = 20_000, 3
    batch = np.repeat([0, 1, 2, 5, target], [1, 2, 3, 4, 6])
    siblings = siblings_of(catalogue, 1, source)
    keys = list_keys(np.repeat(keys_of(1), n), np.arange(n), np.zeros(n, dtype=np.int64))
    got = siblings.draw(np.full(n, target), Ragged.empty(n), keys, batch)[:, 0]
    items = np.bincount(catalogue.code_of)
    expected = {
        "uniform": items.astype(float),
        "popularity": np.bincount(catalogue.code_of, weights=EVENTS) + items,
        "category": (np.arange(12) % 3 == target % 3).astype(float),
        "in_batch": np.bincount(batch, minlength=12).astype(float),
    }[source]
    if siblings.log_q is not None:
        popular = np.bincount(catalogue.code_of, weights=EVENTS) + items
        np.testing.assert_allclose(np.exp(siblings.log_q), popular / popular.sum(), rtol=1e-5)
    expected[target] = 0
    shares = expected / expected.sum()
    error = 5 * np.sqrt(shares * (1 - shares) / n) + 1e-9
    assert (np.abs(np.bincount(got, minlength=12) / n - shares) <= error).all()
    assert (siblings.log_q is not None) == (source in ("popularity", "in_batch"))


def test_epochs_and_positions_are_drawn_apart(catalogue):
    siblings, keys = siblings_of(catalogue, 4, "uniform"), keys_of(1)
    drawn = {
        tuple(siblings.draw(np.array([0]), Ragged.empty(1), list_keys(keys, np.array([e]), np.array([p])), None)[0])
        for e in range(5)
        for p in range(5)
    }
    assert len(drawn) == 25


def missing(draws, n_titles):
    """Titles that no draw had, for each user, of [users, draws, count]."""
    return [{*range(n_titles)} - {*np.unique(user).tolist()} for user in draws]


def test_a_title_that_never_comes_would_tell_of_what_is_held_out(catalogue):
    """Of 300 lists with 2 of 10 free titles, one that is never drawn has been left out: only what was trained on is.

    Then the leak is planted: the item validation asks for is left out too. It shows at once.
    """
    trained, held_out, n = [[0, 1], [2, 3], [4, 5]], [7, 8, 9], 300
    siblings = siblings_of(catalogue, 2, "uniform")

    def draws(left_out):
        seen = Ragged.from_lists([row for row in left_out for _ in range(n)])
        keys = list_keys(np.repeat(keys_of(3), n), np.tile(np.arange(n), 3), np.zeros(3 * n, dtype=np.int64))
        targets = np.repeat([row[-1] for row in trained], n)
        return siblings.draw(targets, seen, keys, None).reshape(3, -1)

    assert missing(draws(trained), 12) == [{*row} for row in trained]
    leaking = draws([[*row, item] for row, item in zip(trained, held_out, strict=True)])
    assert [found - {*row} for found, row in zip(missing(leaking, 12), trained, strict=True)] == [{7}, {8}, {9}]


@pytest.mark.parametrize(
    ("count", "source", "categories", "said"),
    [
        (0, "uniform", CATEGORIES, "`negatives` is 0; give at least 1"),
        (11, "uniform", CATEGORIES, "`negatives` is 11 and domain 'D' has 12 different titles; give at most 10"),
        (2, "hard", CATEGORIES, "`negative_source` is 'hard'; choose one of uniform, popularity"),
        (2, "category", None, "no item of 'D' has one in this corpus"),
        (2, "category", pa.nulls(14, pa.string()), "no item of 'D' has one in this corpus"),
    ],
)
def test_bad_input(catalogue, count, source, categories, said):
    with pytest.raises(InputError, match=said):
        Siblings(catalogue, count, source, EVENTS, categories)
    assert Siblings(catalogue, 10, "uniform", EVENTS, None).count == 10
