"""Amazon review data, 2014 edition (https://jmcauley.ucsd.edu/data/amazon): reviews and items for each category.

    source:
      kind: amazon_2014
      reviews: ${CPREC_AMAZON_2014}/reviews_{category}_5.json.gz  # the 5-core; or reviews_{category}.json.gz
      items: ${CPREC_AMAZON_2014}/meta_{category}.json.gz
      categories: {Beauty: Beauty, Sports_and_Outdoors: Sports, Toys_and_Games: Toys}

Its metadata are lines of Python dicts, not JSON: they are turned into JSON as they are read, and never run
(`literal_lines`). The strict JSON edition is read as well. Many of its items have no title; they are refused and
counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.categories import CategoryLayout
from cprec_hf.behaviors.sources.json_text import first_text, joined

CITATION = "McAuley, Targett, Shi, van den Hengel: Image-based recommendations on styles and substitutes, 2015"
LAYOUT = CategoryLayout(
    events={"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"},
    items={"item_id": "asin", "title": "title"},
    attributes={
        "category": joined("categories", " > "),  # the first of its paths
        "description": joined("description", " "),
        "brand": first_text("brand"),
    },
    raw=("categories", "description", "brand"),
)


@dataclass(frozen=True)
class Amazon2014Config:
    """The keys of a source of kind `amazon_2014`."""

    reviews: str
    """Reviews (`reviews_{category}_5.json.gz`), `{category}` where its name stands; may be a glob or an
    hf:// path, and hold `${VARIABLE}`."""
    items: str
    """The items' metadata, likewise (`meta_{category}.json.gz`)."""
    categories: list[str] | dict[str, str]
    """Categories by their names in the files' names; a mapping also says what to call each one as a domain."""
    name: str = "Amazon review data (2014)"
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
