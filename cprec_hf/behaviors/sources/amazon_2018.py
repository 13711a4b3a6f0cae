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

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.categories import CategoryLayout
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
class Amazon2018Config:
    """The keys of a source of kind `amazon_2018`."""

    reviews: str
    """Reviews (`{category}.json.gz`, `{category}_5.json.gz`), `{category}` where its name stands; may be a glob or an
    hf:// path, and hold `${VARIABLE}`."""
    items: str
    """The items' metadata, likewise (`meta_{category}.json.gz`)."""
    categories: list[str] | dict[str, str]
    """Categories by their names in the files' names; a mapping also says what to call each one as a domain."""
    name: str = "Amazon review data (2018)"
    """What the source calls itself."""
    licence: str = "research use, redistribution not stated"
    """Its licence, in words or as an SPDX identifier."""
    redistributable: bool = False
    """Whether texts made from this source may be published."""

    def read(self, where: str) -> Behaviors:
        """Read all categories, items with category, description and brand; `where` names the recipe.

        Raises:
            InputError: what `CategoryLayout.read` finds.
        """
        about = About(self.name, self.licence, CITATION, "time", self.redistributable)
        return LAYOUT.read(self.reviews, self.items, self.categories, about, where)
