"""What is in a corpus: rows, users, items, lengths and tokens of each config. `cprec corpus stats FOLDER`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cprec_hf.corpus.files import split_files
from cprec_hf.corpus.load import load_facts


@dataclass(frozen=True)
class CorpusStats:
    """Figures of one corpus; printed as Markdown."""

    name: str
    tokens: dict[str, int]
    """By kind of pre-training document, and of the item documents."""
    configs: list[dict[str, Any]]
    """Per file: config, split, rows, users and items (distinct), and the median and 95th percentile of the items a row
    (of a document, or a history and its target) and of the characters of its text; None where it has no meaning."""

    def __str__(self) -> str:
        names = {
            "config": "config", "split": "split", "rows": "rows", "users": "users", "items": "items",
            "row_items_median": "items a row", "row_items_p95": "p95", "characters_median": "characters a row",
            "characters_p95": "p95",
        }  # fmt: skip
        lines = [f"# {self.name}", "", "| " + " | ".join(names.values()) + " |", "|---|---|" + "---:|" * 7]
        for row in self.configs:
            cells = [
                row[key] if isinstance(row[key], str) else "-" if row[key] is None else f"{row[key]:,}" for key in names
            ]
            lines.append("| " + " | ".join(cells) + " |")
        tokens = ", ".join(f"{kind} {n:,}" for kind, n in self.tokens.items())
        return "\n".join([*lines, "", f"Tokens: {tokens}."])


def corpus_stats(folder: str | Path) -> CorpusStats:
    """Figures read from the files of a corpus folder.

    Raises:
        InputError: no corpus there.
    """
    folder = Path(folder)
    facts = load_facts(folder)
    configs = [
        {"config": config, "split": split, **_split_stats(paths, config)}
        for config in facts["counts"]
        for split, paths in split_files(folder, config).items()
    ]
    return CorpusStats(facts["name"], facts["tokens"], configs)


def _split_stats(paths: list[Path], config: str) -> dict[str, int | None]:
    rows = pl.scan_parquet(paths, glob=False)
    if config == "cpt":
        ids = pl.struct(domain=pl.col("item_domains").explode(), item=pl.col("item_ids").explode())
        length, characters = pl.col("item_ids").list.len(), pl.col("text").str.len_chars()
    elif config == "items":
        ids = pl.struct("domain", "item_id")
        length, characters = pl.lit(None, pl.Int64), pl.col("text").str.len_chars()
    else:
        ids = pl.concat([pl.col("history").explode(), pl.col("target")])
        length = pl.col("history").list.len() + 1
        characters = pl.col("prompt").str.len_chars() + pl.col("completion").str.len_chars()
    users = pl.lit(None, pl.Int64) if config == "items" else pl.col("user_id").n_unique()
    figures = {"rows": pl.len(), "users": users, "items": ids.n_unique()}
    for name, column in {"row_items": length, "characters": characters}.items():
        figures[f"{name}_median"] = column.quantile(0.5, "nearest").first()
        figures[f"{name}_p95"] = column.quantile(0.95, "nearest").first()
    found = rows.select(**figures).collect(engine="streaming").row(0, named=True)
    return {key: None if value is None else int(value) for key, value in found.items()}
