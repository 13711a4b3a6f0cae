"""Amazon Reviews 2023 (https://amazon-reviews-2023.github.io): a file of reviews and one of items for each category.

    source:
      kind: amazon_2023
      reviews: ${CPREC_AMAZON_2023}/{category}.jsonl.gz       # or the ratings: .../{category}.*.csv.gz
      items: ${CPREC_AMAZON_2023}/meta_{category}.jsonl.gz
      categories: {Industrial_and_Scientific: Scientific, Musical_Instruments: Instruments}

The published 0-core and 5-core CSVs, whole or as the parts of one of their splits (timestamp, last out), are read as
well: a corpus splits for itself and wants every event once, so the pattern takes all parts of a category. An item is
what Amazon calls its parent (`parent_asin`), as in those CSVs; times are milliseconds. On the Hub:
`hf://datasets/McAuley-Lab/Amazon-Reviews-2023/raw/review_categories/{category}.jsonl`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from cprec_hf.behaviors.sources.categories import AmazonConfig, CategoryLayout
from cprec_hf.behaviors.sources.json_text import first_text, joined

CITATION = "Hou, Li, He, Yan, Chen, McAuley: Bridging language and items for retrieval and recommendation, 2024"
LAYOUT = CategoryLayout(
    events={"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"},
    items={"item_id": "parent_asin", "title": "title"},
    attributes={
        "category": pl.coalesce(joined("categories", " > "), first_text("main_category")),
        "description": joined("description", " "),
        "brand": first_text("store"),
    },
    raw=("categories", "main_category", "description", "store"),
    unit="ms",
)


@dataclass(frozen=True)
class Amazon2023Config(AmazonConfig):
    """The keys of a source of kind `amazon_2023`."""

    layout = LAYOUT
    citation = CITATION
    name: str = "Amazon Reviews 2023"
    """What the source calls itself."""
