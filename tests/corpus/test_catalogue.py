"""The catalogue's titles and documents against the template and the encoder, item by item."""

from typing import Any

import polars as pl

from cprec_hf.corpus.catalogue import make_catalogue, read_items, tokenizer_texts
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import load_template

TEMPLATE = load_template("1")
LONG = "red chair for the garden and the "
ITEMS = pl.LazyFrame(
    {
        "item_id": ["b", "a", "a", "c"],
        "domain": ["Toys", "Toys", "Books", "Toys"],
        "title": [LONG + "kitchen", "mug", "Dune {{ x }}", LONG + "desk"],
        "description": ["two\nlines &amp; more", None, "", " \t"],
        "brand": ["x", "y", None, "z"],
    }
)  # fmt: skip


def test_items_are_sorted_and_descriptions_cleaned() -> None:
    rows = read_items(ITEMS).rows()
    assert [row[:2] for row in rows] == [("a", "Books"), ("a", "Toys"), ("b", "Toys"), ("c", "Toys")]
    assert [row[3] for row in rows] == [None, None, "two lines & more", None]
    assert read_items(ITEMS.drop("description"))["description"].null_count() == 4


def test_titles_are_cut_once_and_documents_use_the_cut_title(any_tokenizer: Any) -> None:
    encoder, items = Encoder(any_tokenizer), read_items(ITEMS)
    long = encoder.segments(["red chair for the garden and\n"]).lengths[0]
    catalogue = make_catalogue(items, encoder, TEMPLATE, max_title_tokens=int(max(long, 12)))
    rows = catalogue.items.to_dicts()
    for row, item in zip(rows, items.to_dicts(), strict=True):
        assert row["full_title"] == item["title"] and item["title"].startswith(row["title"])
        assert row["text"] == TEMPLATE.item_document(row["domain"], row["title"], item["description"])
        assert row["tokens"] == len(encoder.segments([row["title"] + "\n"]).row(0)) <= max(long, 12)
    assert catalogue.widest == max(row["tokens"] for row in rows)
    assert catalogue.cut == sum(row["title"] != row["full_title"] for row in rows)
    assert catalogue.of("Toys")["item_id"].to_list() == ["a", "b", "c"]  # also where two titles became one


def test_a_tokenizer_is_trained_on_all_documents_and_every_header() -> None:
    texts = list(tokenizer_texts(read_items(ITEMS), TEMPLATE))
    for item in read_items(ITEMS).to_dicts():
        assert texts.count(TEMPLATE.item_document(item["domain"], item["title"], item["description"])) == 1
    for domain in (None, "Books", "Toys"):
        assert any(text.endswith(TEMPLATE.header(domain)) for text in texts)
