"""The catalogue of a corpus: every item with the one title that everything after uses, and its document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import pyarrow as pa

from cprec_hf.behaviors.titles import clean_title
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import DELIMITER, Template
from cprec_hf.corpus.titles import cut_titles
from cprec_hf.errors import InputError

ATTRIBUTES = ("category", "description")
"""Columns of items that item documents tell beside the title, where a source has them."""
ITEM_COLUMNS = ["item_id", "domain", "title", "full_title", "text"]
DOCUMENTS_PER_HEADER = 20
"""A tokenizer is trained on one header per so many item documents, so that headers get short too. Our choice."""


@dataclass(frozen=True)
class Catalogue:
    """All items, sorted by (domain, item_id), and what cutting their titles did.

    Attributes:
        items: `ITEM_COLUMNS` and `tokens`, the tokens of title + delimiter; with `with_facts` also `train_events`, and
            `category` (null where it was not asked for).
        cut: titles that were cut.
        collisions: distinct titles that became one by it. Their items are kept: an item is its id.
    """

    items: pl.DataFrame
    cut: int
    collisions: int

    @property
    def widest(self) -> int:
        """Tokens of the longest item line."""
        return int(self.items.select(pl.col("tokens").max()).item())

    def of(self, domain: str) -> pl.DataFrame:
        """The items of one domain, sorted by item_id."""
        return self.items.filter(pl.col("domain") == domain)

    def with_facts(self, train_events: np.ndarray, categories: pl.Series | None) -> Catalogue:
        """With the training events of each item (int [items]) and its category, null where unknown or not given."""
        facts = {"train_events": pl.Series(train_events, dtype=pl.Int64)}
        facts["category"] = (
            pl.repeat(None, len(self.items), dtype=pl.String, eager=True) if categories is None else categories
        )
        return replace(self, items=self.items.with_columns(**facts))

    def to_arrow(self) -> pa.Table:
        """The rows of config `items`: `ITEM_COLUMNS`, `train_events`, and `category` if any item has one."""
        fields = [pa.field(name, pa.string()) for name in ITEM_COLUMNS] + [pa.field("train_events", pa.int64())]
        if self.items["category"].null_count() < len(self.items):
            fields.append(pa.field("category", pa.string()))
        schema = pa.schema(fields)
        return self.items.select(schema.names).to_arrow().cast(schema)


def read_items(items: pl.LazyFrame) -> pl.DataFrame:
    """item_id, domain, title, and `ATTRIBUTES`, cleaned, null where there is none; sorted by (domain, item_id).

    Raises:
        InputError: an attribute that is no text.
    """
    schema, attributes = items.collect_schema(), []
    for name in ATTRIBUTES:
        if schema.get(name, pl.Null) not in (pl.String, pl.Null):
            raise InputError(f"column `{name}` of items is {schema[name]}, not text; join it to one string an item")
        cleaned = clean_title(pl.col(name).cast(pl.String) if name in schema else pl.lit(None, pl.String))
        attributes.append(pl.when(cleaned != "").then(cleaned).alias(name))
    frame = items.select("item_id", "domain", "title", *attributes)
    return frame.sort("domain", "item_id").collect(engine="streaming")


def make_catalogue(items: pl.DataFrame, encoder: Encoder, template: Template, max_title_tokens: int) -> Catalogue:
    """Cut the titles of `read_items` to `max_title_tokens` and write each item's document.

    Raises:
        InputError: a title that cannot be cut so short.
    """
    titles, n_cut, collisions = cut_titles(items["title"].to_list(), encoder, max_title_tokens)
    frame = items.with_columns(title=pl.Series(titles, dtype=pl.String), full_title="title")
    tokens = encoder.segments((frame["title"] + DELIMITER).to_arrow()).lengths
    frame = frame.with_columns(text=_documents(frame, template), tokens=pl.Series(tokens, dtype=pl.Int32))
    return Catalogue(frame.select(*ITEM_COLUMNS, "tokens"), n_cut, collisions)


def tokenizer_texts(items: pl.DataFrame, template: Template) -> Iterator[str]:
    """What a tokenizer of this corpus is trained on: all item documents, and headers now and then."""
    yield from items.select(_documents(items, template)).to_series()
    for domain, n in items.group_by("domain").len().sort("domain").iter_rows():
        yield from [template.prompt(domain, [], [])] * (1 + n // DOCUMENTS_PER_HEADER)
        yield from [template.header(None)] * (1 + n // DOCUMENTS_PER_HEADER)


def _documents(items: pl.DataFrame, template: Template) -> pl.Expr:
    """`template.item_document` as an expression: its first line per domain, the title, then what attributes say."""
    domains = items["domain"].unique().to_list()
    openings = [template.item_document(domain, "").removesuffix(DELIMITER) for domain in domains]
    opening = pl.col("domain").replace_strict(domains, openings, return_dtype=pl.String)
    document = opening + pl.col("title") + DELIMITER
    label = template.category("").removesuffix(DELIMITER)
    for name, before in (("category", label), ("description", "")):
        document += pl.when(pl.col(name).is_not_null()).then(before + pl.col(name) + DELIMITER).otherwise(pl.lit(""))
    return document
