"""Steam reviews and games of Kang and McAuley: lines that are Python dicts, not JSON.

    source:
      kind: steam
      folder: ${CPREC_STEAM}        # steam_reviews.json.gz (or steam_new.json.gz) and steam_games.json.gz

A review is an event, on its date. A user is a `username`, as in the work that uses this log: most lines have no
`user_id`. A game's title is its `title`, or its `app_name` where it has none; its genres become `category`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.json_lines import DAMAGED
from cprec_hf.behaviors.sources.json_text import first_text, joined
from cprec_hf.behaviors.sources.prepared import Prepared, json_rows, layout

LAYOUTS = {
    "steam_reviews": ["steam_reviews.json*", "steam_games.json*"],
    "steam_new": ["steam_new.json*", "steam_games.json*"],
}


@dataclass(frozen=True)
class SteamConfig:
    """The keys of a source of kind `steam`."""

    folder: str
    """The folder of the two files, packed or not; `${VARIABLE}` is expanded, hf:// paths are read."""
    domain: str = "Games"
    """The domain of all its rows."""

    def read(self, where: str) -> Behaviors:
        """Read the two files; `where` names the recipe in error messages.

        Raises:
            InputError: a missing or unreadable file, and what `intake.take_in` finds.
        """
        name, (reviews, games) = layout(self.folder, LAYOUTS, where)
        domain = {"domain": self.domain}
        columns = {"user_id": "username", "item_id": "product_id", "timestamp": "date"}
        about = About(
            f"Steam ({name})", "research use, redistribution not stated",
            "Kang and McAuley: Self-attentive Sequential Recommendation, 2018", "time",
        )  # fmt: skip
        return take_in(
            Prepared((reviews,), columns, domain, read=_reviews),
            Prepared((games,), {"item_id": "id", "title": "title"}, domain, read=_games),
            about,
            unit="iso",
        )


def _reviews(path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["username", "product_id", "date"])
    return rows.rename({"username": "user_id", "product_id": "item_id", "date": "timestamp"})


def _games(path: Path) -> pl.LazyFrame:
    rows = json_rows(path, ["id", "title", "app_name", "genres"])
    named = first_text("title", "app_name")
    return rows.select(DAMAGED, item_id="id", title=named, category=joined("genres", ", "))
