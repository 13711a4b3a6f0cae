"""How much reading each history once saves: candidates scored a second, with the four ways agreeing to 1e-4.

    python benchmarks/shared_prefix.py                          # a random 6-layer Llama, histories of 240 tokens
    python benchmarks/shared_prefix.py --model PATH --users 16  # any causal LM
    python benchmarks/shared_prefix.py --toy                    # seconds; only checks that the ways agree

Ways: one candidate a forward pass; a user's candidates in one padded batch; the history's keys and values cached and
copied; and the one that `method="auto"` chooses. Ways take turns, and the best of `--rounds` counts. CPU time stands
beside wall time, which a busy machine distorts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.ranking.reader import choose_method
from cprec_hf.ranking.scoring import score_candidates


def main(argv: list[str] | None = None) -> float:
    """Print the table; returns the largest difference between the ways, in nats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or repo of a causal LM; by default a random Llama")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--prefix", type=int, default=240, help="tokens of the longest history; the shortest has half")
    parser.add_argument("--title", type=int, default=12, help="tokens of the longest title; the shortest has half")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="a tiny model and few users")
    args = parser.parse_args(argv)
    shape = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 688}
    if args.toy:
        args.users, args.prefix, args.rounds = 3, 30, 1
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    if args.model:
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, use_safetensors=True)
    else:
        config = transformers.LlamaConfig(vocab_size=4096, **shape)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.to(args.device).eval()

    rng = np.random.default_rng(0)
    prefixes = _tokens(rng, rng.integers(args.prefix // 2, args.prefix + 1, args.users), model.config.vocab_size)
    titles = rng.integers(args.title // 2, args.title + 1, args.users * args.candidates)
    candidates = _tokens(rng, titles, model.config.vocab_size)
    owners = np.repeat(np.arange(args.users), args.candidates)

    def batched_per_user() -> np.ndarray:
        mine = [np.flatnonzero(owners == user) for user in range(args.users)]
        return np.concatenate(
            [score_candidates(model, prefixes, candidates, owners[m], which=m, method="rows") for m in mine]
        )

    chosen = choose_method(model, int((prefixes.lengths[owners] + candidates.lengths).max()) - 1)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "one candidate a forward": lambda: score_candidates(
            model, prefixes, candidates, owners, method="rows", max_batch_tokens=1
        ),
        "batched per user": batched_per_user,
        "shared prefix, cached copies": lambda: score_candidates(model, prefixes, candidates, owners, method="cache"),
        f"shared prefix, auto ({chosen})": lambda: score_candidates(model, prefixes, candidates, owners),
    }
    wall, cpu = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf"))
    scores: dict[str, np.ndarray] = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began = time.perf_counter(), time.process_time()
            scores[name] = way()
            wall[name] = min(wall[name], time.perf_counter() - began[0])
            cpu[name] = min(cpu[name], time.process_time() - began[1])
    first = next(iter(ways))
    print("| way | candidates/s | times as fast | per CPU second | times | largest difference (nats) |")
    print("|---|---|---|---|---|---|")
    for name in ways:
        gap = np.abs(scores[name] - scores[first]).max()
        cells = [f"{len(owners) / t[name]:,.0f} | {t[first] / t[name]:.1f}" for t in (wall, cpu)]
        print(f"| {name} | {cells[0]} | {cells[1]} | {gap:.1e} |")
    worst = float(max(np.abs(found - scores[first]).max() for found in scores.values()))
    if worst > 1e-4 and model.dtype == torch.float32:
        raise SystemExit(f"the ways differ by {worst:.1e} nats")
    return worst


def _tokens(rng: np.random.Generator, lengths: np.ndarray, vocab_size: int) -> Ragged:
    return Ragged.from_lists([rng.integers(0, vocab_size, length).tolist() for length in lengths])


if __name__ == "__main__":
    main()
