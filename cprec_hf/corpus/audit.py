"""The audit: what a corpus promises, proved from its written files alone. `cprec corpus audit FOLDER`.

Nothing here is taken from the build: documents and prompts are rendered again row by row from item ids and titles,
tokens are counted again, leaks are looked for by joining the files with one another. A build whose audit fails leaves
no corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.corpus.audit_examples import check_examples, held_out_events
from cprec_hf.corpus.audit_report import AuditReport, AuditRow, Tally, batches, render, sampled_tokens
from cprec_hf.corpus.content import candidates_sha256, content_sha256
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import corpus_tokenizer, load_facts
from cprec_hf.corpus.template import DELIMITER, load_template

_UNREADABLE = (KeyError, TypeError, ValueError, OSError, pa.ArrowException, pl.exceptions.PolarsError)


def audit_corpus(folder: str | Path) -> AuditReport:
    """Check a corpus folder; see `AuditReport.require` for making a failure an error.

    Args:
        folder: a local corpus (a Hub repo: download it with `hub.files.snapshot` first).

    Returns:
        The report; a file or a fact that is missing or damaged is a failed check in it, behind which none was made.

    Raises:
        InputError: no corpus there, or its tokenizer cannot be loaded.
    """
    folder, tally = Path(folder), Tally()
    facts = load_facts(folder)
    encoder = Encoder(corpus_tokenizer(folder))
    try:
        _check_counts(folder, facts, tally)
        rows = _check_contents(folder, facts, encoder, tally)
    except _UNREADABLE as error:  # a promise that cannot be looked at is not kept
        found = " ".join(f"{type(error).__name__}: {error}".split())
        rows = [*tally.rows(), AuditRow("files and facts can be read", False, 0, found)]
    return AuditReport(str(folder), rows)


def _check_contents(folder: Path, facts: Mapping[str, Any], encoder: Encoder, tally: Tally) -> list[AuditRow]:
    items = pl.read_parquet(folder / "items" / "train.parquet")
    items = items.with_columns(tokens=pl.Series(encoder.segments((items["title"] + DELIMITER).to_arrow()).lengths))
    _check_items(items, facts, tally)
    held = held_out_events(folder, facts)
    _check_documents(folder, facts, items, held, encoder, tally)
    rows = tally.rows() + check_examples(folder, facts, items, encoder)
    hashes = {
        "content hash": (content_sha256(folder), facts["content_sha256"]),
        "hash of the candidates": (candidates_sha256(folder), facts["candidates"]["sha256"]),
    }
    for name, (found, recorded) in hashes.items():
        detail = found if found == recorded else f"found {found}, recorded {recorded}"
        rows.append(AuditRow(f"{name} as recorded", found == recorded, 1, detail))
    return rows


def _check_counts(folder: Path, facts: Mapping[str, Any], tally: Tally) -> None:
    recorded = {(config, split): n for config, splits in facts["counts"].items() for split, n in splits.items()}
    found = {(path.parent.name, path.stem): pq.read_metadata(path).num_rows for path in folder.glob("*/*.parquet")}
    wrong = [
        {"config": key[0], "split": key[1], "rows recorded": recorded.get(key), "rows found": found.get(key)}
        for key in sorted(recorded.keys() | found.keys())
        if recorded.get(key) != found.get(key)
    ]
    tally.add("files and row counts as recorded", len(found), pl.DataFrame(wrong))


def _check_items(items: pl.DataFrame, facts: Mapping[str, Any], tally: Tally) -> None:
    tally.add("items stand once", len(items), items.filter(pl.struct("domain", "item_id").is_duplicated()))
    long = items.filter(pl.col("tokens") > facts["template"]["max_title_tokens"])
    tally.add("titles within max_title_tokens", len(items), long.select("domain", "item_id", "title", "tokens"))


def _check_documents(
    folder: Path, facts: Mapping[str, Any], items: pl.DataFrame, held: pl.DataFrame, encoder: Encoder, tally: Tally
) -> None:
    downstream = [domain for domain, about in facts["domains"].items() if about["role"] == "downstream"]
    template = load_template(facts["template"]["version"])
    headers = pl.DataFrame({"domain": [None, *facts["domains"]]}, schema={"domain": pl.String})
    headers = headers.with_columns(header=pl.Series([template.header(domain) for domain in headers["domain"]]))
    headers = headers.with_columns(opening=pl.Series(encoder.documents(headers["header"].to_list()).lengths))
    users: dict[str, pl.Series] = {}
    for path in sorted((folder / "cpt").glob("*.parquet")):
        frames = [pl.Series("user_id", [], dtype=pl.String)]
        for batch in batches(path):
            where = pl.lit(f"cpt/{path.stem}").alias("file")
            batch = batch.with_columns(where)
            frames.append(batch["user_id"].unique())
            events = batch.select(
                "file", "row", "user_id", domain="item_domains", item_id="item_ids", last="last_timestamp", of="domain"
            )
            events = events.explode("domain", "item_id")
            leaked = events.filter(pl.col("domain").is_in(downstream)).drop("last", "of")
            tally.add("no downstream domain in pre-training", len(events), leaked)
            leaked = events.join(held, on=["user_id", "domain", "item_id"], how="semi").drop("last", "of")
            tally.add("no held-out event in pre-training", len(events), leaked)
            _check_times(batch, facts, held, tally)
            mixed = events.filter(pl.col("of").is_not_null() & (pl.col("of") != pl.col("domain"))).drop("last")
            tally.add("domain documents hold one domain", len(events), mixed)
            said = batch.join(headers, on="domain", how="left", nulls_equal=True, maintain_order="left")
            said = said.join(render(events.select("row", "domain", "item_id"), items), on="row", how="left")
            other = said.filter((pl.col("header") + pl.col("lines") == pl.col("text")).fill_null(False).not_())
            tally.add("documents read as their items", len(batch), other.select("file", "row", "user_id", "text"))
            said = said.with_columns(counted=pl.col("opening") + pl.col("tokens"))
            shown = ["file", "row", "user_id", "n_tokens", "counted"]
            tally.add("token counts", len(batch), said.filter(pl.col("counted") != pl.col("n_tokens")).select(shown))
            sample = sampled_tokens(batch, encoder, "text")
            wrong = sample.filter(pl.col("encoded") != pl.col("n_tokens")).select(*shown[:-1], "encoded")
            tally.add("token counts of texts encoded whole", len(sample), wrong)
            most = facts["template"]["window_tokens"]
            tally.add("documents within window_tokens", len(batch), said.filter(pl.col("counted") > most).select(shown))
            short = batch.filter(pl.col("item_ids").list.len() < 2).select("file", "row", "user_id")
            tally.add("documents of two items or more", len(batch), short)
        users[path.stem] = pl.concat(frames).unique()
    none = pl.Series("user_id", [], dtype=pl.String)
    train, validation = (users.get(split, none).to_frame() for split in ("train", "validation"))
    tally.add("no user in both parts of cpt", len(train), train.join(validation, on="user_id", how="semi"))


def _check_times(batch: pl.DataFrame, facts: Mapping[str, Any], held: pl.DataFrame, tally: Tally) -> None:
    if facts["about"]["order"] != "time":
        return
    shown = batch.select("file", "row", "user_id", "last_timestamp")
    if facts["split"]["policy"] == "time":
        cut = facts["split"]["cuts"]["validation"]
        late = shown.filter((pl.col("last_timestamp") < cut).fill_null(False).not_())
        tally.add("pre-training ends before the validation cut", len(batch), late.with_columns(cut=pl.lit(cut)))
    else:
        cuts = held.filter(pl.col("split") == "validation").group_by("user_id").agg(cut=pl.col("timestamp").min())
        known = shown.join(cuts, on="user_id", how="inner")
        late = known.filter((pl.col("last_timestamp") < pl.col("cut")).fill_null(False).not_())
        tally.add("pre-training ends before the user's validation event", len(known), late)
