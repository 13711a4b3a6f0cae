"""Logs in Parquet to a corpus in Parquet: interactions a second, peak memory, and a row loop beside it.

    python benchmarks/corpus_build.py --toy                             # seconds
    python benchmarks/corpus_build.py                                   # 1, 10 and 100 million interactions; ~15 min
    python benchmarks/corpus_build.py --events 1000000 --json out.json

The log is the simulated marketplace's, copied under other user ids and times as often as needed. Each size is built in
a process of its own with the default recipe (both kinds of document, a downstream domain with frozen candidates,
pseudonymised user ids). The clock runs from the log to the last row on disk; the tokenizer is made before, and the
audit, which reads everything again, is timed apart. Peak memory is the whole process'.

The row loop writes the pre-training documents of the smallest size the way public preprocessing scripts do: pandas
rows one by one into a dictionary per user, a formatted string per row. Its documents must equal ours.

The aims are a million interactions a second on two cores, 50 times the row loop and under 4 GB at 100 million. Seen on
a quiet machine (Xeon, 2.8 GHz):

    interactions   build, s   million/s   peak GB   with the audit   row loop, s
    1 million           3.6         .28        .8               .9            81 (22 times)
    10 million         15.8         .63        .9              1.0           913 (58 times; other work beside the loop)
    100 million       181.5         .55       1.9              2.2

From 1 to 10 million, where over a second of fixed costs weighs, time grew in .35 of n log n's proportion, from there to
100 million as n log n. 10 million took from 14.9 to 15.8 s; the loop alone on the machine would take some 813 (51
times). Of 2.5 us of CPU an interaction, at 1.6 cores, Parquet and its zstd take .5, reading .35, users' order .45, the
hash .18, texts .16: a million a second would need 1.9.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.behaviors.marketplace import MarketplaceConfig, simulate
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.files import config_files, iter_rows

COPY_EVENTS = 1_000_000
"""Most events simulated; larger logs hold copies."""
KEY = "a benchmark's key is no secret"


def make_log(folder: Path, n_events: int) -> None:
    """Write log-*.parquet, in order of time within each file, and items.parquet."""
    per_copy = min(n_events, COPY_EVENTS)
    users = max(round(per_copy / 41), 20)  # 40 events a user, and a tenth as many new users of 10
    world = simulate(MarketplaceConfig(users=users, unseen_users=max(users // 10, 20), items_per_domain=2_000))
    world.items.collect().write_parquet(folder / "items.parquet")
    events = world.interactions.drop("rating").sort("timestamp", "user_id", "item_id").collect()
    for copy in range(math.ceil(n_events / len(events))):
        part = events.head(n_events - copy * len(events)).with_columns(
            user_id=pl.format("{}-{}", "user_id", pl.lit(copy)), timestamp=pl.col("timestamp") + 77 * copy
        )
        part.write_parquet(folder / f"log-{copy:03d}.parquet")


def make_tokenizer(folder: Path) -> Path:
    """A tokenizer of the catalogue, so that training one is in nobody's time."""
    from cprec_hf.corpus.catalogue import read_items, tokenizer_texts
    from cprec_hf.corpus.template import TEMPLATE_VERSION, load_template
    from cprec_hf.corpus.tokenizer import train_tokenizer

    items = read_items(pl.scan_parquet(folder / "items.parquet"))
    train_tokenizer(tokenizer_texts(items, load_template(TEMPLATE_VERSION)), 1024, folder / "tokenizer")
    return folder / "tokenizer"


def recipe(folder: Path, memory_gb: float) -> CorpusConfig:
    """The default recipe on the log in `folder`."""
    source = {
        "kind": "table", "name": "marketplace", "licence": "none", "citation": "none",
        "interactions": str(folder / "log-*.parquet"), "items": str(folder / "items.parquet"),
    }  # fmt: skip
    return CorpusConfig(
        source, str(folder / "corpus"), "bench", str(folder / "tokenizer"), ["Music"], memory_gb=memory_gb
    )


def build(folder: Path, memory_gb: float) -> dict[str, Any]:
    """Build and audit, in this process."""
    import cprec_hf.corpus.build as building

    audit, seconds = building.audit_corpus, {}

    def timed_audit(corpus: Path) -> Any:
        seconds["build"] = time.perf_counter() - began
        seconds["peak_gb_build"] = peak_gb()
        report = audit(corpus)
        seconds["audit"] = time.perf_counter() - began - seconds["build"]
        return report

    building.audit_corpus = timed_audit
    config = recipe(folder, memory_gb)
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(config.tokenizer)  # imports are in nobody's time
    import_module("pandas")  # pyarrow asks whether it is there when it first meets NumPy
    import_module("cprec_hf.hub.cards")
    began = time.perf_counter()
    building.build_corpus(config, overwrite=True)
    return {
        "build_s": seconds["build"], "audit_s": seconds["audit"], "peak_gb_build": seconds["peak_gb_build"],
        "peak_gb": peak_gb(),
    }  # fmt: skip


def peak_gb() -> float:
    """Most memory this process ever held, in 2**30 bytes."""
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def row_loop(folder: Path, facts: dict[str, Any]) -> list[tuple[str, str]]:
    """user_id and text of every pre-training document, an event at a time, written to Parquet; returns them sorted."""
    import pandas as pd

    from cprec_hf.corpus.encoder import Encoder
    from cprec_hf.corpus.load import corpus_tokenizer
    from cprec_hf.corpus.pseudonyms import pseudonymise
    from cprec_hf.corpus.template import load_template

    template, encoder = load_template("1"), Encoder(corpus_tokenizer(folder / "corpus"))
    cut, window = facts["split"]["cuts"]["validation"], facts["template"]["window_tokens"]
    items = pd.read_parquet(folder / "items.parquet")
    titles = {(row["domain"], row["item_id"]): row["title"] for _, row in items.iterrows()}
    n_tokens = {key: int(encoder.segments([f"{title}\n"]).lengths[0]) for key, title in titles.items()}
    headers = {d: int(encoder.documents([template.header(d)]).lengths[0]) for d in (None, *facts["domains"])}
    histories: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for path in sorted(folder.glob("log-*.parquet")):
        for _, row in pd.read_parquet(path).iterrows():
            if row["domain"] != "Music" and row["timestamp"] < cut:
                histories[row["user_id"]].append((row["timestamp"], row["domain"], row["item_id"]))
    rows = []
    for user, history in histories.items():
        (name,) = pseudonymise([user])
        domains = sorted({domain for _, domain, _ in history})
        for shown in [*domains, *([None] if len(domains) > 1 else [])]:
            mine = sorted(event for event in history if shown in (None, event[1]))
            text, used, n = template.header(shown), headers[shown], 0
            for _, domain, item in mine:
                if used + n_tokens[domain, item] > window:
                    if n > 1:
                        rows.append({"user_id": name, "text": text})
                    text, used, n = template.header(shown), headers[shown], 0
                text = f"{text}{titles[domain, item]}\n"
                used, n = used + n_tokens[domain, item], n + 1
            if n > 1:
                rows.append({"user_id": name, "text": text})
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return sorted((row["user_id"], row["text"]) for row in rows)


def compare(folder: Path, n_events: int, build_s: float) -> dict[str, Any]:
    """The row loop on the same log, and whether its documents are ours."""
    began = time.perf_counter()
    slow = row_loop(folder, json.loads((folder / "corpus" / "cprec-corpus.json").read_text(encoding="utf-8")))
    loop_s = time.perf_counter() - began
    files = config_files(folder / "corpus")["cpt"]
    ours = [
        pair
        for paths in files.values()
        for batch in iter_rows(paths, 10_000, ["user_id", "text"])
        for pair in zip(batch["user_id"].to_pylist(), batch["text"].to_pylist(), strict=True)
    ]
    return {
        "events": n_events, "row_loop_s": loop_s, "build_s": build_s, "ratio": loop_s / build_s,
        "documents": len(slow), "equal": sorted(ours) == slow,
    }  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="20,000 interactions, seconds")
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--folder", help="where to work; a temporary folder if not given")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("CPREC_USER_KEY", KEY)
    if given.child:
        print(json.dumps(build(Path(given.child), given.memory_gb)))
        return
    figures: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "sizes": []}
    sizes = [20_000] if given.toy else given.events
    with tempfile.TemporaryDirectory(dir=given.folder) as work:
        for n_events in sizes:
            folder = Path(work) / str(n_events)
            folder.mkdir()
            make_log(folder, n_events)
            make_tokenizer(folder)
            child = [sys.executable, __file__, "--child", str(folder), "--memory-gb", str(given.memory_gb)]
            found = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
            found = {"events": n_events, "events_per_s": n_events / found["build_s"], **found}
            found["corpus_gb"] = sum(p.stat().st_size for p in (folder / "corpus").rglob("*.parquet")) / 2**30
            figures["sizes"].append(found)
            print(f"{n_events:>11,} interactions: {found['build_s']:.1f} s, {found['events_per_s']:,.0f} a second; "
                  f"peak {found['peak_gb_build']:.2f} GB; audit {found['audit_s']:.1f} s, "
                  f"peak {found['peak_gb']:.2f} GB; corpus {found['corpus_gb']:.2f} GB", flush=True)  # fmt: skip
            if n_events == min(sizes):
                figures["row_loop"] = compare(folder, n_events, found["build_s"])
                print("            row loop: {row_loop_s:.1f} s, ratio {ratio:.1f}, {documents:,} documents equal: "
                      "{equal}".format(**figures["row_loop"]), flush=True)  # fmt: skip
            subprocess.run(["rm", "-rf", str(folder)], check=True)
    small, large = figures["sizes"][0], figures["sizes"][-1]
    if large is not small:
        bound = large["events"] * math.log(large["events"]) / (small["events"] * math.log(small["events"]))
        figures["growth_over_n_log_n"] = large["build_s"] / small["build_s"] / bound
        print(f"time grew {figures['growth_over_n_log_n']:.2f} times as fast as n log n")
    if given.json:
        Path(given.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if not figures["row_loop"]["equal"]:
        raise SystemExit("the two ways differ")


if __name__ == "__main__":
    main()
