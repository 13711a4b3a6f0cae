"""NineRec: Bilibili, Kuaishou, QB, TN and Douyin, titles in Chinese and English; each set is a domain.

    source:
      kind: ninerec
      sets: {Food: ${CPREC_NINEREC}/Bili_Food, Cartoon: ${CPREC_NINEREC}/Bili_Cartoon}
      language: en

A set's folder holds `NAME_item.csv` (item, Chinese title, English title; no header) and its behaviour: `NAME_pair.csv`
(item, user, time; no header), or `NAME_behaviour.tsv` or `sequential_data.txt` (a user and their items, oldest first).
With times only if every set has its pairs. Users are kept apart by set: their numbers begin anew in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources.files import matching
from cprec_hf.behaviors.sources.intake import take_in
from cprec_hf.behaviors.sources.prepared import Prepared, csv_rows, histories_as_events, layout
from cprec_hf.behaviors.sources.timestamps import Unit
from cprec_hf.errors import InputError

LAYOUTS = {
    "with times": ["*_item.csv", "*_pair.csv"],
    "users' histories": ["*_item.csv", "*_behaviour.tsv"],
    "users' histories, items numbered": ["*_item.csv", "sequential_data.txt"],
}


@dataclass(frozen=True)
class NinerecConfig:
    """The keys of a source of kind `ninerec`."""

    sets: dict[str, str]
    """Domain -> the folder of the set; `${VARIABLE}` is expanded, hf:// paths are read."""
    language: Literal["zh", "en"]
    """Whose titles: the Chinese originals, or their English translations by machine."""
    timestamp_unit: Unit = "s"
    """Unit of the times in `NAME_pair.csv`."""

    def __post_init__(self) -> None:
        """Raise `InputError` for no set."""
        if not self.sets:
            raise InputError("`sets` is empty; name at least one domain and the folder of its set")

    def read(self, where: str) -> Behaviors:
        """Read the sets; `where` names the recipe in error messages.

        Raises:
            InputError: a folder that is no set, an unreadable file, and what `intake.take_in` finds.
        """
        times = all(matching(f"{folder}/*_pair.csv", where) for folder in self.sets.values())
        layouts = {name: files for name, files in LAYOUTS.items() if (name == "with times") == times}
        files = {domain: layout(folder, layouts, where)[1] for domain, folder in self.sets.items()}
        domain_of = {path: domain for domain, paths in files.items() for path in paths}
        items, behaviour = zip(*files.values(), strict=True)
        events = {"user_id": "user", "item_id": "item", "timestamp": "timestamp", "domain": "set"}
        about = About(
            f"NineRec ({', '.join(self.sets)}; titles: {self.language})", "research use, no redistribution (NineRec)",
            "Zhang et al.: NineRec: A Benchmark Dataset Suite for Evaluating Transferable Recommendation, 2023",
            "time" if times else "position",
        )  # fmt: skip
        return take_in(
            Prepared(behaviour, events, read=partial(_events, domain_of, times)),
            Prepared(items, {"item_id": "item", "title": "title"}, read=partial(_items, domain_of, self.language)),
            about,
            unit=self.timestamp_unit,
        )


def _events(domain_of: dict[Path, str], times: bool, path: Path) -> pl.LazyFrame:
    rows = csv_rows(path, ["item_id", "user_id", "timestamp"]) if times else histories_as_events(path)
    domain = pl.lit(domain_of[path])
    return rows.with_columns(user_id=pl.concat_str(domain, pl.col("user_id"), separator="/"), domain=domain)


def _items(domain_of: dict[Path, str], language: str, path: Path) -> pl.LazyFrame:
    rows = csv_rows(path, ["item_id", "zh", "en"])
    return rows.select("item_id", title=pl.col(language), domain=pl.lit(domain_of[path]))
