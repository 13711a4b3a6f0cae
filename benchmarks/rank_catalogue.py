"""How fast a whole catalogue is ranked: exactly, and as a search that proves its top 10, against what peers do.

    python benchmarks/rank_catalogue.py                        # 12,000 synthetic titles, a model trained for a minute
    python benchmarks/rank_catalogue.py --items 100000 --users 4
    python benchmarks/rank_catalogue.py --titles items.parquet # real ones: columns item_id, domain, title
    python benchmarks/rank_catalogue.py --device cuda --dtype bfloat16 --shape qwen3-0.6b --json figures.json
    python benchmarks/rank_catalogue.py --toy                  # seconds; only checks

Exact: every title's log-probability, `score_catalogue` against each title in a batch on copies of the cached prefix.
They must agree to 2e-5 nats a token in float32.

Top 10: `top_rows` against transformers' beam search of 50 beams (scores summed, not averaged, so that both rank by the
same number) with a logits processor of the kind public projects use, which looks each beam up in a dictionary of
prefixes, in Python. What is missed is judged by the exact log-probabilities. Handling masks, which keeps what is read
and found inside the catalogue: of `generate`, the time inside the processor, which grows with the vocabulary
(`--shape qwen3-3x128-32k`); of ours, looking up the children of nodes and building the tree's attention masks. Neither
side counts choosing what to go on with (beam search's beams, our open nodes) or the model's forward passes, head and
softmax; what our steps spend outside the model in all stands beside. By step, all users at once, the best of
`--rounds`.

Memory: the peak of a process that only scores the catalogue exactly, at two settings of `max_batch_tokens`.

A random model is sure of nothing, so the model is first trained, on histories whose users each have a taste and take
mostly its few popular titles. Users for whom the search proves nothing get their top 10 from all titles, as
`Recommender` does, and that counts in our time. In another type than float32 all checks are made in float32 first, and
what is timed is only reported.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rank_candidates import (
    END,
    SHAPES,
    TOLERANCE,
    Work,
    agree,
    arguments,
    cached_copies,
    environment,
    finish,
    make_model,
    real_titles,
    synchronize,
    take_turns,
    zipf_titles,
)

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.ranking.reader import Reader
from cprec_hf.ranking.scoring import score_catalogue
from cprec_hf.ranking.search import MAX_NODES, TopRows, _Search, top_rows
from cprec_hf.ranking.trie import Trie

K, BEAMS = 10, 50
BLOCK, BATCH = 256, 8


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print and return the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-3x128", help="of the model")
    parser.add_argument("--items", type=int, default=12_000, help="synthetic titles")
    parser.add_argument("--titles", metavar="PARQUET", help="real titles instead")
    parser.add_argument("--domain", help="of the real titles; by default all")
    parser.add_argument("--history", type=int, default=240, help="tokens of a history")
    parser.add_argument("--users", type=int, default=21, help="who get a top 10; 21 is what the search reads at once")
    parser.add_argument("--exact-users", type=int, default=2, help="for whom every title is scored both ways")
    parser.add_argument("--steps", type=int, default=400, help="of training, 2,048 tokens each")
    parser.add_argument("--max-nodes", type=int, default=MAX_NODES)
    parser.add_argument("--memory", type=int, nargs="*", default=[1024, 4096], help="settings of max_batch_tokens")
    parser.add_argument("--memory-users", type=int, default=8)
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)  # what the process that is measured runs
    args = parser.parse_args(argv)
    if args.toy:
        args.shape, args.items, args.history, args.rounds, args.steps = "toy", 200, 40, 1, 20
        args.users, args.exact_users, args.memory, args.memory_users = 4, 2, [256], 2
    codes = catalogue(args)
    if args.memory_of is not None:
        print(json.dumps(peak_memory(args, codes)))
        return {}
    trie = Trie.of(codes)
    figures = environment(args) | {"items": len(codes), "nodes": len(trie), "longest": int(codes.lengths.max())}
    figures["leaves"] = int(np.count_nonzero(trie.n_children == 0))
    print(
        f"{len(codes):,} titles of {codes.lengths.mean():.1f} tokens; {len(trie):,} nodes, "
        f"{len(trie) / len(codes):.1f} a title, {figures['leaves']:,} of them leaves"
    )
    figures["memory"] = [memory_of(setting, sys.argv[1:] if argv is None else argv) for setting in args.memory]
    show_memory(figures["memory"])
    shopper = Shopper(len(codes))
    args.dtype, dtype = "float32", args.dtype
    model = make_model(args)
    args.dtype = dtype
    figures["training"] = train(model, codes, shopper, args)
    prefixes = histories(codes, shopper, args)
    if dtype != "float32":
        args.rounds, rounds = 1, args.rounds
        print("\nIn float32, for the checks:")
        figures["checks"] = measure(model, prefixes, codes, trie, args)
        args.rounds = rounds
        model.to(getattr(torch, dtype))
    figures |= measure(model, prefixes, codes, trie, args)
    finish(figures, args)
    return figures


def measure(model: Any, prefixes: Ragged, codes: Ragged, trie: Trie, args: argparse.Namespace) -> dict[str, Any]:
    """Both comparisons; `SystemExit` where a float32 model fails a check."""
    return {
        "exact": exact(model, prefixes.take(np.arange(args.exact_users)), codes, trie, args),
        "top": top(model, prefixes, codes, trie, args),
    }


# Titles, histories, and a model that knows them.


def catalogue(args: argparse.Namespace) -> Ragged:
    """Distinct titles as token ids, each ending in `END`."""
    vocab_size = SHAPES[args.shape].vocab_size
    if args.titles is None:
        return zipf_titles(args.items, vocab_size)
    _, titles = real_titles(Path(args.titles), args.domain, vocab_size)
    return Ragged.from_lists(sorted({tuple(titles.row(row).tolist()) for row in range(len(titles))}))


class Shopper:
    """Which items users take, one after another: mostly of their taste, one of 20, where few titles are popular."""

    def __init__(self, n_items: int) -> None:
        self.tastes = np.array_split(np.random.default_rng(1).permutation(n_items), 20)

    def items(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The items of one user, repeats allowed, int64 [n]; the r-th of a taste or a later one: r ** -0.7 of them."""
        tastes = np.where(rng.random(n) < 0.8, rng.integers(len(self.tastes)), rng.integers(len(self.tastes), size=n))
        begins = np.cumsum([0, *map(len, self.tastes)])
        sizes = np.diff(begins)[tastes]
        rank = np.minimum((1 - rng.random(n)) ** (-1 / 0.7), 1e9).astype(np.int64) - 1
        return np.concatenate(self.tastes)[begins[tastes] + rank % sizes]


def histories(codes: Ragged, shopper: Shopper, args: argparse.Namespace) -> Ragged:
    """Prompts of new users: token 0, then as many whole titles as fit."""
    rng, rows = np.random.default_rng(2), []
    for _ in range(args.users):
        lines = codes.take(shopper.items(rng, args.history))
        fit = int(np.searchsorted(lines.offsets, args.history - 1, side="right")) - 1
        rows.append([0, *lines.values[: lines.offsets[fit]].tolist()])
    return Ragged.from_lists(rows)


def train(model: Any, codes: Ragged, shopper: Shopper, args: argparse.Namespace) -> dict[str, Any]:
    """Plain next-token training on histories, AdamW with a linear warm-up and decay."""
    rng, began = np.random.default_rng(3), time.perf_counter()
    rate = 3e-3 * min(1.0, 128 / model.config.hidden_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20, (args.steps - step) / (0.3 * args.steps))
    )
    model.train()
    loss = torch.zeros(())
    for _ in range(args.steps):
        rows = [codes.take(shopper.items(rng, BLOCK // 4)).values for _ in range(BATCH)]
        ids = np.zeros((BATCH, BLOCK), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, 1:] = np.resize(row, BLOCK - 1)
        batch = torch.from_numpy(ids).to(model.device)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    found = {"steps": args.steps, "tokens": args.steps * BATCH * BLOCK, "nats_per_token": float(loss.detach())}
    found["seconds"] = time.perf_counter() - began
    print(
        f"trained on {found['tokens']:,} tokens in {found['seconds']:.0f} s to {found['nats_per_token']:.2f} nats each"
    )
    return found


# Every title, both ways.


def exact(model: Any, prefixes: Ragged, codes: Ragged, trie: Trie, args: argparse.Namespace) -> dict[str, Any]:
    """`score_catalogue` against the cached prefix copied to every title."""
    n = len(codes)
    which = np.tile(np.argsort(-codes.lengths, kind="stable"), len(prefixes))  # longest first, so that little is padded
    work = Work("whole catalogue", prefixes, codes.take(which), np.repeat(np.arange(len(prefixes)), n))

    @torch.inference_mode()
    def copied() -> np.ndarray:
        scores = np.empty((len(prefixes), n), dtype=np.float32)
        scores[work.owners, which] = cached_copies(model, work)
        return scores

    ways = {"cached prefix, copied": copied, "cprec_hf": lambda: score_catalogue(model, prefixes, trie)}
    best, scores = take_turns(ways, args)
    most = 2e-5 * float(codes.lengths.max())  # of 12,000 sums the worst, from the large logits of a trained model
    difference = agree(scores, "exact", strict=model.dtype == torch.float32, tolerance=most)
    tokens = {
        "cached prefix, copied": int(prefixes.lengths.sum()) + len(prefixes) * int((codes.lengths - 1).sum()),
        "cprec_hf": int(prefixes.lengths.sum()) + len(prefixes) * int(np.count_nonzero(trie.n_children) - 1),
    }
    (wall, cpu), (our_wall, our_cpu) = best.values()
    found = {
        "users": len(prefixes), "largest_difference": difference, "times_as_fast": wall / our_wall,
        "times_as_fast_cpu": cpu / our_cpu, "ideal": tokens["cached prefix, copied"] / tokens["cprec_hf"],
        "ways": [
            {"way": way, "seconds": best[way][0], "cpu_seconds": best[way][1], "tokens": tokens[way]} for way in ways
        ],
    }  # fmt: skip
    print(f"\nEvery title, {len(prefixes)} users, largest difference {difference:.1e} nats\n")
    print("| way | seconds a user | CPU seconds a user | tokens a second |\n|---|---|---|---|")
    for way in found["ways"]:
        print(
            f"| {way['way']} | {way['seconds'] / len(prefixes):.2f} | {way['cpu_seconds'] / len(prefixes):.2f} | "
            f"{way['tokens'] / way['seconds']:,.0f} |"
        )
    print(
        f"\n{found['times_as_fast']:.1f} times as fast ({found['times_as_fast_cpu']:.1f} by CPU time); "
        f"by tokens alone {found['ideal']:.1f}", flush=True
    )  # fmt: skip
    return found


# The top 10, both ways.


class DictionaryTrie(transformers.LogitsProcessor):
    """Only what goes on to a title: each beam looked up in a dictionary, one after another, as public projects do.

    Args:
        codes: the titles.
        beams: beams a user.
        prompt: columns before the answer.
        device: of the timings.
    """

    def __init__(self, codes: Ragged, beams: int, prompt: int, device: str) -> None:
        allowed: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for row in np.split(codes.values, codes.offsets[1:-1]):
            title = tuple(row.tolist())
            for length in range(len(title)):
                allowed[title[:length]].add(title[length])
        self.allowed = {prefix: sorted(tokens) for prefix, tokens in allowed.items()}
        self.beams, self.prompt, self.device = beams, prompt, device
        self.seconds: list[float] | None = None  # of each step, where a list is put here

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [users * beams, vocabulary] without what leads nowhere."""
        if self.seconds is None:
            return self._masked(input_ids, scores)
        synchronize(self.device)
        began = time.perf_counter()
        found = self._masked(input_ids, scores)
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - began)
        return found

    def _masked(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        mask = torch.full_like(scores, -math.inf)
        for user, beams in enumerate(input_ids.view(-1, self.beams, input_ids.shape[-1])):
            for beam, row in enumerate(beams):
                allowed = self.allowed.get(tuple(row[self.prompt :].tolist()), [END])
                mask[user * self.beams + beam, allowed] = 0
        return scores + mask


def beam_search(model: Any, prefixes: Ragged, codes: Ragged, processor: DictionaryTrie) -> list[list[tuple[int, ...]]]:
    """What 50 beams write, best first, 10 answers a user."""
    past = processor.prompt
    real = np.arange(past) >= (past - prefixes.lengths)[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    ids[real] = prefixes.values
    out = model.generate(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=torch.from_numpy(real.astype(np.int64)).to(model.device), num_beams=BEAMS,
        num_return_sequences=K, do_sample=False, max_new_tokens=int(codes.lengths.max()),
        length_penalty=0.0, eos_token_id=END, pad_token_id=0,
        logits_processor=transformers.LogitsProcessorList([processor]),
    )  # fmt: skip
    answers = [tuple(row) for row in out[:, past:].tolist()]
    answers = [row[: row.index(END) + 1] if END in row else row for row in answers]
    return [answers[begin : begin + K] for begin in range(0, len(answers), K)]


def top(model: Any, prefixes: Ragged, codes: Ragged, trie: Trie, args: argparse.Namespace) -> dict[str, Any]:
    """The proven top 10 against beam search."""
    strict = model.dtype == torch.float32
    truth = score_catalogue(model, prefixes, trie)
    row_of = {tuple(row.tolist()): number for number, row in enumerate(np.split(codes.values, codes.offsets[1:-1]))}
    processor = DictionaryTrie(codes, BEAMS, int(prefixes.lengths.max()), args.device)
    beam, ours = f"generate, {BEAMS} beams", "cprec_hf"
    ways: dict[str, Callable[[], Any]] = {
        beam: lambda: beam_search(model, prefixes, codes, processor),
        ours: lambda: best_rows(model, prefixes, trie, args.max_nodes),
    }
    best, found = take_turns(ways, args)
    result, our_rows, our_scores = found[ours]
    rows = {
        beam: [[row_of.get(answer, -1) for answer in answers] for answers in found[beam]],
        ours: our_rows.tolist(),
    }
    judged = {name: judge(truth, of, TOLERANCE if strict else 0.1) for name, of in rows.items()}
    difference = float(np.abs(np.take_along_axis(truth, our_rows, 1) - our_scores).max())

    # Again with clocks inside, which on a GPU makes both sides wait.
    masks, outside = dict.fromkeys(ways, (0, math.inf)), math.inf
    for _ in range(args.rounds):
        processor.seconds = []
        ways[beam]()
        with clocks(args.device) as spent:
            top_rows(model, prefixes, trie, K, max_nodes=args.max_nodes)
        once = {
            beam: (len(processor.seconds), sum(processor.seconds)),
            ours: (int(spent["steps"]), spent["masks"]),
        }
        outside = min(outside, (spent["own"] - spent["model"]) / spent["steps"])
        masks = {name: min(masks[name], once[name], key=lambda of: of[1]) for name in ways}
    processor.seconds = None
    ways_found = []
    for name in ways:
        steps, seconds = masks[name]
        missed, invalid = judged[name]
        ways_found.append(
            {
                "way": name, "seconds": best[name][0], "cpu_seconds": best[name][1], "steps": steps,
                "mask_seconds": seconds, "mask_seconds_per_step": seconds / steps, "missed": missed, "invalid": invalid,
            }
        )  # fmt: skip
    report = {
        "users": len(prefixes), "k": K, "ways": ways_found, "largest_difference": difference,
        "times_as_fast": best[beam][0] / best[ours][0], "times_as_fast_cpu": best[beam][1] / best[ours][1],
        "mask_times_less_per_step": ways_found[0]["mask_seconds_per_step"] / ways_found[1]["mask_seconds_per_step"],
        "mask_times_less": ways_found[0]["mask_seconds"] / ways_found[1]["mask_seconds"],
        "outside_model_seconds_per_step": outside,
        "proven": float(result.proven.mean()), "nodes_median": float(np.median(result.nodes)),
        "nodes_p95": float(np.quantile(result.nodes, 0.95)),
        "top_probability": float(np.exp(truth.astype(np.float64)).sum(axis=1).mean()),
    }  # fmt: skip
    show_top(report, len(trie))
    if strict and (any(judged[ours]) or difference > TOLERANCE):
        missed, invalid = judged[ours]
        raise SystemExit(f"ours is wrong: {missed} missed, {invalid} invalid, scores {difference:.1e} nats off")
    return report


def best_rows(model: Any, prefixes: Ragged, trie: Trie, max_nodes: int) -> tuple[TopRows, np.ndarray, np.ndarray]:
    """What the search found; and the top 10 rows and scores, from all titles where the search proved nothing."""
    found = top_rows(model, prefixes, trie, K, max_nodes=max_nodes)
    rows, scores = found.rows.copy(), found.log_probs.copy()
    left = np.flatnonzero(~found.proven)
    if len(left):
        every = score_catalogue(model, prefixes.take(left), trie)
        rows[left] = np.argsort(-every, axis=1, kind="stable")[:, :K]
        scores[left] = np.take_along_axis(every, rows[left], axis=1)
    return found, rows, scores


def judge(truth: np.ndarray, rows: list[list[int]], tolerance: float) -> tuple[int, int]:
    """How many of the true best are missed (equal scores may stand in), and how many answers are no title."""
    missed = 0
    for scores, mine in zip(truth, rows, strict=True):
        least = np.sort(scores)[-K] - tolerance
        missed += K - sum(bool(scores[row] >= least) for row in set(mine) - {-1})
    return missed, sum(row < 0 for mine in rows for row in mine)


@contextmanager
def clocks(device: str) -> Iterator[dict[str, float]]:
    """Seconds of the search's steps while in here; of them those of masks, those of the model; and how many there were.

    Softmax counts as the model's, as beam search has it outside its processor.
    """
    spent = {"steps": 0.0, "own": 0.0, "masks": 0.0, "model": 0.0}
    watched: list[tuple[Any, str, str]] = [
        (_Search, "_step", "own"), (_Search, "_expand", "own"),
        (_Search, "_see", "masks"), (_Search, "_children", "masks"),
        (Reader, "read", "model"), (Reader, "predict", "model"),
    ]  # fmt: skip
    kept = [getattr(of, name) for of, name, _ in watched]
    running = dict.fromkeys(spent, 0)

    def clocked(method: Callable[..., Any], name: str, whose: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            spent["steps"] += name == "_expand"
            if running[whose]:  # the clock is on
                return method(*args, **kwargs)
            running[whose] = 1
            synchronize(device)
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                synchronize(device)
                spent[whose] += time.perf_counter() - began
                running[whose] = 0

        return call

    for (of, name, whose), method in zip(watched, kept, strict=True):
        setattr(of, name, clocked(method, name, whose))
    try:
        yield spent
    finally:
        for (of, name, _), method in zip(watched, kept, strict=True):
            setattr(of, name, method)


def show_top(of: dict[str, Any], nodes: int) -> None:
    print(
        f"\nTop {of['k']}, {of['users']} users; a model that gives {of['top_probability']:.2f} to the titles together\n"
    )
    print(
        "| way | seconds | CPU seconds | steps | masks, ms a step | missed | invalid |\n|---|---|---|---|---|---|---|"
    )
    for way in of["ways"]:
        print(
            f"| {way['way']} | {way['seconds']:.2f} | {way['cpu_seconds']:.2f} | {way['steps']} | "
            f"{1e3 * way['mask_seconds_per_step']:.2f} | {way['missed']} | {way['invalid']} |"
        )
    print(
        f"\n{of['times_as_fast']:.1f} times as fast ({of['times_as_fast_cpu']:.1f} by CPU time); masks "
        f"{of['mask_times_less_per_step']:.1f} times less a step, {of['mask_times_less']:.1f} in all; ours spends "
        f"{1e3 * of['outside_model_seconds_per_step']:.2f} ms a step outside the model altogether\n"
        f"proven for {of['proven']:.0%} of users, after {of['nodes_median']:,.0f} of {nodes:,} nodes (median; 95th "
        f"percentile {of['nodes_p95']:,.0f})", flush=True
    )  # fmt: skip


# Memory.


def memory_of(setting: int, argv: list[str]) -> dict[str, Any]:
    """The figures of `peak_memory` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *argv, "--memory-of", str(setting)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"measuring memory failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_memory(args: argparse.Namespace, codes: Ragged) -> dict[str, Any]:
    """Score the catalogue for some users and say how much memory that took at most, in MB."""
    model, trie = make_model(args), Trie.of(codes)
    rng = np.random.default_rng(0)
    prefixes = Ragged.from_lists(rng.integers(2, model.config.vocab_size, (args.memory_users, args.history)).tolist())
    before = peak(args.device)
    began = time.perf_counter()
    score_catalogue(model, prefixes, trie, max_batch_tokens=args.memory_of)
    return {
        "max_batch_tokens": args.memory_of, "users": args.memory_users, "items": len(codes),
        "seconds": time.perf_counter() - began, "before_mb": before, "peak_mb": peak(args.device),
    }  # fmt: skip


def peak(device: str) -> float:
    """The most memory held so far, in MB: on a GPU what torch allocated, else what the process had in memory.

    Linux gives a new process the `ru_maxrss` of the one that started it, so its own high-water mark is read there.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def show_memory(found: list[dict[str, Any]]) -> None:
    if found:
        print("\n| max_batch_tokens | users | MB before | MB at most | added |\n|---|---|---|---|---|")
    for of in found:
        added = of["peak_mb"] - of["before_mb"]
        print(
            f"| {of['max_batch_tokens']:,} | {of['users']} | {of['before_mb']:,.0f} | {of['peak_mb']:,.0f} | "
            f"{added:,.0f} |"
        )
    print(flush=True)


if __name__ == "__main__":
    main()
