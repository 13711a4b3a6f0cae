import datasets
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.data import check_model, check_rows, cpt_rows, item_rows, sft_rows
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
