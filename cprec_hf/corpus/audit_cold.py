"""The audit's checks on few-shot subsets, on marks of cold users and items, and on negatives by category.

All is counted again from the files, lazily: what is held is by user and by item, not by row. A training row shows every
training event of its user but one at most, the last, where it stood alone in its window (with `train_targets: every`,
the one event of a user with no other); so a count may exceed what the rows show by one, and never falls short of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.corpus.audit_report import AuditRow, Tally
from cprec_hf.corpus.content import BATCH_ROWS, batches_sha256, rows_sha256
from cprec_hf.corpus.few_shot import RANK, few_rows, user_keys
from cprec_hf.corpus.files import SPLITS, iter_rows, split_files
from cprec_hf.corpus.held_out import HELD_OUT
from cprec_hf.corpus.pools import filled_column

_MARKS = [RANK, "user_events", "cpt_events", "target_events", "cold_user", "cold_item"]
_WHERE = ["file", "row"]


def check_cold(folder: Path, facts: Mapping[str, Any]) -> list[AuditRow]:
    """The checks of every `sft-*` config of a corpus that has the marks; those of older releases have none.

    Args:
        folder: of the corpus.
        facts: its `cprec-corpus.json`.
    """
    tally = Tally()
    if "cold" not in facts:
        return []
    pretrained, items = _pretrained(folder), pl.read_parquet(split_files(folder, "items")["train"])
    for domain, about in facts["domains"].items():
        if about["role"] != "downstream":
            continue
        files, mine = split_files(folder, f"sft-{about['slug']}"), items.filter(pl.col("domain") == domain)
        rows = pl.concat([_rows(files, split, ["user_id", "target", *_MARKS]) for split in SPLITS])
        train = pl.scan_parquet(files["train"])
        _check_users(rows, train, facts["recipe"].get("train_targets", "window"), tally)
        _check_items(rows, train, mine, tally)
        known = rows.join(pretrained, on="user_id")
        check = "pre-training events of users no fewer than the documents show"
        wrong = known.filter(pl.col("cpt_events") < pl.col("shown"))
        _add(tally, check, known, wrong, "user_id", "cpt_events", "shown")
        _check_line(rows, train, f"{facts['name']}/{facts['seed']}/{domain}", tally)
        for name, share in facts["few_shot"].items():
            _check_subset(files, name, share, tally)
        for column, policy in facts["candidates"]["sets"].items():
            if policy == "category":
                _check_categories(files, column, mine, tally)
    return tally.rows()


def _rows(files: Mapping[str, list[Path]], split: str, columns: list[str]) -> pl.LazyFrame:
    rows = pl.scan_parquet(files[split]).select(columns).with_row_index("row")
    return rows.with_columns(file=pl.lit(f"{files[split][0].parent.name}/{split}"))


def _add(tally: Tally, check: str, rows: pl.LazyFrame, wrong: pl.LazyFrame, *shown: str) -> None:
    n, bad = pl.collect_all([rows.select(pl.len()), wrong.select(*_WHERE, *shown)], engine="streaming")
    tally.add(check, n.item(), bad.sort(_WHERE))


def _check_users(rows: pl.LazyFrame, train: pl.LazyFrame, train_targets: str, tally: Tally) -> None:
    every = train_targets == "every"
    in_rows = pl.len() + 1 if every else (pl.col("history").list.len() + 1).sum()
    shown = train.group_by("user_id").agg(shown=in_rows.cast(pl.Int64))
    known = rows.join(shown, on="user_id", how="left").with_columns(pl.col("shown").fill_null(0))
    more = pl.col("user_events") - pl.col("shown")
    most = pl.when(pl.col("shown") > 0).then(0).otherwise(1) if every else pl.lit(1)
    wrong = known.filter((more < 0) | (more > most))
    _add(tally, "training events of users as the training rows show", rows, wrong, "user_id", "user_events", "shown")
    cold = (pl.col("user_events") == 0) & (pl.col("cpt_events") == 0)
    _add(tally, "cold users are marked", rows, rows.filter(pl.col("cold_user") != cold), "user_id", "cold_user")


def _check_items(rows: pl.LazyFrame, train: pl.LazyFrame, items: pl.DataFrame, tally: Tally) -> None:
    past = train.select("user_id", item_id="history").explode("item_id")
    events = pl.concat([past, train.select("user_id", item_id="target")]).unique()
    shown = events.group_by("item_id").agg(shown=pl.len().cast(pl.Int64)).collect(engine="streaming")
    known = items.select("item_id", "train_events").join(shown, on="item_id", how="left").fill_null(0)
    fewer = known.filter(pl.col("train_events") < pl.col("shown"))
    tally.add("training events of items no fewer than the training rows show", len(known), fewer)
    counts = items.lazy().select(target="item_id", of_item="train_events")
    wrong = rows.join(counts, on="target", how="left").filter(pl.col("target_events").ne_missing(pl.col("of_item")))
    _add(tally, "training events of targets as of items", rows, wrong, "target", "target_events", "of_item")
    wrong = rows.filter(pl.col("cold_item") != (pl.col("target_events") == 0))
    _add(tally, "cold items are marked", rows, wrong, "target", "cold_item")


def _pretrained(folder: Path) -> pl.LazyFrame:
    """user_id, shown: the most events that behaviour documents of one kind show of a user."""
    paths = [path for part in split_files(folder, "cpt").values() for path in part]
    if not paths:  # a corpus of downstream domains alone
        return pl.LazyFrame(schema={"user_id": pl.String, "shown": pl.Int64})
    documents = pl.scan_parquet(paths).filter(pl.col("kind").is_in(["domain", "all_domain"]))
    held = documents.group_by("user_id", "kind").agg(shown=pl.col("item_ids").list.len().sum().cast(pl.Int64))
    return held.group_by("user_id").agg(pl.col("shown").max())


def _check_line(rows: pl.LazyFrame, train: pl.LazyFrame, dataset: str, tally: Tally) -> None:
    users = train.select(pl.col("user_id").unique()).collect(engine="streaming")["user_id"]
    place = np.empty(len(users))
    order = np.argsort(user_keys(dataset, users.to_arrow().cast(pa.string())), kind="stable")
    place[order] = np.arange(len(users)) / max(len(users), 1)
    line = pl.LazyFrame({"user_id": users, "place": place})
    wrong = rows.join(line, on="user_id", how="left").filter(pl.col(RANK).ne_missing(pl.col("place")))
    _add(tally, "users in line by their keyed hash", rows, wrong, "user_id", RANK, "place")


def _check_subset(files: Mapping[str, list[Path]], name: str, share: float, tally: Tally) -> None:
    wanted = (few_rows(pa.Table.from_batches([batch]), share) for batch in iter_rows(files["train"], BATCH_ROWS))
    names = pq.read_schema(files["train"][0]).names
    expected = batches_sha256(names, (batch for table in wanted for batch in table.to_batches()))
    same = rows_sha256(files[name], names) == expected
    bad = pl.DataFrame({"split": [name], "config": [files[name][0].parent.name]})
    check = "few-shot splits are the training rows of their users"
    tally.add(check, sum(pq.read_metadata(path).num_rows for path in files[name]), bad.clear() if same else bad)


def _check_categories(files: Mapping[str, list[Path]], column: str, items: pl.DataFrame, tally: Tally) -> None:
    of_item = items.lazy().select("item_id", "category")
    for split in HELD_OUT:
        rows = _rows(files, split, ["target", column, filled_column(column)])
        held = rows.select("row", "target", item_id=column).explode("item_id")
        held = held.filter(pl.col("item_id") != pl.col("target")).join(of_item, on="item_id", how="left")
        held = held.join(of_item.rename({"item_id": "target", "category": "wanted"}), on="target", how="left")
        strange = (pl.col("category") != pl.col("wanted")).fill_null(True)
        others = held.group_by("row").agg(others=strange.sum().cast(pl.Int64))
        wrong = rows.join(others, on="row").filter(pl.col("others") > pl.col(filled_column(column)))
        _add(tally, "negatives are of the target's category, but those filled", rows, wrong, "target", "others")
