"""ranking_at_k against a loop over users with the same definitions: `python benchmarks/metrics.py [--toy]`.

20,000 users of 20 candidates, one relevant each, no scores tied (the loop knows no ties, and must agree). Prints both
times in CPU seconds (best of three), so that a loaded machine does not distort them, and their ratio. Measured when
written, on one core: 0.098 s against 0.584 s, ratio 6.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k

KS = [1, 5, 10]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="200 users, to see that it runs")
    users = 200 if parser.parse_args().toy else 20_000
    rng = np.random.default_rng(0)
    scores = rng.random((users, 20))
    relevance = np.zeros((users, 20))
    relevance[np.arange(users), rng.integers(0, 20, users)] = 1
    ours, vectorised = best_of_three(lambda: ranking_at_k(scores, relevance, KS))
    loop, looped = best_of_three(lambda: by_loop(scores.tolist(), relevance.tolist()))
    gap = max(float(np.abs(vectorised[name] - np.array(values)).max()) for name, values in looped.items())
    assert sorted(vectorised) == sorted(looped) and gap < 1e-9, f"the two differ by {gap}"
    print(f"{users:,} users x 20 candidates, k = {KS}: vectorised {ours:.3f} s, loop over users {loop:.3f} s")
    print(f"ratio {loop / ours:.1f}; largest difference {gap:.1e}")


def by_loop(scores: list[list[float]], relevance: list[list[float]]) -> dict[str, list[float]]:
    """What evaluation scripts usually do: sort each user's candidates, then walk down the list."""
    values: dict[str, list[float]] = {f"{m}@{k}": [] for k in KS for m in ("hr", "ndcg", "mrr", "recall")}
    for s, r in zip(scores, relevance, strict=True):
        gains = [r[i] for i in sorted(range(len(s)), key=lambda i: -s[i])]
        for k in KS:
            hits = [i for i, gain in enumerate(gains[:k]) if gain > 0]
            ideal = sum(gain / math.log2(i + 2) for i, gain in enumerate(sorted(r, reverse=True)[:k]))
            values[f"hr@{k}"].append(float(bool(hits)))
            values[f"ndcg@{k}"].append(sum(gain / math.log2(i + 2) for i, gain in enumerate(gains[:k])) / ideal)
            values[f"mrr@{k}"].append(1 / (hits[0] + 1) if hits else 0.0)
            values[f"recall@{k}"].append(len(hits) / sum(gain > 0 for gain in r))
    return values


def best_of_three(work: Callable[[], T]) -> tuple[float, T]:
    times = []
    for _ in range(3):
        start = time.process_time()
        result = work()
        times.append(time.process_time() - start)
    return min(times), result


if __name__ == "__main__":
    main()
