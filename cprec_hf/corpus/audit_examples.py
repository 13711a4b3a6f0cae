"""The audit's checks on fine-tuning and evaluation rows (see `audit.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs

from cprec_hf.corpus.audit_report import AuditRow, Tally, batches, render, sampled_tokens
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.memoriser import memoriser_hit_rate
from cprec_hf.corpus.template import load_template

MEMORISER_P = 1e-6
"""A memoriser with so many hits that chance gives them more rarely than this fails the audit. Our choice."""


def downstream_slugs(facts: Mapping[str, Any]) -> dict[str, str]:
    """Downstream domains and their slugs."""
    return {domain: about["slug"] for domain, about in facts["domains"].items() if about["role"] == "downstream"}


def held_out_events(folder: Path, facts: Mapping[str, Any]) -> pl.DataFrame:
    """All validation and test targets: user_id, domain, item_id, timestamp, split."""
    frames = [
        pl.read_parquet(folder / f"sft-{slug}" / f"{split}.parquet", columns=["user_id", "target", "timestamp"]).select(
            "user_id", domain=pl.lit(domain), item_id="target", timestamp="timestamp", split=pl.lit(split)
        )
        for domain, slug in downstream_slugs(facts).items()
        for split in ("validation", "test")
    ]
    return pl.concat(frames)


def check_examples(folder: Path, facts: Mapping[str, Any], items: pl.DataFrame, encoder: Encoder) -> list[AuditRow]:
    """All checks of all `sft-*` configs, the memoriser's last."""
    tally, memoriser = Tally(), []
    held = held_out_events(folder, facts)
    for domain, slug in downstream_slugs(facts).items():
        here = held.filter(pl.col("domain") == domain)
        seen = _training_items(folder / f"sft-{slug}" / "train.parquet", here["user_id"])
        for split in ("train", "validation", "test"):
            for batch in batches(folder / f"sft-{slug}" / f"{split}.parquet"):
                batch = batch.with_columns(file=pl.lit(f"sft-{slug}/{split}"))
                _check_texts(batch, domain, facts, items, encoder, tally)
                _check_leaks(batch, split, here, facts, tally)
                if split != "train" or facts["template"]["candidate_list_in_prompt"]:
                    _check_candidates(batch, split, domain, facts, items, seen, tally)
        _check_order(folder / f"sft-{slug}", here, facts, tally)
        memoriser.append(_memoriser(folder / f"sft-{slug}", domain))
    return tally.rows() + memoriser


def _check_texts(
    batch: pl.DataFrame, domain: str, facts: Mapping[str, Any], items: pl.DataFrame, encoder: Encoder, tally: Tally
) -> None:
    template, sizes = load_template(facts["template"]["version"]), facts["template"]
    shows_candidates = sizes["candidate_list_in_prompt"]
    said = batch
    for column in ["history", "target", *(["candidates"] if shows_candidates else [])]:
        ids = batch.select("row", domain=pl.lit(domain), item_id=column)
        ids = ids if column == "target" else ids.explode("item_id")
        said = said.join(
            render(ids, items).rename({"lines": f"{column} lines", "tokens": f"{column} tokens"}), on="row", how="left"
        )
    header = template.header(domain)
    opening = template.block([])
    block = pl.lit(opening) + pl.col("candidates lines") if shows_candidates else pl.lit("")
    right = pl.col("prompt") == block + header + pl.col("history lines")
    right &= pl.col("completion") == pl.col("target lines")
    shown = ["file", "row", "user_id", "prompt", "completion"]
    tally.add(
        "prompts and completions read as their items",
        len(batch),
        said.filter(right.fill_null(False).not_()).select(shown),
    )
    fixed = int(encoder.documents([header]).lengths[0])
    fixed += int(encoder.documents([opening], start=False).lengths[0]) if shows_candidates else 0
    counted = said.with_columns(
        counted=pl.sum_horizontal(cs.ends_with(" tokens")) + fixed, length=pl.col("history").list.len()
    )
    sample = sampled_tokens(counted, encoder, "prompt", "completion")
    wrong = sample.filter(pl.col("encoded") != pl.col("counted")).select("file", "row", "user_id", "counted", "encoded")
    tally.add("token counts of prompts and completions encoded whole", len(sample), wrong)
    long = counted.filter(pl.col("counted") > sizes["window_tokens"]).select("file", "row", "user_id", "counted")
    tally.add("prompts and completions within window_tokens", len(batch), long)
    wrong = counted.filter(~pl.col("length").is_between(1, sizes["history_length"]))
    tally.add("histories of 1 to history_length items", len(batch), wrong.select("file", "row", "user_id", "length"))


def _check_leaks(batch: pl.DataFrame, split: str, held: pl.DataFrame, facts: Mapping[str, Any], tally: Tally) -> None:
    past = batch.select("file", "row", "user_id", item_id="history").explode("item_id")
    target = batch.select("file", "row", "user_id", "timestamp", item_id="target")
    key = ["user_id", "item_id"]
    if split == "train":
        tally.add("no held-out event among train targets", len(batch), target.join(held, on=key, how="semi"))
        tally.add("no held-out event in train histories", len(past), past.join(held, on=key, how="semi"))
    else:
        ahead = held.filter(pl.col("split") == "test")
        tally.add("no test event in held-out histories", len(past), past.join(ahead, on=key, how="semi"))
        again = batch.filter(pl.col("history").list.contains(pl.col("target"))).select(
            "file", "row", "user_id", "target"
        )
        tally.add("held-out targets are new to their users", len(batch), again)
    if facts["split"]["policy"] == "time":
        cuts = facts["split"]["cuts"]
        eras = {
            "train": (None, cuts["validation"]), "validation": (cuts["validation"], cuts["test"]),
            "test": (cuts["test"], None),
        }  # fmt: skip
        begin, end = eras[split]
        outside = (pl.col("timestamp") < begin if begin is not None else pl.lit(False)) | (
            pl.col("timestamp") >= end if end is not None else pl.lit(False)
        )
        tally.add("targets on their side of the cuts", len(batch), target.filter(outside))


def _check_order(folder: Path, held: pl.DataFrame, facts: Mapping[str, Any], tally: Tally) -> None:
    """Per user: train before validation before test, one of each held out."""
    for split in ("validation", "test"):
        rows = held.filter(pl.col("split") == split)
        tally.add("one held-out event per user and split", len(rows), rows.filter(pl.col("user_id").is_duplicated()))
    last = pl.scan_parquet(folder / "train.parquet").group_by("user_id").agg(train=pl.col("timestamp").max()).collect()
    when = held.unique(["user_id", "split"], keep="first", maintain_order=True).pivot(
        "split", index="user_id", values="timestamp"
    )
    both = when.join(last, on="user_id", how="left")
    late = (pl.col("train") > pl.min_horizontal("validation", "test")) | (pl.col("validation") > pl.col("test"))
    tally.add("train before validation before test, for every user", len(both), both.filter(late.fill_null(False)))


def _check_candidates(
    batch: pl.DataFrame, split: str, domain: str, facts: Mapping[str, Any], items: pl.DataFrame, seen: pl.DataFrame,
    tally: Tally,
) -> None:  # fmt: skip
    """`seen`: user_id, item_id of all training rows, which are part of every held-out history, shown or not."""
    wanted, shown = facts["candidates"]["count"], ["file", "row", "user_id", "target", "candidates"]
    ids = batch.select("file", "row", "user_id", "target", item_id="candidates").explode("item_id")
    times = ids.group_by("row").agg(times=(pl.col("item_id") == pl.col("target")).sum())
    batch = batch.join(times, on="row", how="left")
    held = pl.col("candidates").list
    rules = {
        f"{wanted} candidates": held.len() != wanted,
        "candidates hold the target once": pl.col("times") != 1,
        "candidates are distinct": held.n_unique() != held.len(),
        "no candidate in the history": held.set_intersection(pl.col("history")).list.len() > 0,
    }
    for check, broken in rules.items() if split != "train" else list(rules.items())[:3]:
        tally.add(check, len(batch), batch.filter(broken.fill_null(True)).select(shown))
    if split != "train":
        again = ids.join(seen, on=["user_id", "item_id"], how="semi")
        tally.add("no candidate among the user's training items", len(ids), again)
    unknown = ids.join(items.filter(pl.col("domain") == domain), on="item_id", how="anti")
    tally.add("candidates are items of the domain", len(ids), unknown)


def _training_items(path: Path, users: pl.Series) -> pl.DataFrame:
    """user_id, item_id of what these users did in the training rows."""
    rows = pl.scan_parquet(path).filter(pl.col("user_id").is_in(users.unique().to_list()))
    past = rows.select("user_id", item_id="history").explode("item_id")
    return pl.concat([past, rows.select("user_id", item_id="target")]).unique().collect(engine="streaming")


def _memoriser(folder: Path, domain: str) -> AuditRow:
    known, asked = (
        pl.read_parquet(folder / f"{split}.parquet", columns=["candidates", "target"])
        for split in ("validation", "test")
    )
    check = f"candidate memoriser at chance in {domain}"
    if known["candidates"].list.len().n_unique() != 1 or asked["candidates"].list.len().n_unique() != 1:
        return AuditRow(check, False, len(asked), "candidate lists have different lengths")
    result = memoriser_hit_rate(
        known["candidates"].to_list(),
        known["target"].to_list(),
        asked["candidates"].to_list(),
        asked["target"].to_list(),
    )
    found = f"hr@1 {result.hit_rate:.4f}, chance {1 / result.count:.4f}, {result.recognised:,} sets recognised"
    passed = result.p_value >= MEMORISER_P
    return AuditRow(check, passed, result.rows, found if passed else f"{found}: the sets give their targets away")
