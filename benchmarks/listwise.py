"""Targets against siblings at every position of a history, scored and differentiated: one forward, or a row for each.

    python benchmarks/listwise.py [--json FILE]          # the shape of recipes/amazon-small, K = 1, 6, 20
    python benchmarks/listwise.py --toy                  # seconds; only checks that the sides agree
    python benchmarks/listwise.py --device cuda --dtype bfloat16 --shape qwen3-0.6b --json FILE   # and peak memory

Histories are as long as those of Scientific: 8 items of 14 tokens behind a header of 10, every item from the second on
a target with K siblings. Every side computes the same list-wise loss and its gradients from the same weights, forward
and backward; log-likelihoods and gradients are to agree. Sides:

    segments     trunk and branches in one row, `cprec_branches`: what `listwise` does on a CPU
    mask         the same in rows of whole trees under one additive mask, `sdpa`: what it does on a GPU unless asked
    rows         a row for each target and sibling behind its own copy of the history, a history's rows in a forward,
                 padded, only what is scored through our head: the strongest form of what preference trainers do
    rows, TRL    the same with TRL's own head, as its DPOTrainer reads them (on a CPU that head scores every position)

Figures: (target or sibling) sequences a second, of CPU time on a CPU, which a busy machine distorts less, and of the
wall clock on a GPU; the ratio to the sides of rows; and beside it the ratio of tokens read, which is what sharing the
history would give if every token cost the same.

Seen on two CPU cores, `segments` against `rows` and against TRL's: 5.2 and 12.0 times at K = 1 (tokens alone 5.2), 5.5
and 13.6 at 6 (5.8), 5.1 and 12.8 at 20 (6.0; the rows hold more than 3 GB). On a GPU it has not been run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from train_gpu import machine
from transformers import AutoModelForCausalLM, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from cprec_hf.corpus.ragged import Ragged, ranges
from cprec_hf.files import atomic_file
from cprec_hf.ranking.branch_attention import BRANCHES
from cprec_hf.ranking.forest import Forest
from cprec_hf.ranking.layout import lay_out, model_inputs, trunk_tokens
from cprec_hf.training.listwise_loss import listwise_losses, sequence_log_probs
from cprec_hf.training.sizing import recipe_config
from cprec_hf.training.token_head import choose_token_head, teach_token_log_probs

HEADER, ITEMS, TOKENS = 10, 8, 14
SIDES = ("segments", "mask", "rows", "rows, TRL")


@dataclass(frozen=True)
class Work:
    """Histories, the place of each target, and its siblings."""

    trunks: Ragged
    owners: np.ndarray
    begins: np.ndarray
    siblings: Ragged
    k: int

    @classmethod
    def of(cls, users: int, k: int, vocabulary: int, items: int) -> Work:
        rng = np.random.default_rng(k)
        length = HEADER + items * TOKENS
        trunks = Ragged(rng.integers(3, vocabulary, users * length).astype(np.int32), np.arange(users + 1) * length)
        owners = np.repeat(np.arange(users), items - 1)
        begins = np.tile(HEADER + TOKENS * np.arange(1, items), users)
        n = len(owners) * k
        rows = rng.integers(3, vocabulary, n * TOKENS).astype(np.int32)
        return cls(trunks, owners, begins, Ragged(rows, np.arange(n + 1) * TOKENS), k)

    @property
    def sequences(self) -> int:
        return len(self.owners) * (1 + self.k)


def shapes(name: str) -> Any:
    if name == "qwen3-0.6b":
        return recipe_config(name)
    hidden, layers, vocabulary = (128, 3, 4096) if name == "amazon-small" else (32, 2, 300)
    return Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, head_dim=hidden // 4, tie_word_embeddings=True,
    )  # fmt: skip


def trees(work: Work, form: Any, device: str) -> list[dict[str, Tensor]]:
    """One batch of everything, as `ListwiseBatches` makes it of titles."""
    forest, of_trunk, of_branch = Forest.of_trunks(
        work.trunks, np.repeat(work.owners, work.k), np.repeat(work.begins, work.k), work.siblings
    )
    batch = lay_out(forest, trunk_tokens(forest, of_trunk), form)
    first = work.trunks.offsets[work.owners] + work.begins
    targets = of_trunk.values[ranges(first, first + TOKENS)].reshape(-1, 1, TOKENS)
    places = np.concatenate([targets, of_branch.values.reshape(-1, work.k, TOKENS)], axis=1) - forest.n_trees
    sources = np.repeat(np.arange(len(forest.tokens)), np.diff(forest.wanted_bounds[forest.n_trees :]))
    scored = np.unique(places)  # the header and the first items predict nothing here: what is compared is the rank loss
    states, rows = np.unique(sources[scored], return_inverse=True)
    batch |= {"rows": torch.from_numpy(rows), "tokens": torch.from_numpy(forest.wanted[forest.n_trees :][scored])}
    batch |= {
        "states": batch["place"][torch.from_numpy(states)],
        "lists": torch.from_numpy(np.searchsorted(scored, places)),
    }
    return [{name: tensor.to(device) for name, tensor in batch.items()}]


def rows(work: Work, device: str) -> list[dict[str, Tensor]]:
    """A batch a history: its lists' sequences, target first, padded on the right."""
    batches = []
    siblings = work.siblings.values.reshape(-1, work.k, TOKENS)
    for user in range(len(work.trunks)):
        lists = np.flatnonzero(work.owners == user)
        width = work.begins[lists].max() + TOKENS
        ids, seen, labels = (np.full((len(lists), 1 + work.k, width), fill, np.int64) for fill in (0, 0, -100))
        for i, number in enumerate(lists):
            begin, trunk = work.begins[number], work.trunks.row(user)
            end = begin + TOKENS
            ids[i, :, :begin], seen[i, :, :end] = trunk[:begin], 1
            labels[i, 0, begin:end] = trunk[begin:end]
            labels[i, 1:, begin:end] = siblings[number]
            ids[i, :, begin:end] = labels[i, :, begin:end]
        flat = (torch.from_numpy(a.reshape(-1, width)).to(device) for a in (ids, seen, labels))
        batches.append(dict(zip(("input_ids", "attention_mask", "labels"), flat, strict=True)))
    return batches


def scores_of(side: str, model: Any, batch: dict[str, Tensor], k: int) -> Tensor:
    """Log-likelihoods [lists, 1 + K]."""
    if side in ("segments", "mask"):
        scored = batch["states"], batch["rows"], batch["tokens"]
        return sequence_log_probs(model(**model_inputs(model, batch), scored=scored), batch["lists"])
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if side == "rows, TRL":
        found = model(**read, labels=batch["labels"], fused_lm_head=True, use_cache=False).log_probs
        return found.sum(dim=1).view(-1, 1 + k)
    labels = batch["labels"][:, 1:]
    row, column = (labels != -100).nonzero(as_tuple=True)
    states = row * batch["input_ids"].shape[1] + column
    tokens = model(**read, scored=(states, torch.arange(len(row), device=row.device), labels[row, column]))
    return tokens.view(-1, 1 + k, TOKENS).sum(-1)


def measure(step: Callable[[], Any], device: str, rounds: int) -> tuple[float, int | None]:
    """The seconds of the best round, and the most bytes a GPU held."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    best = float("inf")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        begin = clock()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begin)
    return best, torch.cuda.max_memory_allocated() if device == "cuda" else None


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--toy", action="store_true", help="a tiny model, 2 histories, one round")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="bfloat16: by autocast")
    parser.add_argument("--shape", default="amazon-small", choices=["amazon-small", "qwen3-0.6b"])
    parser.add_argument("--users", type=int, default=8, help="histories a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 6, 20])
    given = parser.parse_args(argv)
    shape, users, rounds, ks, items = given.shape, given.users, given.rounds, given.k, ITEMS
    if given.toy:
        shape, users, rounds, ks, items = "toy", 2, 1, [1, 3], 4
    config = shapes(shape)
    figures: dict[str, Any] = machine() | {
        "threads": torch.get_num_threads(), "shape": shape, "dtype": given.dtype, "device": given.device, "k": {},
    }  # fmt: skip
    for k in ks:
        work = Work.of(users, k, config.vocab_size, items)
        found, expected = {}, None
        for side in reversed(SIDES):  # the reference first
            cell, outcome = run_side(side, config, work, given.device, given.dtype, rounds)
            found[side], expected = cell, expected if expected is not None else outcome
            if outcome is not None and expected is not None:
                apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(outcome, expected, strict=True)]
                cell["scores_differ"], cell["gradients_differ"] = apart
                assert max(apart) < (1e-3 if given.dtype == "float32" else 0.1), (side, apart)
        ideal = found["rows"].get("tokens", 0) / found["segments"].get("tokens", 1)
        figures["k"][str(k)] = {"sides": found, "tokens_ideal": ideal}
        for side in SIDES:
            say(side, k, found, ideal)
    if given.json:
        with atomic_file(given.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def run_side(
    side: str, config: Any, work: Work, device: str, dtype: str, rounds: int
) -> tuple[dict[str, Any], tuple[Tensor, Tensor] | None]:
    """A side's figures, and its log-likelihoods and the gradients of the embeddings."""
    torch.manual_seed(0)
    with torch.device(device):
        attention = BRANCHES if side == "segments" else "sdpa"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    add_fused_lm_head(model)
    teach_token_log_probs(model, choose_token_head("auto", torch.device(device), True))
    batches = trees(work, side, device) if side in ("segments", "mask") else rows(work, device)
    cell: dict[str, Any] = {"tokens": _tokens(batches, work)}
    half = torch.autocast(device, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        scores = []
        for batch in batches:
            with half:
                scores.append(scores_of(side, model, batch, work.k))
            (listwise_losses(scores[-1]).sum() / len(work.owners)).backward()
        return torch.cat([s.detach() for s in scores])

    try:
        outcome = step().float().cpu(), model.get_input_embeddings().weight.grad.float().cpu()
        cell["seconds"], cell["peak_bytes"] = measure(step, device, rounds)
    except torch.OutOfMemoryError as error:
        return cell | {"error": str(error).split(".")[0]}, None
    cell["sequences_per_second"] = work.sequences / cell["seconds"]
    return cell, outcome


def _tokens(batches: list[dict[str, Tensor]], work: Work) -> int:
    """Tokens read, padding not counted; a last token that is predicted alone need not be read."""
    if "place" in batches[0]:
        return sum(len(batch["place"]) for batch in batches)
    return sum(int(batch["attention_mask"].sum()) for batch in batches) - work.sequences


def say(side: str, k: int, found: dict[str, Any], ideal: float) -> None:
    cell = found[side]
    if "error" in cell:
        print(f"K = {k:<3} {side:<10} {cell['error']}", flush=True)
        return
    ratios = [
        f"{cell['sequences_per_second'] / found[other]['sequences_per_second']:.1f} times {other!r}"
        for other in ("rows", "rows, TRL")
        if side != other and "seconds" in found[other]
    ]
    memory = f", {cell['peak_bytes'] / 1e9:.1f} GB" if cell["peak_bytes"] else ""
    print(
        f"K = {k:<3} {side:<10} {cell['sequences_per_second']:>9,.0f} sequences a second{memory}; {', '.join(ratios)}; "
        f"tokens alone {ideal:.1f}; differ by {cell['scores_differ']:.0e} and {cell['gradients_differ']:.0e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
