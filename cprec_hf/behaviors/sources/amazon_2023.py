"""Amazon Reviews 2023 (https://amazon-reviews-2023.github.io): a file of reviews and one of items for each category.

    source:
      kind: amazon_2023
      reviews: ${CPREC_AMAZON_2023}/{category}.jsonl.gz       # or the 5-core: .../{category}.*.csv.gz
      items: ${CPREC_AMAZON_2023}/meta_{category}.jsonl.gz
      categories: {Industrial_and_Scientific: Scientific, Musical_Instruments: Instruments}

The published 0-core and 5-core CSVs, whole or as the parts of one of their splits (timestamp, last out), are read as
well: a corpus splits for itself and wants every event once, so a pattern takes all the parts of one category. An item
is what Amazon calls its parent (`parent_asin`), as in those CSVs; times are milliseconds. On the Hub:
`hf://datasets/McAuley-Lab/Amazon-Reviews-2023/raw/review_categories/{category}.jsonl`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.categories import CategoryFiles
from cprec_hf.behaviors.sources.files import Table
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.json_text import first_text, joined

CITATION = "Hou, Li, He, Yan, Chen, McAuley: Bridging language and items for retrieval and recommendation, 2024"


@dataclass(frozen=True)
class Amazon2023Config:
    """The keys of a source of kind `amazon_2023`."""

    reviews: str
    """Reviews (.jsonl, .jsonl.gz) or ratings (.csv, .csv.gz), `{category}` in the place of its name; may be a glob, an
    hf:// path, and hold `${VARIABLE}`."""
    items: str
    """Metadata (`meta_{category}.jsonl.gz`), likewise."""
    categories: list[str] | dict[str, str]
    """Categories by their names in the files' names; a mapping also says what to call each one as a domain."""
    name: str = "Amazon Reviews 2023"
    """What the source is called."""
    licence: str = "research use, redistribution not stated"
    """Its licence, in words or as an SPDX identifier."""
    redistributable: bool = False
    """Whether texts made from this source may be published."""

    def read(self, where: str) -> Behaviors:
        """Read all categories; users are shared across them. `where` names the recipe in error messages.

        Items keep title, category, description and brand (the store).

        Raises:
            InputError: a missing file or column, an unreadable file, and what `intake.take_in` finds.
        """
        reviews = CategoryFiles.find(self.reviews, self.categories, where)
        items = CategoryFiles.find(self.items, self.categories, where)
        columns = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
        attributes = {
            "category": pl.coalesce(joined("categories", " > "), first_text("main_category")),
            "description": joined("description", " "),
            "brand": first_text("store"),
        }
        return take_in(
            Table(reviews.paths, columns, domains=reviews.domains).require(where),
            Table(
                items.paths, {"item_id": "parent_asin", "title": "title"}, derived=attributes, domains=items.domains,
                raw=("categories", "main_category", "description", "store"), attributes=False,
            ).require(where),
            About(self.name, self.licence, CITATION, "time", self.redistributable),
            unit="ms",
        )  # fmt: skip
