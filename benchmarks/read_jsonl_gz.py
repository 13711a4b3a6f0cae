"""Amazon-2023-shaped `.jsonl.gz` files into the columns that are needed, against decompressing them and no more.

    python benchmarks/read_jsonl_gz.py --toy       # 4,000 reviews, seconds
    python benchmarks/read_jsonl_gz.py             # 160,000 reviews in two files, about 100 MB of text

All sides run in one process. Reading takes user, item, time and rating of every line and skips the long texts. Two
baselines decompress the same files and throw the bytes away: one with Python's `gzip` (zlib, what a reader has without
looking further), and a stricter one with the reader's own decompressor, file object and block size (ISA-L, the fastest
of those tried).

Per core: the process is pinned to one core and Polars to one thread (`POLARS_MAX_THREADS=1`), rounds alternate, and the
best of five counts; CPU seconds, since a neighbour's load is not ours. Beside it, on two cores, wall seconds of reading
with decompression in a thread of its own. Exits non-zero if a value differs from those of a `json.loads` loop.

The aim is .7 per core. It is met against Python's `gzip` and missed against ISA-L, about .35: there decompression
runs at 540 MB/s, and Polars' JSON parser, which looks at every byte of the fields it skips, takes 300 to 400 MB/s for
itself.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS = ["user_id", "parent_asin", "timestamp", "rating"]
ROUNDS = 5
VOCABULARY = 30_000


def write_reviews(path: Path, rows: int, seed: int) -> int:
    """A file of reviews with the published keys in their order, texts of 55 words in the mean; returns its bytes."""
    import numpy as np
    import polars as pl

    draw = np.random.default_rng(seed)
    letters = draw.choice(list("etaoinshrdlucmfwypvbgk"), (VOCABULARY, 12))
    lengths = draw.integers(2, 11, VOCABULARY)
    words = np.array(["".join(row[:n]) for row, n in zip(letters, lengths, strict=True)])
    words[::50] = ['caf\\u00e9 &amp; \\"so\\"<br />'] * len(words[::50])
    weights = 1 / np.arange(1, VOCABULARY + 1)
    sizes = np.minimum(draw.lognormal(3.5, 1.0, rows).astype(int) + 1, 2_000)

    def texts(sizes: Any) -> pl.Series:
        chosen = words[np.searchsorted(np.cumsum(weights / weights.sum()), draw.random(sizes.sum()))]
        table = pl.DataFrame({"row": np.repeat(np.arange(rows), sizes), "word": chosen})
        return table.group_by("row", maintain_order=True).agg(pl.col("word").str.join(" "))["word"]

    def ids(prefix: str, n: int, digits: int) -> list[str]:
        return [f"{prefix}{code:0{digits}X}" for code in draw.integers(0, n, rows).tolist()]

    image = '[{{"small_image_url": "https://images/I/{}.jpg", "attachment_type": "IMAGE"}}]'
    columns = {
        "rating": draw.integers(1, 6, rows), "title": texts(np.full(rows, 4)), "text": texts(sizes),
        "image": ids("7", 2**40, 10), "asin": ids("B0", 10**6, 8), "parent": ids("B0", 10**5, 8),
        "user": ids("A", rows // 5, 27), "time": draw.integers(14 * 10**11, 17 * 10**11, rows),
        "votes": draw.poisson(0.8, rows), "verified": draw.random(rows) < 0.9,
    }  # fmt: skip
    line = (
        '{{"rating": {}.0, "title": "{}", "text": "{}", "images": {}, "asin": "{}", "parent_asin": "{}", '
        '"user_id": "{}", "timestamp": {}, "helpful_vote": {}, "verified_purchase": {}}}'
    )
    images = pl.when(pl.int_range(pl.len()) % 16 == 0).then(pl.format(image, "image")).otherwise(pl.lit("[]"))
    given = ["rating", "title", "text", images, "asin", "parent", "user", "time", "votes", "verified"]
    lines = pl.DataFrame(columns).select(pl.format(line, *given))
    content = "\n".join(lines.to_series()).encode() + b"\n"
    path.write_bytes(gzip.compress(content, 6))
    return len(content)


def read(paths: list[Path]) -> Any:
    """The columns, as the readers of `cprec_hf` get them."""
    import polars as pl

    from cprec_hf.behaviors.sources.json_lines import scan_json_lines

    return pl.concat([scan_json_lines(path, COLUMNS).select(COLUMNS) for path in paths]).collect(engine="streaming")


def decompress(paths: list[Path]) -> int:
    """The same bytes through the same file objects, thrown away."""
    from cprec_hf.behaviors.sources.json_lines import BLOCK_BYTES, open_bytes

    seen = 0
    for path in paths:
        with open_bytes(path) as file:
            while block := file.read(BLOCK_BYTES):
                seen += len(block)
    return seen


def decompress_with_gzip(paths: list[Path]) -> int:
    """The same bytes through Python's `gzip`, thrown away."""
    from cprec_hf.behaviors.sources.json_lines import BLOCK_BYTES

    seen = 0
    for path in paths:
        with gzip.open(path) as file:
            while block := file.read(BLOCK_BYTES):
                seen += len(block)
    return seen


def loop(paths: list[Path]) -> list[tuple[Any, ...]]:
    """The same values by `json.loads`, a line at a time."""
    rows = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows += [tuple(json.loads(line)[name] for name in COLUMNS) for line in lines]
    return rows


def measure(paths: list[Path], clock: Callable[[], float]) -> dict[str, float]:
    """Least seconds of each side by `clock`, rounds alternating."""
    sides = {"gzip": decompress_with_gzip, "decompress": decompress, "read": read}
    least = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for name, side in sides.items():
            began = clock()
            side(paths)
            least[name] = min(least[name], clock() - began)
    return least


def in_a_process(paths: list[Path], threads: int) -> dict[str, float]:
    """`measure` where Polars has this many threads and the process as many cores."""
    environment = os.environ | {"POLARS_MAX_THREADS": str(threads)}
    command = [sys.executable, __file__, "--measure", str(threads), *map(str, paths)]
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="4,000 reviews, seconds")
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        if hasattr(os, "sched_setaffinity"):  # without it (macOS), one thread is all there is to hold to
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.measure])
        clock = time.process_time if args.measure == 1 else time.perf_counter
        print(json.dumps(measure(args.paths, clock)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.jsonl.gz" for name in ("Books", "Electronics")]
        rows = 4_000 if args.toy else args.rows
        size = sum(write_reviews(path, rows // 2, seed) for seed, path in enumerate(paths))
        small = Path(folder) / "small.jsonl.gz"
        write_reviews(small, 1_000, 9)
        found = read([small])
        expected = [tuple(map(str, (u, i, t, int(r)))) for u, i, t, r in loop([small])]
        equal = found.rows() == expected
        packed = sum(path.stat().st_size for path in paths)
        print(f"{rows:,} reviews, {size / 1e6:.1f} MB of text in {packed / 1e6:.1f} MB; values equal: {equal}")
        one = in_a_process(paths, 1)
        print(
            f"one core: read into columns {size / one['read'] / 1e6:.0f} MB/s; decompress and discard with gzip "
            f"{size / one['gzip'] / 1e6:.0f} MB/s: {one['gzip'] / one['read']:.2f} of the speed; with ISA-L "
            f"{size / one['decompress'] / 1e6:.0f} MB/s: {one['decompress'] / one['read']:.2f} of the speed; "
            f"{one['read'] - one['decompress']:.3f} of {one['read']:.3f} CPU seconds go to finding and parsing lines"
        )
        if len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) > 1:
            two = in_a_process(paths, 2)
            print(
                f"two cores, overlapped: decompress {size / two['decompress'] / 1e6:.0f} MB/s, read into columns "
                f"{size / two['read'] / 1e6:.0f} MB/s: {two['decompress'] / two['read']:.2f} (wall)"
            )
    if not equal:
        raise SystemExit("the values differ from those of a json.loads loop")


if __name__ == "__main__":
    main()
