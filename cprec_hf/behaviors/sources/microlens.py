"""MicroLens-50K, 100K and 1M: short videos and who watched them.

    source:
      kind: microlens
      folder: ${CPREC_MICROLENS}/MicroLens-50k

`MicroLens-*_pairs.csv` (user, item, milliseconds), or `_pairs.tsv` without times (a user, a tab, their items, oldest
first). Titles: `_titles.csv` (50K) is CSV with quotes; `_title_en.csv` (100K) and `_title.csv` (1M) have no header, and
their quotes are plain characters: a line is an item, a comma, its title. Where `tags_to_summary.csv` lies beside them,
its label is the item's `category`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.files import matching
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.prepared import Prepared, csv_rows, histories_as_events, layout, lines

PAIRS = {"with times": "*_pairs.csv", "without": "*_pairs.tsv"}
TITLES = {"50K": "*_titles.csv", "100K": "*_title_en.csv", "1M": "*_title.csv"}


@dataclass(frozen=True)
class MicrolensConfig:
    """The keys of a source of kind `microlens`."""

    folder: str
    """The folder of one edition; `${VARIABLE}` is expanded, hf:// paths are read."""
    domain: str = "Videos"
    """The domain of all its rows."""

    def read(self, where: str) -> Behaviors:
        """Read the edition in `folder`; `where` names the recipe in error messages.

        Raises:
            InputError: a folder without pairs or titles, an unreadable file, and what `intake.take_in` finds.
        """
        known = {f"{size}, {times}": [p, t] for times, p in PAIRS.items() for size, t in TITLES.items()}
        edition, (pairs, titles) = layout(self.folder, known, where)
        times = edition.endswith("with times")
        labels = (*matching(f"{self.folder}/tags_to_summary.csv", where), None)[0]
        domain = {"domain": self.domain}
        about = About(
            f"MicroLens-{edition.split(',')[0]}", "research use, no redistribution (MicroLens)",
            "Ni et al.: A Content-Driven Micro-Video Recommendation Dataset at Scale, 2023",
            "time" if times else "position",
        )  # fmt: skip
        columns = {"user_id": "user", "item_id": "item", "timestamp": "timestamp"}
        items = partial(_items, edition.startswith("50K"), labels)
        return take_in(
            Prepared((pairs,), columns, domain, read=_timed if times else histories_as_events),
            Prepared((titles,), {"item_id": "item", "title": "title"}, domain, read=items),
            about,
            unit="ms" if times else "s",
        )


def _timed(path: Path) -> pl.LazyFrame:
    return csv_rows(path, ["user", "item", "timestamp"]).rename({"user": "user_id", "item": "item_id"})


def _items(quoted: bool, labels: Path | None, path: Path) -> pl.LazyFrame:
    rows = csv_rows(path, ["item", "title"]).rename({"item": "item_id"}) if quoted else _at_first_comma(path, "title")
    return rows if labels is None else rows.join(_at_first_comma(labels, "category"), on="item_id", how="left")


def _at_first_comma(path: Path, second: str) -> pl.LazyFrame:
    parts = pl.col("line").str.splitn(",", 2).struct
    return lines(path).select(item_id=parts.field("field_0"), **{second: parts.field("field_1")})
