"""The metric modules' array functions against a loop over users and against ranx, on the same lists in the same run.

    python benchmarks/metrics.py                    # a million lists of 100 items, minutes; needs the dev extra (ranx)
    python benchmarks/metrics.py --json figures.json
    python benchmarks/metrics.py --toy              # seconds; only checks that all agree

ranking_at_k gives hr, recall, precision, ndcg, mrr and map at 1, 5 and 10 of scores that are not sorted. The loop does
what evaluation scripts do, on the first lists of each block, and its time is scaled to all. ranx takes lists that are
sorted already: its time is given without and with that sorting, which NumPy does for it, and with all its threads. It
compiles before the clock starts. No scores are tied, since neither of the two knows ties. The sides take turns, block
by block. Times are wall and CPU seconds; others at work on the machine distort them. `compute` is what `evaluate` adds
around the function, and is given apart.

Measured on two cores with OMP_NUM_THREADS=1 and real-time priority, CPU seconds for a million lists of 100:

    relevant   ours    loop   ranx, its sorting
    1          0.59   33.2    13.6, 5.0            the loop takes 56 times as long, ranx 22 with its sorting, 13 without
    10         1.66   49.5    19.8, 6.7            30, 11, 7

Other hours gave 47 to 56 and 26 to 30 times. Coverage, Gini, novelty and diversity of as many lists, with 64 numbers
an item: 10.6 s, and 13 times that for a loop that leaves each user's pairs to NumPy (35 with two BLAS threads, which
cost the loop's small products time and gain it none). `compute` adds 64 us a list.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import evaluate
import numpy as np

from cprec_hf.files import atomic_file
from cprec_hf.metrics.beyond_accuracy.beyond_accuracy import coverage, gini, intra_list_diversity, novelty
from cprec_hf.metrics.ranking_at_k import ranking_at_k as module
from cprec_hf.metrics.ranking_at_k.ranking_at_k import METRICS, ranking_at_k

KS = [1, 5, 10]
RANX = {"hr": "hit_rate"}  # its names, where they are not ours
T = TypeVar("T")


class Clock:
    """Wall and CPU seconds of one side, summed."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def time(self, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu
        return result

    def scaled(self, by: float) -> Clock:
        other = Clock()
        other.wall, other.cpu = self.wall * by, self.cpu * by
        return other


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="few lists, to see that it runs and all agree")
    parser.add_argument("--lists", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100, help="of a list")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    args = parser.parse_args(argv)
    if args.toy:
        os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # compiling takes longer than all the rest
        args.lists, args.items = 200, 30
    figures: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    figures |= {"lists": args.lists, "items": args.items, "toy": args.toy}
    if args.toy:
        print("a toy: only that the sides agree means anything here, and ranx is not compiled")
    figures["ranking_at_k"] = [ranking(args, relevant) for relevant in (1, 10)]
    figures["beyond_accuracy"] = beyond(args)
    figures["compute"] = overhead(args)
    if args.json:
        with atomic_file(args.json) as path:
            Path(path).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def ranking(args: argparse.Namespace, relevant: int) -> dict[str, Any]:
    """Lists with so many relevant items: this module, a loop, ranx."""
    import ranx

    names = {f"{metric}@{k}": f"{RANX.get(metric, metric)}@{k}" for metric in METRICS for k in KS}
    clocks = {side: Clock() for side in ("ours", "loop", "ranx", "sorting for ranx")}
    rng = np.random.default_rng(relevant)
    block = min(100_000, args.lists)
    looped, gaps = 0, {"loop": 0.0, "ranx": 0.0}
    for turn in range(args.lists // block):
        scores = rng.random((block, args.items))
        targets = rng.random((block, args.items)).argpartition(relevant, axis=1)[:, :relevant]
        relevance = np.zeros(scores.shape, np.int8)
        np.put_along_axis(relevance, targets, 1, axis=1)
        qrels = np.stack([targets, np.ones_like(targets)], axis=2).astype(np.float64)
        if turn == 0:  # ranx compiles
            ranx.evaluate(qrels[:100], _sorted(scores[:100]), list(names.values()))
            ranking_at_k(scores, relevance, KS)
        ours = clocks["ours"].time(lambda s=scores, r=relevance: ranking_at_k(s, r, KS))
        run = clocks["sorting for ranx"].time(lambda s=scores: _sorted(s))
        theirs = clocks["ranx"].time(
            lambda q=qrels, r=run: ranx.evaluate(q, r, list(names.values()), return_mean=False)
        )
        few = min(1_000, block)
        rows = scores[:few].tolist(), relevance[:few].tolist()
        loop = clocks["loop"].time(lambda r=rows: by_loop(*r))
        looped += few
        gaps["ranx"] = max(gaps["ranx"], *(float(np.abs(ours[a] - theirs[b]).max()) for a, b in names.items()))
        gaps["loop"] = max(gaps["loop"], *(float(np.abs(ours[a][:few] - loop[a]).max()) for a in names))
    done = args.lists // block * block
    assert max(gaps.values()) < 1e-9, f"they differ: {gaps}"
    clocks = {side: clock.scaled(args.lists / (looped if side == "loop" else done)) for side, clock in clocks.items()}
    ours, both = clocks["ours"], clocks["ranx"].wall + clocks["sorting for ranx"].wall
    found = {
        "relevant": relevant,
        "seconds": {side: {"wall": clock.wall, "cpu": clock.cpu} for side, clock in clocks.items()},
        "loop_over_ours": {"wall": clocks["loop"].wall / ours.wall, "cpu": clocks["loop"].cpu / ours.cpu},
        "ranx_over_ours": {"wall": clocks["ranx"].wall / ours.wall, "cpu": clocks["ranx"].cpu / ours.cpu},
        "ranx_and_sorting_over_ours": {"wall": both / ours.wall},
        "loop_measured_on": looped,
        "largest_difference": gaps,
    }
    print(f"{args.lists:,} lists of {args.items}, {relevant} relevant: wall (CPU) seconds")
    for side, clock in clocks.items():
        print(f"  {side:<18} {clock.wall:9.2f} ({clock.cpu:.2f})")
    print(
        f"  loop / ours {found['loop_over_ours']['cpu']:.0f} in CPU time; ranx / ours {both / ours.wall:.1f} with "
        f"sorting, {found['ranx_over_ours']['wall']:.1f} without; largest difference {max(gaps.values()):.0e}"
    )
    return found


def beyond(args: argparse.Namespace) -> dict[str, Any]:
    """Coverage, Gini, novelty and intra-list diversity of lists of a catalogue of 10,000 items, against a loop."""
    rng, n = np.random.default_rng(0), 10_000
    vectors, popularity = rng.normal(size=(n, 64)), rng.integers(1, 1000, n)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    bits = -np.log2((popularity + 1) / (popularity + 1).sum())
    lists = rng.integers(0, n, (args.lists, args.items), np.int32)
    few = min(1_000, args.lists)

    def ours() -> tuple[Any, ...]:
        return coverage(lists, n), gini(lists, n), novelty(lists, popularity), intra_list_diversity(lists, vectors)

    def loop() -> list[tuple[float, float]]:
        shown: dict[int, int] = {}
        values = []
        for one in lists[:few].tolist():
            for item in one:
                shown[item] = shown.get(item, 0) + 1
            mine = units[one]  # NumPy for each user: pairs in plain Python would take a thousand times as long
            pairs = (mine @ mine.T).sum() - len(one)
            values.append((sum(bits[i] for i in one) / len(one), 1 - pairs / (len(one) * (len(one) - 1))))
        return values

    fast, slow = Clock(), Clock()
    got, expected = fast.time(ours), np.array(slow.time(loop))
    gap = float(np.abs(np.stack(got[2:], axis=1)[:few] - expected).max())
    assert gap < 1e-9, f"they differ by {gap}"
    slow = slow.scaled(args.lists / few)
    print(
        f"beyond_accuracy, {args.lists:,} lists of {args.items}: {fast.wall:.2f} s, loop over users {slow.wall:.2f} s, "
        f"ratio {slow.cpu / fast.cpu:.0f} in CPU time"
    )
    return {
        "seconds": {"ours": {"wall": fast.wall, "cpu": fast.cpu}, "loop": {"wall": slow.wall, "cpu": slow.cpu}},
        "loop_over_ours": {"cpu": slow.cpu / fast.cpu},
        "loop_measured_on": few,
        "largest_difference": gap,
    }


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """What `evaluate` spends around the function, for each list."""
    rows = min(20_000, args.lists)
    rng = np.random.default_rng(0)
    scores, relevance = rng.random((rows, args.items)), np.eye(args.items)[rng.integers(0, args.items, rows)]
    metric = evaluate.load(str(Path(module.__file__).parent))
    alone, through = Clock(), Clock()
    alone.time(lambda: ranking_at_k(scores, relevance, KS))
    through.time(lambda: metric.compute(predictions=scores, references=relevance, k=KS))
    each = {side: clock.cpu / rows * 1e6 for side, clock in (("function", alone), ("compute", through))}
    print(f"a list through the function: {each['function']:.1f} us, through compute: {each['compute']:.1f} us")
    return {"lists": rows, "microseconds_a_list": each}


def by_loop(scores: list[list[float]], relevance: list[list[int]]) -> dict[str, list[float]]:
    """What evaluation scripts usually do: sort each user's candidates, then walk down the list."""
    values: dict[str, list[float]] = {f"{m}@{k}": [] for k in KS for m in METRICS}
    for s, r in zip(scores, relevance, strict=True):
        gains = [r[i] for i in sorted(range(len(s)), key=lambda i: -s[i])]
        total = sum(r)
        for k in KS:
            hits = [i for i, gain in enumerate(gains[:k]) if gain > 0]
            ideal = sum(1 / math.log2(i + 2) for i in range(min(k, total)))
            values[f"hr@{k}"].append(float(bool(hits)))
            values[f"recall@{k}"].append(len(hits) / total)
            values[f"precision@{k}"].append(len(hits) / k)
            values[f"ndcg@{k}"].append(sum(1 / math.log2(i + 2) for i in hits) / ideal)
            values[f"mrr@{k}"].append(1 / (hits[0] + 1) if hits else 0.0)
            values[f"map@{k}"].append(sum((n + 1) / (i + 1) for n, i in enumerate(hits)) / total)
    return values


def _sorted(scores: np.ndarray) -> np.ndarray:
    """What ranx takes: items and scores by falling score [rows, items, 2]."""
    order = np.argsort(-scores, axis=1)
    return np.stack([order, np.take_along_axis(scores, order, 1)], axis=2)


if __name__ == "__main__":
    main()
