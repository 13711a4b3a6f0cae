"""The audit: what a corpus promises, proved from its written files alone. `cprec corpus audit FOLDER`.

Nothing here is taken from the build: documents and prompts are put together again from item ids and titles, tokens are
counted again, leaks are looked for by item ids and times. A build whose audit fails leaves no corpus. Files are read in
batches, so a corpus larger than memory is audited too (`audit_batches.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from cprec_hf.corpus.audit_batches import Items
from cprec_hf.corpus.audit_cold import check_cold
from cprec_hf.corpus.audit_documents import DocumentAudit
from cprec_hf.corpus.audit_examples import ExampleAudit
from cprec_hf.corpus.audit_figures import Figures
from cprec_hf.corpus.audit_held import HeldOut, first_validation
from cprec_hf.corpus.audit_report import AuditReport, AuditRow, Tally
from cprec_hf.corpus.content import candidates_sha256, content_sha256
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.files import SPLITS, config_files, count_rows
from cprec_hf.corpus.load import corpus_tokenizer, load_facts
from cprec_hf.corpus.template import load_template

_UNREADABLE = (KeyError, TypeError, ValueError, OSError, pa.ArrowException, pl.exceptions.PolarsError)
_Files = Mapping[str, Mapping[str, list[Path]]]


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
        files = config_files(folder)
        _check_counts(files, facts, tally)
        with ThreadPoolExecutor(1) as beside:  # the hash reads all files too, and waits for none of the checks
            content = beside.submit(content_sha256, folder)
            rows, figures = _check_contents(folder, files, facts, encoder, content, tally)
    except _UNREADABLE as error:  # a promise that cannot be looked at is not kept
        found = " ".join(f"{type(error).__name__}: {error}".split())
        return AuditReport(str(folder), [*tally.rows(), AuditRow("files and facts can be read", False, 0, found)])
    return AuditReport(str(folder), rows, figures)


def _check_contents(
    folder: Path, files: _Files, facts: Mapping[str, Any], encoder: Encoder, content: Future[str], tally: Tally
) -> tuple[list[AuditRow], dict[str, Any]]:
    template, domains = load_template(facts["template"]["version"]), list(facts["domains"])
    downstream = {d: f"sft-{about['slug']}" for d, about in facts["domains"].items() if about["role"] == "downstream"}
    documents = ["cpt"] if len(downstream) < len(domains) else []  # nothing is pre-trained on where all are downstream
    _require_files(folder, files, [*documents, "items", *downstream.values()])
    frame = pl.read_parquet(files["items"]["train"], columns=["item_id", "domain", "title"])
    headers = [template.header(domain) for domain in (None, *domains)]
    items = Items(frame, domains, [*headers, template.block([])], encoder)
    _check_items(frame, items, facts, tally)
    held = {domain: HeldOut.read(files[config], domains.index(domain), items) for domain, config in downstream.items()}
    cuts = None if facts["split"]["policy"] == "time" else first_validation(held)
    figures = Figures(domains)
    opening = encoder.documents(headers).lengths
    DocumentAudit(facts, items, opening, held, cuts, encoder).check(files.get("cpt", {}), tally, figures)
    memoriser: list[AuditRow] = []
    for domain, config in downstream.items():
        audit = ExampleAudit(facts, items, domain, held[domain], encoder)
        memoriser += audit.check(files[config], tally, figures)
    rows = tally.rows() + check_cold(folder, facts) + memoriser
    hashes = {
        "content hash": (content.result(), facts["content_sha256"]),
        "hash of the candidates": (candidates_sha256(folder), facts["candidates"]["sha256"]),
    }
    for name, (found, recorded) in hashes.items():
        detail = found if found == recorded else f"found {found}, recorded {recorded}"
        rows.append(AuditRow(f"{name} as recorded", found == recorded, 1, detail))
    return rows, figures.to_dict(items.frame)


def _check_counts(files: _Files, facts: Mapping[str, Any], tally: Tally) -> None:
    recorded = {(config, split): n for config, splits in facts["counts"].items() for split, n in splits.items()}
    found = {(config, split): count_rows(paths) for config, splits in files.items() for split, paths in splits.items()}
    wrong = [
        {"config": key[0], "split": key[1], "rows recorded": recorded.get(key), "rows found": found.get(key)}
        for key in sorted(recorded.keys() | found.keys())
        if recorded.get(key) != found.get(key)
    ]
    tally.add("files and row counts as recorded", len(found), pl.DataFrame(wrong))


def _require_files(folder: Path, files: _Files, configs: Sequence[str]) -> None:
    for config in configs:
        for split in SPLITS if config.startswith("sft-") else SPLITS[:1]:
            if not files.get(config, {}).get(split):
                raise FileNotFoundError(f"there is no {folder / config / split}.parquet")


def _check_items(frame: pl.DataFrame, items: Items, facts: Mapping[str, Any], tally: Tally) -> None:
    tally.add("items stand once", len(frame), frame.filter(pl.struct("domain", "item_id").is_duplicated()))
    shown = items.frame.select("domain", "item_id", "title", tokens=pl.Series(items.tokens[:-1]))
    long = shown.filter(pl.col("tokens") > facts["template"]["max_title_tokens"])
    tally.add("titles within max_title_tokens", len(shown), long)
