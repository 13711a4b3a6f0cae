"""How fast candidates are scored, against what peers do: one a forward, a batch of whole sequences, cached copies.

    python benchmarks/rank_candidates.py                           # a random 6-layer Llama on this machine
    python benchmarks/rank_candidates.py --device cuda --dtype bfloat16 --shape qwen3-0.6b --json figures.json
    python benchmarks/rank_candidates.py --lengths FOLDER          # real histories and titles (see `real`)
    python benchmarks/rank_candidates.py --toy                     # seconds; only checks that the ways agree

The ways take turns in one run and the best of `--rounds` counts; CPU time stands beside wall time, which a busy machine
distorts. The first three ways are written here against plain transformers and use nothing of `cprec_hf.ranking`. They
get what the library offers: logits only where something is predicted, and no padding but that of titles.

Ideal: tokens the compared way reads over tokens that must be read, counting once what candidates of a user share.
Fraction: how much of that ratio of tokens is reached as a ratio of times. Scores must agree to 1e-4 nats in float32; in
another type that is checked in float32 first, on two users, and the difference of what is timed is only reported.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import transformers

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.files import atomic_file
from cprec_hf.ranking.scoring import MAX_BATCH_TOKENS, score_candidates
from cprec_hf.ranking.trie import Trie

END = 1  # the token that ends a title, and only that
TOLERANCE = 1e-4  # nats, float32
SHAPES: dict[str, Any] = {
    "toy": transformers.Qwen3Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=64, vocab_size=512, eos_token_id=END, pad_token_id=0,
    ),
    "llama-6x256": transformers.LlamaConfig(
        hidden_size=256, num_hidden_layers=6, num_attention_heads=8, intermediate_size=688, vocab_size=4096,
        eos_token_id=END, pad_token_id=0,
    ),
    "qwen3-3x128": transformers.Qwen3Config(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=32,
        intermediate_size=344, vocab_size=4096, tie_word_embeddings=True, eos_token_id=END, pad_token_id=0,
    ),
    "qwen3-3x128-32k": transformers.Qwen3Config(  # a vocabulary as large as of Llama 2
        hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=32,
        intermediate_size=344, vocab_size=32000, tie_word_embeddings=True, eos_token_id=END, pad_token_id=0,
    ),
    "qwen3-0.6b": transformers.Qwen3Config(
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=3072, vocab_size=151936, tie_word_embeddings=True, eos_token_id=END, pad_token_id=0,
    ),
}  # fmt: skip
# Deciles of tokens in Amazon Scientific (McAuley lab, 2018) under a byte-level BPE of 4,096 trained on its titles:
# prompts of the last 10 items before a user's last one, and titles cut to 24 tokens, delimiter included.
HISTORY_DECILES = [90, 108, 108, 108, 128, 132, 132, 156, 180, 228, 252]
TITLE_DECILES = [13, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24]


@dataclass
class Work:
    """What is scored: candidate `i` follows the prefix `owners[i]`; the owners never decrease."""

    name: str
    prefixes: Ragged
    candidates: Ragged
    owners: np.ndarray

    def head(self, users: int) -> Work:
        """The first users only."""
        n = int(np.searchsorted(self.owners, users))
        rows, mine = np.arange(min(users, len(self.prefixes))), np.arange(n)
        return Work(self.name, self.prefixes.take(rows), self.candidates.take(mine), self.owners[:n])


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Print and return the figures."""
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llama-6x256", help="of the random model")
    parser.add_argument("--users", type=int, default=16, help="with 20 candidates; a quarter of them with 100")
    parser.add_argument("--lengths", metavar="FOLDER", help="items.parquet and interactions.parquet of real titles")
    parser.add_argument("--domain", default="Scientific", help="of the folder")
    parser.add_argument("--plot", metavar="PNG", help="candidates a second, by shape and way")
    args = parser.parse_args(argv)
    if args.toy:
        args.shape, args.users, args.rounds = "toy", 5, 1
    model, figures = make_model(args), environment(args)
    figures["shapes"] = []
    for work in works(args, model.config.vocab_size):
        figures["shapes"].append(measure(model, work, args))
        show(figures["shapes"][-1])
    finish(figures, args)
    if args.plot:
        plot(figures, args.plot)
    return figures


# What is scored.


def works(args: argparse.Namespace, vocab_size: int) -> list[Work]:
    """Fixed lengths, the same with shared beginnings, and lengths as in data."""
    rng = np.random.default_rng(0)
    few = max(1, args.users // 4)
    prefix, title = (30, 6) if args.toy else (240, 12)

    def random(name: str, users: int, n: int) -> Work:
        rows = _random_rows(rng, np.full(users, prefix), vocab_size), np.full(users * n, title)
        return Work(name, rows[0], _random_rows(rng, rows[1], vocab_size), np.repeat(np.arange(users), n))

    def alike(name: str, users: int, n: int) -> Work:
        titles = zipf_titles(1000, vocab_size, lengths=(title, title + 1))
        picked = np.concatenate([rng.choice(len(titles), n, replace=False) for _ in range(users)])
        prefixes = _random_rows(rng, np.full(users, prefix), vocab_size)
        return Work(name, prefixes, titles.take(picked), np.repeat(np.arange(users), n))

    shapes = [
        random(f"{prefix} + 20 x {title}", args.users, 20),
        random(f"{prefix} + 100 x {title}", few, 100),
        alike(f"{prefix} + 100 x {title}, titles that begin alike", few, 100),
    ]
    if args.lengths:
        return [*shapes, real(Path(args.lengths), args.domain, args.users, vocab_size)]
    deciles, scale = np.linspace(0, 1, 11), 0.2 if args.toy else 1
    lengths = [
        (np.interp(rng.random(n), deciles, values) * scale).astype(np.int64)
        for n, values in ((args.users, HISTORY_DECILES), (args.users * 20, TITLE_DECILES))
    ]
    prefixes, titles = (_random_rows(rng, of, vocab_size) for of in lengths)
    return [*shapes, Work("lengths as in Scientific, x 20", prefixes, titles, np.repeat(np.arange(args.users), 20))]


def _random_rows(rng: np.random.Generator, lengths: np.ndarray, vocab_size: int) -> Ragged:
    return Ragged.from_lists([rng.integers(2, vocab_size, length).tolist() for length in lengths])


def zipf_titles(n: int, vocab_size: int, *, lengths: tuple[int, int] = (9, 16), seed: int = 0) -> Ragged:
    """Distinct synthetic titles that begin alike as real ones do: 12,000 make a trie of some 8 nodes a title.

    Beauty's 12,101 have 9, with 144, 1,960 and 3,420 different beginnings of 1, 2 and 3 tokens. Each token is drawn by
    a Zipf law whose order depends on the two tokens before it.

    Args:
        n: how many.
        vocab_size: tokens 2 and up are used, and `END` for the last.
        lengths: tokens of a title, `END` included: the least, and one more than the most.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    rows: dict[tuple[int, ...], None] = {}
    while len(rows) < n:
        size, most = rng.integers(*lengths, n), lengths[1] - 1
        tokens, key = np.zeros((n, most), dtype=np.int64), np.zeros(n, dtype=np.int64)
        for column in range(most):
            steep, choices = (1.0, 400) if column == 0 else (1.85, 1500)
            weights = np.cumsum(1 / np.arange(1, choices + 1) ** steep)
            rank = np.searchsorted(weights, rng.random(n) * weights[-1])
            tokens[:, column] = (key * 7919 + rank * 104729 + (rank + 1) * (key % 97)) % (vocab_size - 2) + 2
            before = tokens[:, column - 1] if column else 0
            key = (tokens[:, column] * 31 + before * 1009) % 1000003
        for row, length in zip(tokens.tolist(), size.tolist(), strict=True):
            rows[(*row[: length - 1], END)] = None
    return Ragged.from_lists(list(rows)[:n])


def real(folder: Path, domain: str, users: int, vocab_size: int) -> Work:
    """Real users with their last 10 items and 20 random candidates; titles under a BPE trained on them, 24 tokens each.

    Args:
        folder: items.parquet (item_id, domain, title), interactions.parquet (user_id, item_id, domain, position).
        domain: whose items and users.
        users: the first so many, in the order of the file.
        vocab_size: of the tokenizer and the model.
    """
    keep = pc.field("domain") == domain
    ids, titles = real_titles(folder / "items.parquet", domain, vocab_size)
    row_of = dict(zip(ids, range(len(ids)), strict=True))
    events = pq.read_table(folder / "interactions.parquet", filters=keep).sort_by(
        [("user_id", "ascending"), ("position", "ascending")]
    )
    starts = np.flatnonzero(np.r_[True, np.asarray(pc.not_equal(events["user_id"][1:], events["user_id"][:-1]))])
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(starts) - 1, users, replace=False))
    histories = [
        [row_of[i] for i in events["item_id"][starts[u] : starts[u + 1] - 1].to_pylist()][-10:] for u in chosen
    ]
    header = np.arange(2, 14)
    prefixes = [np.concatenate([header, *(titles.row(item) for item in history)]).tolist() for history in histories]
    picked = np.concatenate([rng.choice(len(titles), 20, replace=False) for _ in range(users)])
    owners = np.repeat(np.arange(users), 20)
    return Work(f"real titles of {domain}, x 20", Ragged.from_lists(prefixes), titles.take(picked), owners)


def real_titles(path: Path, domain: str | None, vocab_size: int) -> tuple[list[str], Ragged]:
    """Ids and titles of a file of items (item_id, domain, title), cut to 24 tokens of a BPE trained on them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    items = pq.read_table(path, filters=None if domain is None else pc.field("domain") == domain)
    titles = items["title"].to_pylist()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, 4096), show_progress=False, special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(titles, trainer)
    encoded = tokenizer.encode_batch(titles, add_special_tokens=False)
    return items["item_id"].to_pylist(), Ragged.from_lists([[*row.ids[:23], END] for row in encoded])


# The ways of others, in plain transformers.


def one_a_forward(model: Any, work: Work) -> np.ndarray:
    """A forward pass for each candidate after its whole prefix."""
    scores = []
    for number, owner in enumerate(work.owners):
        prefix, candidate = work.prefixes.row(int(owner)), work.candidates.row(number)
        wanted = _tensor(model, candidate)[None]
        ids = _tensor(model, np.concatenate([prefix, candidate[:-1]]))[None]
        logits = model(input_ids=ids, logits_to_keep=len(candidate), use_cache=False).logits
        scores.append(_log_probs(logits, wanted, torch.ones_like(wanted)))
    return torch.cat(scores).cpu().numpy()


def batched_per_user(model: Any, work: Work) -> np.ndarray:
    """A forward pass for each user: all candidates, each after a copy of the prefix, padded on the right."""
    scores = []
    for user in range(len(work.prefixes)):
        wanted, real = _padded(model, work.candidates.take(np.flatnonzero(work.owners == user)))
        prefix = _tensor(model, work.prefixes.row(user)).expand(len(wanted), -1)
        ids = torch.cat([prefix, wanted[:, :-1]], dim=1)
        logits = model(input_ids=ids, logits_to_keep=wanted.shape[1], use_cache=False).logits
        scores.append(_log_probs(logits, wanted, real))
    return torch.cat(scores).cpu().numpy()


def cached_copies(model: Any, work: Work, batch_tokens: int = MAX_BATCH_TOKENS) -> np.ndarray:
    """The prefix once a user; its keys and values copied to a row for each candidate, at most `batch_tokens` held."""
    scores = []
    for user in range(len(work.prefixes)):
        prefix, mine = _tensor(model, work.prefixes.row(user))[None], np.flatnonzero(work.owners == user)
        out = model(input_ids=prefix, use_cache=True, logits_to_keep=1)
        rows = max(1, batch_tokens // (prefix.shape[1] + int(work.candidates.lengths[mine].max())))
        for begin in range(0, len(mine), rows):
            wanted, real = _padded(model, work.candidates.take(mine[begin : begin + rows]))
            first = out.logits.expand(len(wanted), -1, -1)
            if wanted.shape[1] == 1:
                scores.append(_log_probs(first, wanted, real))
                continue
            cache = copy.deepcopy(out.past_key_values)
            cache.batch_repeat_interleave(len(wanted))
            logits = model(input_ids=wanted[:, :-1], past_key_values=cache).logits
            first = _log_probs(first, wanted[:, :1], real[:, :1])
            scores.append(first + _log_probs(logits, wanted[:, 1:], real[:, 1:]))
    return torch.cat(scores).cpu().numpy()


def _tensor(model: Any, row: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(row.astype(np.int64)).to(model.device)


def _padded(model: Any, rows: Ragged) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, longest], and 1 where they are real."""
    real = np.arange(int(rows.lengths.max())) < rows.lengths[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    ids[real] = rows.values
    return _tensor(model, ids), _tensor(model, real)


def _log_probs(logits: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Summed log-probabilities [n] of `wanted` [n, columns] under logits [n, columns, vocabulary]."""
    logits = logits.float()
    found = logits.gather(2, wanted[..., None])[..., 0] - logits.logsumexp(-1)
    return (found * real).sum(dim=1)


# Measuring.


def measure(model: Any, work: Work, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one shape; `SystemExit` if the ways differ."""
    if model.dtype != torch.float32:
        small, dtype = work.head(2), model.dtype
        model.float()
        found = {name: way(model, small) for name, way in WAYS.items()}
        model.to(dtype)
        agree(found, work.name)
    best, found = take_turns({name: _bound(way, model, work) for name, way in WAYS.items()}, args)
    difference = agree(found, work.name, strict=model.dtype == torch.float32)
    lengths, n = work.prefixes.lengths, len(work.owners)
    inner = [
        int(np.count_nonzero(Trie.of(work.candidates.take(np.flatnonzero(work.owners == user))).n_children) - 1)
        for user in range(len(lengths))
    ]
    must = int(lengths.sum()) + sum(inner)
    whole = int((lengths[work.owners] + work.candidates.lengths - 1).sum())
    reads = dict.fromkeys(WAYS, whole) | {CACHED: int(lengths.sum() + (work.candidates.lengths - 1).sum()), OURS: must}
    rows = []
    for name in WAYS:
        wall, cpu = best[name]
        ratio, ideal = wall / best[OURS][0], reads[name] / must
        rows.append(
            {
                "way": name, "seconds": wall, "cpu_seconds": cpu, "candidates_per_second": n / wall,
                "tokens": reads[name], "ours_times_as_fast": ratio, "ours_times_as_fast_cpu": cpu / best[OURS][1],
                "ideal": ideal, "fraction_of_ideal": ratio / ideal,
            }
        )  # fmt: skip
    return {
        "shape": work.name, "users": len(lengths), "candidates": n, "tokens_that_must_be_read": must,
        "largest_difference": difference, "ways": rows,
    }  # fmt: skip


def _bound(way: Callable[[Any, Work], np.ndarray], model: Any, work: Work) -> Callable[[], np.ndarray]:
    return lambda: way(model, work)


def _ours(model: Any, work: Work) -> np.ndarray:
    return score_candidates(model, work.prefixes, work.candidates, work.owners)


CACHED, OURS = "cached prefix, copied", "cprec_hf"
WAYS: dict[str, Callable[[Any, Work], np.ndarray]] = {
    "one candidate a forward": torch.inference_mode()(one_a_forward),
    "a batch of whole sequences a user": torch.inference_mode()(batched_per_user),
    CACHED: torch.inference_mode()(cached_copies),
    OURS: _ours,
}


def agree(found: dict[str, np.ndarray], what: str, *, strict: bool = True, tolerance: float = TOLERANCE) -> float:
    """The largest difference between ways, in nats; `SystemExit` if it is too large and they must agree."""
    first, *others = found.values()
    worst = max(float(np.abs(scores - first).max()) for scores in others)
    if strict and not worst <= tolerance:
        raise SystemExit(f"{what}: the ways differ by {worst:.1e} nats")
    return worst


def take_turns(ways: dict[str, Callable[[], Any]], args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The least wall and CPU seconds of each way, which take turns; and what each gave last."""
    best = {name: (float("inf"), float("inf")) for name in ways}
    found = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            found[name], *seconds = timed(way, args.device)
            best[name] = min(best[name][0], seconds[0]), min(best[name][1], seconds[1])
    return best, found


def timed(way: Callable[[], Any], device: str) -> tuple[Any, float, float]:
    """What it gives, and seconds of wall and CPU time, the device's work included."""
    synchronize(device)
    began = time.perf_counter(), time.process_time()
    found = way()
    synchronize(device)
    return found, time.perf_counter() - began[0], time.process_time() - began[1]


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def show(of: dict[str, Any]) -> None:
    print(f"\n{of['shape']}: {of['users']} users, largest difference {of['largest_difference']:.1e} nats\n")
    print("| way | candidates/s | ours: times as fast | by CPU time | ideal | fraction |")
    print("|---|---|---|---|---|---|")
    for row in of["ways"]:
        print(
            f"| {row['way']} | {row['candidates_per_second']:,.0f} | {row['ours_times_as_fast']:.1f} | "
            f"{row['ours_times_as_fast_cpu']:.1f} | {row['ideal']:.1f} | {row['fraction_of_ideal']:.2f} |", flush=True
        )  # fmt: skip


def plot(figures: dict[str, Any], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(WAYS)
    for number, name in enumerate(WAYS):
        heights = [shape["ways"][number]["candidates_per_second"] for shape in figures["shapes"]]
        axes.bar(np.arange(len(heights)) + number * width, heights, width, label=name)
    axes.set_xticks(np.arange(len(figures["shapes"])) + 0.4 - width / 2)
    axes.set_xticklabels([shape["shape"].replace(", ", ",\n") for shape in figures["shapes"]], fontsize=8)
    axes.set(ylabel="candidates a second", yscale="log", title=f"{figures['shape']} on {figures['device']}")
    axes.legend(fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


# What `rank_catalogue.py` uses as well.


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The arguments both benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--json", metavar="PATH", help="write the figures there")
    parser.add_argument("--toy", action="store_true", help="a tiny model and little work")
    return parser


def make_model(args: argparse.Namespace) -> Any:
    """A random model of a shape, sure enough of itself that scores differ."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(SHAPES[args.shape], dtype=torch.float32)
    return model.to(args.device, getattr(torch, args.dtype)).eval()


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """On what the figures were measured."""
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.machine() + " CPU"
    return {
        "device": device, "threads": torch.get_num_threads(), "dtype": args.dtype, "shape": args.shape,
        "rounds": args.rounds, "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def finish(figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Say where it was measured, and write the figures if asked to."""
    print("\n" + ", ".join(f"{name} {figures[name]}" for name in ("device", "threads", "dtype", "shape", "torch")))
    if args.json:
        with atomic_file(args.json) as temporary:
            temporary.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
