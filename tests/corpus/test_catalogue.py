"""The catalogue's titles and documents against the template and the encoder, item by item."""

from typing import Any

import polars as pl
import pytest

from cprec_hf.corpus.catalogue import make_catalogue, read_items, tokenizer_texts
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError

TEMPLATE = load_template("1")
LONG = "red chair for the garden and the "
ITEMS = pl.LazyFrame(
    {
        "item_id": ["b", "a", "a", "c"],
        "domain": ["Toys", "Toys", "Books", "Toys"],
        "title": [LONG + "kitchen", "mug", "Dune {{ x }}", LONG + "desk"],
        "description": ["two\nlines &amp; more", None, "", " \t"],
        "category": ["Seats > Garden", None, "\u200b", "Seats\t&lt;Desk&gt;"],
        "brand": ["x", "y", None, "z"],
    }
)  # fmt: skip


def test_items_are_sorted_and_attributes_cleaned() -> None:
    rows = read_items(ITEMS).rows()
    assert [row[:2] for row in rows] == [("a", "Books"), ("a", "Toys"), ("b", "Toys"), ("c", "Toys")]
    assert [row[4] for row in rows] == [None, None, "two lines & more", None]
    assert [row[3] for row in rows] == [None, None, "Seats > Garden", "Seats <Desk>"]
    for name in ("category", "description"):
        assert read_items(ITEMS.drop(name))[name].null_count() == 4
        assert read_items(ITEMS.with_columns(pl.lit(None).alias(name)))[name].null_count() == 4
        assert read_items(ITEMS.drop(name)).columns == ["item_id", "domain", "title", "category", "description"]


def test_documents_of_items_without_a_category_are_those_of_a_source_without_categories(any_tokenizer: Any) -> None:
    """So version 1 stays: what was written before is written still."""
    encoder = Encoder(any_tokenizer)
    with_, without = (
        make_catalogue(read_items(i), encoder, TEMPLATE, 99).items for i in (ITEMS, ITEMS.drop("category"))
    )
    told = with_["text"].str.contains("Category: ", literal=True)
    assert told.to_list() == [False, False, True, True]
    assert with_.filter(~told).equals(without.filter(~told))
    assert with_["text"].str.replace_all(r"Category: [^\n]*\n", "").equals(without["text"])


def test_an_attribute_that_is_no_text_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"column `category` of items is List\(String\), not text; join it to one string"
    ):
        read_items(ITEMS.with_columns(category=pl.concat_list("title")))


def test_titles_are_cut_once_and_documents_use_the_cut_title(any_tokenizer: Any) -> None:
    encoder, items = Encoder(any_tokenizer), read_items(ITEMS)
    long = encoder.segments(["red chair for the garden and\n"]).lengths[0]
    catalogue = make_catalogue(items, encoder, TEMPLATE, max_title_tokens=int(max(long, 12)))
    rows = catalogue.items.to_dicts()
    for row, item in zip(rows, items.to_dicts(), strict=True):
        assert row["full_title"] == item["title"] and item["title"].startswith(row["title"])
        assert row["text"] == TEMPLATE.item_document(row["domain"], row["title"], item["description"], item["category"])
        assert row["tokens"] == len(encoder.segments([row["title"] + "\n"]).row(0)) <= max(long, 12)
    assert catalogue.widest == max(row["tokens"] for row in rows)
    assert catalogue.cut == sum(row["title"] != row["full_title"] for row in rows)
    assert catalogue.of("Toys")["item_id"].to_list() == ["a", "b", "c"]  # also where two titles became one


def test_a_tokenizer_is_trained_on_all_documents_and_every_header() -> None:
    texts = list(tokenizer_texts(read_items(ITEMS), TEMPLATE))
    for item in read_items(ITEMS).to_dicts():
        document = [item[name] for name in ("domain", "title", "description", "category")]
        assert texts.count(TEMPLATE.item_document(*document)) == 1
    for domain in (None, "Books", "Toys"):
        assert any(text.endswith(TEMPLATE.header(domain)) for text in texts)
