"""Training events are known once and in order, whatever rows they stand in; windows hold every step once."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.examples import CATALOGUE, EVENTS, ExamplePlan, sft_examples
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.evaluation.rows import Catalogue
from cprec_hf.evaluation.sequential.sequences import Vocabulary, training_sequences, windows

N_ITEMS = 12
IDS = [f"i{i:02}" for i in range(N_ITEMS)]
ITEMS = Catalogue(pa.array(IDS), pa.array([f"title {i}" for i in range(N_ITEMS)]))


def split_of(histories: list[list[int]], targets: str, history_length: int) -> dict[str, pa.Table]:
    """The rows that a corpus has of these users, their last event held out; times come in pairs of equal ones."""
    columns = [IDS, ITEMS.titles.to_pylist(), [2] * N_ITEMS, [1] * N_ITEMS, [None] * N_ITEMS]
    catalogue = pa.table(dict(zip(CATALOGUE.names, columns, strict=True)), schema=CATALOGUE)
    plan = ExamplePlan(
        "1", "test", "Books", catalogue, 60, 5, 3, history_length, targets, None, False, np.zeros(0, np.uint64)
    )
    events = [
        {"user_id": f"u{u}", "item": item, "timestamp": place, "cpt_events": 0,
         "split": "train" if place < len(items) - 1 else "test"}
        for u, items in enumerate(histories)
        for place, item in enumerate(items)
    ]  # fmt: skip
    return sft_examples(pa.Table.from_pylist(events, schema=EVENTS), plan)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, N_ITEMS - 1), min_size=3, max_size=20), min_size=1, max_size=5),
    st.sampled_from(["every", "window"]),
    st.integers(2, 6),
    st.randoms(use_true_random=False),
)
def test_every_training_event_is_known_once(
    histories: list[list[int]], targets: str, history_length: int, random: object
) -> None:
    train = split_of(histories, targets, history_length)["train"]
    order = sorted(range(len(train)), key=lambda _: random.random())  # type: ignore[attr-defined]
    found = training_sequences(train.take(order), ITEMS, "toy", every=targets == "every")
    users = list(dict.fromkeys(train.take(order)["user_id"].to_pylist()))
    assert len(found) == len(users)
    for row, user in enumerate(users):
        expected = histories[int(user[1:])][:-1]
        if targets == "window" and len(expected) % (history_length + 1) == 1:
            expected = expected[:-1]  # alone in its window, so in no row
        assert found.row(row).tolist() == expected


def test_an_item_the_corpus_lacks_is_named() -> None:
    train = split_of([[1, 2, 3]], "window", 5)["train"]
    few = Catalogue(pa.array(IDS[:2]), pa.array(["a", "b"]))
    with pytest.raises(InputError, match=r"toy: item 'i02' is not in the corpus' items"):
        training_sequences(train, few, "toy", every=False)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(2, 9), st.integers(0, 99))
def test_windows_hold_every_step_once(lengths: list[int], width: int, seed: int) -> None:
    rows = [np.arange(100 * i, 100 * i + n) for i, n in enumerate(lengths)]
    cut = windows(Ragged.from_lists([row.tolist() for row in rows]), width, np.random.default_rng(seed))
    steps = [step for i in range(len(cut)) for step in itertools.pairwise(cut.row(i))]
    assert steps == [step for row in rows for step in itertools.pairwise(row)]
    assert cut.lengths.min() >= 2 and cut.lengths.max() <= width
    assert len(cut) == len(lengths) or max(lengths) > width


def test_long_sequences_are_cut_elsewhere_each_time() -> None:
    rng = np.random.default_rng(0)
    long = Ragged.from_lists([list(range(40))])
    assert len({tuple(windows(long, 10, rng).lengths) for _ in range(20)}) > 5


def test_items_without_training_share_a_row() -> None:
    vocabulary = Vocabulary.seen(Ragged.from_lists([[3, 1], [3, 5]]), 7)
    assert vocabulary.rows.tolist() == [3, 0, 3, 1, 3, 2, 3] and vocabulary.size == 4
    assert vocabulary.of(Ragged.from_lists([[5, 6], [1]])).values.tolist() == [2, 3, 0]
    assert Vocabulary.whole(3).rows.tolist() == [0, 1, 2]
