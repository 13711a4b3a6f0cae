"""Rows of the corpus as trunks: what they read, where their targets stand, and which are left out."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.training.listwise_rows import COLUMNS, item_events, refuse_empty_titles, trunks_of

OPTIONS = {"length": 160, "positions": "every", "min_history": 1, "negatives": 3}


@pytest.fixture(scope="module")
def catalogue(corpus, byte_level_tokenizer):
    items = pq.read_table(corpus / "items" / "train.parquet")
    return Catalogue(items, "Tools", Encoder(byte_level_tokenizer), load_template("1"))


def rows_of(lists, users=None):
    """Histories with their target last, of items by number."""
    users = users or [f"u{i}" for i in range(len(lists))]
    rows = [
        {"user_id": user, "history": [f"Tools-{i}" for i in row[:-1]], "target": f"Tools-{row[-1]}"}
        for user, row in zip(users, lists, strict=True)
    ]
    types = [("user_id", pa.string()), ("history", pa.list_(pa.string())), ("target", pa.string())]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


@pytest.mark.parametrize("positions", ["every", "last"])
@pytest.mark.parametrize("min_history", [0, 1, 2])
def test_trunks_read_as_prompts_with_their_completions(corpus, catalogue, positions, min_history):
    table = pq.read_table(corpus / "sft-tools" / "train.parquet")
    trunks = trunks_of(
        table.select(COLUMNS), catalogue, "k", **OPTIONS | {"positions": positions, "min_history": min_history}
    )
    encoder, template = Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer")), load_template("1")
    titles = dict(zip(catalogue.ids.to_pylist(), catalogue.names.to_pylist(), strict=True))
    rows = [row for row in table.to_pylist() if len(row["history"]) + 1 > min_history]
    assert len(trunks) == len(rows) and sum(trunks.skipped.values()) == len(table) - len(rows)
    for i, row in enumerate(rows):
        items = [*row["history"], row["target"]]
        whole = row["prompt"] + row["completion"]
        assert trunks.ids.row(i).tolist() == encoder.documents([whole]).row(0).tolist()
        at = [len(items) - 1] if positions == "last" else [*range(min_history, len(items))]
        lists = trunks.lists.row(i)
        assert trunks.place[lists].tolist() == at
        for number, place in zip(lists, at, strict=True):
            names = [titles[item] for item in items]
            before = encoder.documents([template.prompt("Tools", names[:place])]).row(0)
            assert trunks.begin[number] == len(before)
            line = catalogue.codes.row(trunks.target[number]).tolist()
            assert line == encoder.segments([names[place] + "\n"]).row(0).tolist()
            assert trunks.ids.row(i)[len(before) : len(before) + len(line)].tolist() == line


def test_seen_is_all_that_the_user_has_in_any_row(catalogue):
    table = rows_of([[0, 1, 2], [5, 6], [3, 4], [2, 7]], ["ann", "bob", "ann", "ann"])
    trunks = trunks_of(table, catalogue, "k", **OPTIONS)
    code = catalogue.code_of
    ann, bob = (sorted(code[items]) for items in ([0, 1, 2, 3, 4, 7], [5, 6]))
    assert [sorted(trunks.seen.row(i)) for i in range(4)] == [ann, bob, ann, ann]
    assert len({*trunks.keys.tolist()}) == 4  # a stream for each row, also of one user
    assert trunks.largest_tree(10) == max(len(trunks.ids.row(i)) + 10 * len(trunks.lists.row(i)) for i in range(4))


def test_room_is_made_for_the_longest_title_in_place_of_the_last(catalogue):
    table = rows_of([[*range(8)]])
    whole = trunks_of(table, catalogue, "k", **OPTIONS)
    longest = int(catalogue.codes.lengths.max())
    for length in range(45, len(whole.ids.row(0)) + longest, 7):
        cut = trunks_of(table, catalogue, "k", **OPTIONS | {"length": length, "min_history": 0})
        last = cut.begin.max()
        assert last + longest <= length
        ids = cut.ids.row(0).tolist()
        header = whole.begin[0] - len(catalogue.codes.row(catalogue.code_of[0]))  # before the first item
        kept = len(ids) - header
        assert ids[header:] == whole.ids.row(0)[len(whole.ids.row(0)) - kept :].tolist()
    with pytest.raises(InputError, match="to train on: 1 histories of 1 items or fewer"):  # what is left of it
        trunks_of(table, catalogue, "k", **OPTIONS | {"length": 45})
    with pytest.raises(InputError, match="more than the 20"):
        trunks_of(table, catalogue, "k", **OPTIONS | {"length": 20})


@given(st.lists(st.integers(2, 13), min_size=1, max_size=4), st.integers(1, 5))
def test_of_overlapping_rows_each_event_is_a_target_once(catalogue, lengths, most):
    """As a corpus with `train_targets: every` has them: a row for each event from the second on."""
    users = [f"u{u}" for u, n in enumerate(lengths) for _ in range(n - 1)]
    lists = [[*range(max(0, t - most), t + 1)] for n in lengths for t in range(1, n)]
    trunks = trunks_of(rows_of(lists, users), catalogue, "k", **OPTIONS | {"min_history": 0}, every=True)
    events = [sorted(row[-1] for u, row in zip(users, lists, strict=True) if u == f"u{i}") for i in range(len(lengths))]
    titles = [trunks.titles.row(i).tolist() for i in range(len(trunks))]
    assert sum(map(len, titles)) >= sum(map(len, events))
    assert sum(map(len, titles)) <= sum(lengths)
    covered = np.bincount(np.concatenate(titles), minlength=20)
    expected = np.zeros(20, dtype=int)
    for n in lengths:
        full = [*range(n)]
        alone = n % (most + 1) == 1  # the first event, if nothing is left to stand with it
        expected[catalogue.code_of[full[1:] if alone else full]] += 1
    assert covered.tolist() == expected.tolist()
    assert item_events(rows_of(lists, users), catalogue, every=True).sum() == sum(n - 1 for n in lengths)


def test_events_of_items_are_counted_where_rows_do_not_overlap(catalogue):
    found = item_events(rows_of([[0, 1, 2], [2, 3]]), catalogue, every=False)
    assert found[:5].tolist() == [1, 1, 2, 1, 0] and found.sum() == 5


def test_what_is_skipped_is_counted_and_nothing_left_is_an_error(catalogue):
    everything = [*range(18)]  # leaves two of twenty titles
    trunks = trunks_of(rows_of([[0], [1, 2], everything, [4]]), catalogue, "k", **OPTIONS)
    assert len(trunks) == 1
    assert trunks.skipped == {"histories of 1 items or fewer": 2, "users who leave fewer than 3 titles": 1}
    with pytest.raises(
        InputError, match="no rows of 'Tools' to train on: 1 histories of 1 items or fewer; 1 users who"
    ):
        trunks_of(rows_of([[0], everything]), catalogue, "k", **OPTIONS)
    for bad, said in (({"positions": "some"}, "`positions` is 'some'"), ({"min_history": -1}, "`min_history` is -1")):
        with pytest.raises(InputError, match=said):
            trunks_of(rows_of([[0, 1]]), catalogue, "k", **OPTIONS | bad)


def test_an_item_without_a_title_is_refused():
    items = pa.table({"item_id": ["a", "b", "c"], "domain": ["D", "D", "E"], "title": ["red", " ", ""]})
    with pytest.raises(InputError, match="item 'b' of 'D' has no title after the cut"):
        refuse_empty_titles(items, "D")
    refuse_empty_titles(items.slice(0, 1), "D")
