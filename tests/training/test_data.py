import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.data import check_model, check_rows, cpt_rows, item_rows, mix_in, sft_rows
from cprec_hf.training.kernels import IGNORED


@pytest.fixture(params=["byte_level_tokenizer", "llama3_style_tokenizer"])
def encoder(request):
    return Encoder(request.getfixturevalue(request.param))


def test_documents_decode_to_their_texts(corpus, encoder):
    start = encoder.decode(encoder.start)
    for rows, config in (
        (cpt_rows(str(corpus), None, encoder), "cpt"),
        (item_rows(str(corpus), None, encoder), "items"),
    ):
        texts = pq.read_table(corpus / config / "train.parquet")["text"].to_pylist()
        assert [encoder.decode(row["input_ids"]) for row in rows] == [start + text for text in texts]
        assert rows["labels"][:] == rows["input_ids"][:]


def test_kinds(corpus, encoder):
    kinds = pq.read_table(corpus / "cpt" / "train.parquet")["kind"].to_pylist()
    whole, mixed = (cpt_rows(str(corpus), None, encoder, kinds=k) for k in (None, ["all_domain"]))
    expected = [row["input_ids"] for row, kind in zip(whole, kinds, strict=True) if kind == "all_domain"]
    assert [row["input_ids"] for row in mixed] == expected
    with pytest.raises(InputError, match="`kinds` names 'domains'; its train documents are of domain, all_domain"):
        cpt_rows(str(corpus), None, encoder, kinds=["domains"])


def rows_of(lengths, first):
    """Rows of those lengths, whose ids are all one number that no other row has."""
    ids = [[first + i] * length for i, length in enumerate(lengths)]
    return datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(lengths, lengths, st.floats(0, 0.9), st.integers(0, 5))
def test_item_documents_are_mixed_in(behaviour, items, share, seed):
    rows, documents = rows_of(behaviour, 0), rows_of(items, 1000)
    mixed = mix_in(rows, documents, share, seed)
    assert mixed["input_ids"][: len(rows)] == rows["input_ids"][:]
    assert mixed["labels"][:] == mixed["input_ids"][:]
    chosen = [row[0] - 1000 for row in mixed["input_ids"][len(rows) :]]
    assert mixed["input_ids"][len(rows) :] == [documents[i]["input_ids"] for i in chosen]
    n = len(items)
    passes = [chosen[at : at + n] for at in range(0, len(chosen), n)]
    assert all(sorted(one) == list(range(n)) for one in passes[:-1])
    assert all(len(set(one)) == len(one) for one in passes[-1:])  # the last may stop half-way
    tokens = sum(items[i] for i in chosen)
    within = [share - (tokens + more) / (sum(behaviour) + tokens + more) for more in (0, max(items))]
    assert within[0] >= -1e-9 and within[1] < 1e-9  # one document more would be too many
    again = mix_in(rows, documents, share, seed)
    assert again["input_ids"][:] == mixed["input_ids"][:]


def test_the_seed_draws_the_order_of_item_documents_and_passes_differ():
    rows, documents = rows_of([100], 0), rows_of([1] * 40, 1000)
    drawn = {seed: mix_in(rows, documents, 0.5, seed)["input_ids"][1:] for seed in (0, 1)}
    assert [len(one) for one in drawn.values()] == [100, 100]
    assert drawn[0] != drawn[1]
    assert drawn[0][:40] != drawn[0][40:80]
    assert not np.all(np.diff(np.ravel(drawn[0][:40])) > 0)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_out_of_range(share):
    with pytest.raises(InputError, match=f"`item_share` is {share}; give 0 or more and less than 1"):
        mix_in(rows_of([3], 0), rows_of([3], 1), share, 0)


@pytest.mark.parametrize("completion_only", [False, True])
def test_prompts_and_completions(corpus, encoder, completion_only):
    table = pq.read_table(corpus / "sft-tools" / "validation.parquet").to_pylist()
    rows = sft_rows(str(corpus), None, encoder, "sft-tools", "validation", completion_only=completion_only)
    assert len(rows) == len(table)
    for row, expected in zip(rows, table, strict=True):
        prompt = [*encoder.start, *encoder.documents([expected["prompt"]], start=False).row(0)]
        completion = encoder.segments([expected["completion"]]).row(0).tolist()
        assert row["input_ids"] == [*prompt, *completion]
        assert row["labels"] == [*([IGNORED] * len(prompt) if completion_only else prompt), *completion]


def test_a_split_that_is_not_there(corpus, encoder):
    with pytest.raises(InputError, match="config items has no validation split; it has train"):
        from cprec_hf.training.data import corpus_table

        corpus_table(str(corpus), None, "items", "validation", ["text"])


def test_rows_that_would_be_cut(corpus):
    rows = datasets.Dataset.from_dict(
        {"input_ids": [[1] * 9, [1] * 20, [1] * 30], "labels": [[1] * 9, [1] * 20, [1] * 30]}
    )
    assert check_rows(rows, 30, True, split_long=False, where="here") == 0
    assert check_rows(rows, 10, True, split_long=True, where="here") == 2
    for packing, split_long in ((True, False), (False, True)):
        with pytest.raises(InputError, match=r"here: 2 of 3 rows are longer than `max_length` 10 .*longest has 30"):
            check_rows(rows, 10, packing, split_long=split_long, where="here")
    with pytest.raises(InputError, match="no rows"):
        check_rows(rows.select([]), 10, True, split_long=True, where="here")


def test_models_too_small(make_tiny_model, byte_level_tokenizer):
    rows = datasets.Dataset.from_dict({"input_ids": [[1, 399]], "labels": [[1, 399]]})
    model = make_tiny_model("gpt_neo", byte_level_tokenizer)
    check_model(model, rows, 256)
    with pytest.raises(InputError, match="reads 256 tokens at most, and `max_length` is 257"):
        check_model(model, rows, 257)
    with pytest.raises(InputError, match="has 300 embeddings, and its tokenizer gives id 399"):
        check_model(make_tiny_model("qwen3", byte_level_tokenizer, vocab_size=300), rows, 256)
