"""Yelp's Open Dataset: reviews of businesses.

    source:
      kind: yelp
      folder: ${CPREC_YELP}       # yelp_academic_dataset_review.json and yelp_academic_dataset_business.json

A review is an event; its stars are the rating. A business's title is its `name`; its `categories` are `category`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.prepared import Prepared, json_rows, layout

FILES = ["yelp_academic_dataset_review.json*", "yelp_academic_dataset_business.json*"]


@dataclass(frozen=True)
class YelpConfig:
    """The keys of a source of kind `yelp`."""

    folder: str
    """The folder of the two files, packed or not; `${VARIABLE}` is expanded, hf:// paths are read."""
    domain: str = "Businesses"
    """The domain of all its rows."""

    def read(self, where: str) -> Behaviors:
        """Read the two files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing or unreadable file, and what `intake.take_in` finds.
        """
        _, (reviews, businesses) = layout(self.folder, {"Yelp Open Dataset": FILES}, where)
        domain = {"domain": self.domain}
        columns = {"user_id": "user_id", "item_id": "business_id", "timestamp": "date", "rating": "stars"}
        about = About("Yelp Open Dataset", "Yelp Dataset Terms of Use", "Yelp Inc.: Yelp Open Dataset", "time")
        return take_in(
            Prepared((reviews,), columns, domain, read=_reviews),
            Prepared((businesses,), {"item_id": "business_id", "title": "name"}, domain, read=_businesses),
            about,
            unit="iso",
        )


def _reviews(path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["user_id", "business_id", "stars", "date"])
    return rows.rename({"business_id": "item_id", "stars": "rating", "date": "timestamp"})


def _businesses(path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["business_id", "name", "categories"])
    return rows.rename({"business_id": "item_id", "name": "title", "categories": "category"})
