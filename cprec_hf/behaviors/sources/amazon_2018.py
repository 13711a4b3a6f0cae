"""Amazon review data, 2018 edition (https://nijianmo.github.io/amazon): reviews and items for each category.

    source:
      kind: amazon_2018
      reviews: ${CPREC_AMAZON_2018}/{category}_5.json.gz      # the 5-core; or all reviews, {category}.json.gz
      items: ${CPREC_AMAZON_2018}/meta_{category}.json.gz
      categories: [Arts_Crafts_and_Sewing, Office_Products]

Some of its titles are pieces of the web page they were taken from (scripts that ask for `getTime`, tags): such an item
has no title, and is refused and counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from cprec_hf.behaviors.sources.categories import AmazonConfig, CategoryLayout
from cprec_hf.behaviors.sources.json_text import first_text, joined

CITATION = "Ni, Li, McAuley: Justifying recommendations using distantly-labeled reviews and fine-grained aspects, 2019"
PAGE = r"getTime|aPageStart|(?i)<(?:span|div|script|style|img|a|input|table)\b"
LAYOUT = CategoryLayout(
    events={"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
    items={"item_id": "asin", "title": "title"},
    attributes={
        "title": pl.when(~pl.col("title").str.contains(PAGE)).then("title"),
        "category": pl.coalesce(joined("category", " > "), first_text("main_cat")),
        "description": joined("description", " "),
        "brand": first_text("brand"),
    },
    raw=("category", "main_cat", "description", "brand"),
)


@dataclass(frozen=True)
class Amazon2018Config(AmazonConfig):
    """The keys of a source of kind `amazon_2018`."""

    layout = LAYOUT
    citation = CITATION
    name: str = "Amazon review data (2018)"
    """What the source calls itself."""
