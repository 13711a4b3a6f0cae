"""How fast a CPT step is on a CPU, against stock TRL on the same packed rows.

    python benchmarks/train_cpu.py [--json FILE]
    python benchmarks/train_cpu.py --toy      # seconds; only checks that losses agree
    python benchmarks/train_cpu.py --profile  # where the time of either side goes, by torch's profiler

Two shapes: the demo's model (308,000 parameters, vocabulary 704) and `recipes/amazon-small`'s (1.1 million, 4,096), in
blocks of 256 tokens, 8 a step. The sides take turns, and each side's best round counts, in tokens a second of CPU time,
which a busy machine distorts less than wall time. Stock TRL flattens the 8 blocks into one row of 2,048, as it does for
FlashAttention; its head computes each logit twice, and entropies and accuracies with them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_gpu import Cell, Settings, machine, run_cell
from transformers import Qwen3Config

from cprec_hf.files import atomic_file
from cprec_hf.training.attention import VARLEN

SIDES = (
    ("stock TRL, packed", {"side": "stock"}),
    ("ours", {"side": "ours"}),
    ("ours, TRL's head", {"side": "ours", "head": "trl"}),
    ("ours, within documents only", {"side": "ours", "attention": VARLEN}),
)


def shapes(toy: bool) -> dict[str, Qwen3Config]:
    """The models, by name."""

    def config(hidden: int, layers: int, vocabulary: int) -> Qwen3Config:
        return Qwen3Config(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=4, head_dim=hidden // 4, tie_word_embeddings=True,
        )  # fmt: skip

    return {"toy": config(32, 2, 300)} if toy else {"demo": config(96, 2, 704), "amazon-small": config(128, 3, 4096)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--profile", action="store_true", help="one round of the first two sides under the profiler")
    parser.add_argument(
        "--toy", action="store_true", help="a tiny model for three steps, to see that it runs and agrees"
    )
    given = parser.parse_args(argv)
    settings = Settings(tokens=256, warmup=1, steps=3) if given.toy else Settings(tokens=2048, warmup=2, steps=10)
    length = 64 if given.toy else 256
    figures: dict[str, Any] = machine() | {"threads": torch.get_num_threads(), "shapes": {}}
    for name, config in shapes(given.toy).items():
        best: dict[str, dict[str, Any]] = {}
        for _ in range(1 if given.toy or given.profile else given.rounds):
            for side, keys in SIDES[:2] if given.profile else SIDES:
                with torch.profiler.profile() if given.profile else contextlib.nullcontext() as profile:
                    found = run_cell(Cell(name, length, **keys), settings, config)  # type: ignore[arg-type]
                if profile is not None:
                    print(
                        f"{name}, {side}", profile.key_averages().table("self_cpu_time_total", row_limit=15), sep="\n"
                    )
                if side not in best or found["tokens_per_cpu_second"] > best[side]["tokens_per_cpu_second"]:
                    best[side] = found
        stock = best[SIDES[0][0]]
        for side, found in best.items():
            apart = float(np.abs(np.subtract(found["losses"], stock["losses"])).max())
            assert apart < 1e-4, (side, found["losses"], stock["losses"])
            found["times_as_fast"] = found["tokens_per_cpu_second"] / stock["tokens_per_cpu_second"]
            found["largest_difference_of_losses"] = apart
            print(
                f"{name:<14}{side:<30}{found['tokens_per_cpu_second']:>8,.0f} tokens a CPU second "
                f"{found['times_as_fast']:.2f} times stock; losses differ by at most {apart:.1e}",
                flush=True,
            )
        figures["shapes"][name] = best
    if given.json:
        with atomic_file(given.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


if __name__ == "__main__":
    main()
