"""What is said of a downstream domain's held-out rows, counted in its written files: what is cold, what was filled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus.files import split_files
from cprec_hf.corpus.pools import filled_column

HELD_OUT = ("validation", "test")


def count_cold(folder: Path, config: str) -> dict[str, dict[str, int]]:
    """By held-out split: rows, those of cold users (`cold_user`), of cold items (`cold_item`), and of `both`.

    Args:
        folder: of the corpus.
        config: `sft-<slug>`.
    """
    user, item = pl.col("cold_user"), pl.col("cold_item")
    figures = {"rows": pl.len(), "cold_user": user.sum(), "cold_item": item.sum(), "both": (user & item).sum()}
    return {split: _read(folder, config, split).select(**figures).collect().row(0, named=True) for split in HELD_OUT}


def account_negatives(folder: Path, configs: Mapping[str, str], sets: Mapping[str, str]) -> list[Step]:
    """Of each set that is not uniform, how many negatives in held-out rows had to be drawn uniformly.

    Args:
        folder: of the corpus.
        configs: `sft-<slug>` of each downstream domain.
        sets: the column of each set, by its policy.
    """
    steps = []
    for domain, config in configs.items():
        rows = pl.concat([_read(folder, config, split) for split in HELD_OUT])
        for policy, column in sets.items():
            if policy == "uniform":
                continue
            negatives = (pl.col(column).list.len().cast(pl.Int64) - 1).sum()
            n, filled = rows.select(negatives, pl.col(filled_column(column)).sum().alias("filled")).collect().row(0)
            steps.append(Step(f"negatives by {policy} of {domain}", n, n - filled, {"drawn uniformly instead": filled}))
    return steps


def _read(folder: Path, config: str, split: str) -> pl.LazyFrame:
    return pl.scan_parquet(split_files(folder, config)[split])
