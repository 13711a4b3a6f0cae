"""What users did, in one schema: two lazy tables, what they are, and the account of how they came to be.

    interactions  user_id str | item_id str | domain str | timestamp i64 | rating f32 or null
                  [| all_domain_position i64 or null]
    items         item_id str | domain str | title str | any attributes (description, brand, ...)

The key of an item is (domain, item_id), that of an event (user_id, domain, timestamp, item_id). The order of events is
(timestamp, item_id) within a user and domain, so that ties fall the same way on every engine.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.titles import clean_title
from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder

if TYPE_CHECKING:
    from cprec_hf.behaviors.sources.log import Log

INTERACTIONS: dict[str, type[pl.DataType]] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "domain": pl.String,
    "timestamp": pl.Int64,
    "rating": pl.Float32,
}
ITEMS: dict[str, type[pl.DataType]] = {"item_id": pl.String, "domain": pl.String, "title": pl.String}
ALL_DOMAIN_POSITION = "all_domain_position"
ITEM_KEY = ["domain", "item_id"]
EVENT_KEY = ["domain", "user_id", "timestamp", "item_id"]
LATEST_SECONDS = 10**11
"""Unix seconds reach this in the year 5138; milliseconds passed it in 1973. What lies above is not in seconds."""


@dataclass(frozen=True)
class About:
    """What a source is and what may be done with it.

    Attributes:
        name: what the source calls itself.
        licence: its licence, in words or as an SPDX identifier.
        citation: whom to cite.
        order: "time": `timestamp` is unix seconds, and orders events across domains too. "position": `timestamp` holds
            positions from 0 within (user, domain), possibly with gaps; the order across domains is
            `all_domain_position`, null where it is unknown.
        redistributable: whether texts made from it may be published.
    """

    name: str
    licence: str
    citation: str
    order: Literal["time", "position"]
    redistributable: bool = False


@dataclass(frozen=True)
class Behaviors:
    """Users' logs of many domains: two LazyFrames of the schema above, what they are, and their account."""

    interactions: pl.LazyFrame
    items: pl.LazyFrame
    about: About
    account: Account
    log: Log | None = None
    """The source's log, if `account` is still to be made from it (`sources.log.counting_later`); else null."""

    def validate(self) -> Behaviors:
        """Check the whole contract in one streaming pass and return `self`.

        Checked: columns and types; no null or empty keys; titles cleaned and not empty; each item once, each event
        once; every event's item in the catalogue; no negative timestamp, and none above `LATEST_SECONDS` where they
        are times; domain names that are one clean line.

        Raises:
            InputError: the first rule that does not hold, with the number of rows and one of them.
        """
        has_position = ALL_DOMAIN_POSITION in self._check_types("interactions", self.interactions, INTERACTIONS)
        self._check_types("items", self.items, ITEMS)
        domains = pl.concat([self.items.select("domain"), self.interactions.select("domain")]).unique()
        events = self.interactions.select(*EVENT_KEY, *([ALL_DOMAIN_POSITION] if has_position else []))
        late = pl.col("timestamp") >= LATEST_SECONDS if self.about.order == "time" else pl.lit(False)
        titles = self.items.select(*ITEM_KEY, "title")
        rules = {
            "items without an item_id or a domain": titles.filter(_missing("item_id") | _missing("domain")),
            "items whose title is missing or not cleaned (cprec_hf.behaviors.titles)": titles.filter(
                _missing("title") | (pl.col("title") != clean_title(pl.col("title")))
            ),
            "items that stand in the catalogue more than once": _repeated(titles, ITEM_KEY),
            "domain names that are not one clean line of text": domains.filter(
                pl.col("domain") != clean_title(pl.col("domain"))
            ),
            "interactions without a user_id, item_id, domain or timestamp": events.filter(
                _missing("user_id") | _missing("item_id") | _missing("domain") | pl.col("timestamp").is_null()
            ),
            "interactions with a negative timestamp": events.filter(pl.col("timestamp") < 0),
            "interactions whose timestamp is not in seconds": events.filter(late),
            "domains with interactions but without items": events.select("domain")
            .unique()
            .join(titles, on="domain", how="anti"),
            "interactions whose item is not in the catalogue": events.join(titles, on=ITEM_KEY, how="anti"),
            "interactions that stand in the log more than once": _repeated(events, EVENT_KEY),
        }
        if has_position:
            rules["interactions with a negative all_domain_position"] = events.filter(pl.col(ALL_DOMAIN_POSITION) < 0)
        found = [rows.select(n=pl.len(), row=pl.struct(pl.all()).first()) for rows in rules.values()]
        for rule, result in zip(rules, pl.collect_all(found, engine="streaming"), strict=True):
            if result["n"][0]:
                raise InputError(f"{self.about.name}: {result['n'][0]:,} {rule}; one of them: {result['row'][0]}")
        return self

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write interactions.parquet, items.parquet and about.json, whole or not at all, rows sorted by their key.

        Raises:
            InputError: `folder` exists and `overwrite` is false.
        """
        with atomic_folder(folder, overwrite=overwrite) as temporary:
            self.interactions.sort(EVENT_KEY).sink_parquet(temporary / "interactions.parquet")
            self.items.sort(ITEM_KEY).sink_parquet(temporary / "items.parquet")
            facts = {"format": 1, "about": dataclasses.asdict(self.about), "account": self.account.to_dicts()}
            (temporary / "about.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Behaviors:
        """Read what `save` wrote.

        Raises:
            InputError: one of the three files is missing, or about.json is not what `save` writes.
        """
        folder = Path(folder)
        for name in ("about.json", "interactions.parquet", "items.parquet"):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: no {name} in this folder; it was not written by Behaviors.save")
        try:
            facts = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            about, account = About(**facts["about"]), Account.from_dicts(facts["account"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder / 'about.json'}: not written by Behaviors.save ({error})") from None
        interactions, items = (pl.scan_parquet(folder / f"{name}.parquet") for name in ("interactions", "items"))
        return cls(interactions, items, about, account)

    def _check_types(self, table: str, rows: pl.LazyFrame, wanted: dict[str, type[pl.DataType]]) -> pl.Schema:
        schema = rows.collect_schema()
        if table == "interactions" and ALL_DOMAIN_POSITION in schema:
            wanted = {**wanted, ALL_DOMAIN_POSITION: pl.Int64}
        for column, dtype in wanted.items():
            if schema.get(column) != dtype:
                found = f"is {schema[column]}" if column in schema else f"is not among {', '.join(schema)}"
                raise InputError(f"{self.about.name}: column `{column}` of {table} {found}; expected {dtype.__name__}")
        return schema


def _missing(column: str) -> pl.Expr:
    return pl.col(column).is_null() | (pl.col(column) == "")


def _repeated(rows: pl.LazyFrame, key: list[str]) -> pl.LazyFrame:
    return rows.group_by(key).agg(times=pl.len()).filter(pl.col("times") > 1)
