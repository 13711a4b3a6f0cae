"""Marketplace logs to pre-training documents: the columnar function against a loop over rows.

    python benchmarks/corpus_build.py --toy        # 2,000 users, seconds
    python benchmarks/corpus_build.py --users 100000

Prints events, seconds of each, their ratio, and whether the documents are equal; then the seconds of a whole corpus,
audit included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from cprec_hf.behaviors.marketplace import MarketplaceConfig, simulate
from cprec_hf.corpus.build import build_from
from cprec_hf.corpus.config import CorpusConfig, TokenizerConfig
from cprec_hf.corpus.sequences import EVENTS, SequencePlan, cpt_sequences
from cprec_hf.corpus.template import load_template
from cprec_hf.corpus.write import user_shards


def read_events(config: MarketplaceConfig) -> pl.DataFrame:
    """Events with the titles' words counted as their tokens: the same input for both ways."""
    world = simulate(config)
    items = world.items.select(
        "domain", "item_id", "title", tokens=pl.col("title").str.count_matches(" ").cast(pl.Int32) + 2
    )
    rows = world.interactions.with_columns(clock="timestamp").join(items, on=["domain", "item_id"])
    return rows.sort("user_id").select(EVENTS.names).collect()


def columnar(events: pl.DataFrame, plan: SequencePlan) -> pa.Table:
    """As the build does it: shard by shard of whole users."""
    return pa.concat_tables([cpt_sequences(shard.to_arrow(), plan) for shard in user_shards(events)])


def row_loop(events: pl.DataFrame, plan: SequencePlan) -> list[dict[str, Any]]:
    """The same documents from dictionaries of lists, an event at a time."""
    template = load_template(plan.template_version)
    histories: dict[tuple[str, str, str | None], list[dict[str, Any]]] = defaultdict(list)
    for event in events.iter_rows(named=True):
        histories[event["user_id"], "domain", event["domain"]].append(event)
        histories[event["user_id"], "mixed", None].append(event)
    documents = []
    for (user, kind, domain), history in sorted(histories.items(), key=lambda pair: (pair[0][:2], pair[0][2] or "")):
        if kind == "mixed" and len({event["domain"] for event in history}) < 2:
            continue
        history.sort(
            key=lambda e: (e["timestamp"], e["item_id"]) if domain else (e["clock"], e["domain"], e["item_id"])
        )
        windows: list[list[dict[str, Any]]] = [[]]
        used = plan.header_tokens[domain]
        for event in history:
            if used + event["tokens"] > plan.window_tokens:
                windows.append([])
                used = plan.header_tokens[domain]
            windows[-1].append(event)
            used += event["tokens"]
        for window in windows:
            if len(window) >= 2:
                text = template.prompt(domain, [event["title"] for event in window])
                documents.append({"user_id": user, "text": text, "item_ids": [event["item_id"] for event in window]})
    return documents


def best_of_three(way: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """The least seconds of three runs, and what the last one gave."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        result = way(*given)
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="2,000 users, seconds")
    parser.add_argument("--users", type=int, default=20_000)
    users = 2_000 if parser.parse_args().toy else parser.parse_args().users
    world = MarketplaceConfig(users=users, unseen_users=users // 4)
    events = read_events(world)
    headers = dict.fromkeys([None, *events["domain"].unique()], 10)
    plan = SequencePlan("1", ("domain", "all_domain"), 128, headers, times_known=True)
    fast, table = best_of_three(columnar, events, plan)
    slow, documents = best_of_three(row_loop, events, plan)
    equal = table.select(["user_id", "text", "item_ids"]).to_pylist() == documents
    print(f"{len(events):,} events, {table.num_rows:,} documents: columnar {fast:.2f} s, row loop {slow:.2f} s, "
          f"ratio {slow / fast:.1f}, documents equal: {equal}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = CorpusConfig({"kind": "marketplace"}, f"{folder}/out", "bench", TokenizerConfig(1024), ["Music"])
        began = time.perf_counter()
        build_from(simulate(world), config)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    seconds = time.perf_counter() - began
    print(f"whole corpus, simulated and audited: {seconds:.1f} s, {size / 1e6:.1f} MB of Parquet")
    if not equal:
        raise SystemExit("the two ways differ")


if __name__ == "__main__":
    main()
