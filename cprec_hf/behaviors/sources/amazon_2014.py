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

from cprec_hf.behaviors.sources.categories import AmazonConfig, CategoryLayout
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
class Amazon2014Config(AmazonConfig):
    """The keys of a source of kind `amazon_2014`."""

    layout = LAYOUT
    citation = CITATION
    name: str = "Amazon review data (2014)"
    """What the source calls itself."""
