"""How fast a CPT step is on a GPU, against stock TRL on the same rows: tokens/s, MFU, peak memory, loss curve.

    python benchmarks/train_gpu.py --json results.json                 # everything; again, and what is missing is run
    python benchmarks/train_gpu.py --json results.json --budget-s 500  # starts no cell that would outlast 500 seconds
    python benchmarks/train_gpu.py --json results.json --only qwen3-0.6b-2048
    python benchmarks/train_gpu.py --toy                               # on a CPU; only checks that losses agree

A cell is one trainer of one kind on one shape: Qwen3-0.6B or Llama-3.2-1B with random weights (float32, computing in
bfloat16), documents of a corpus' lengths in blocks of 2,048 or 8,192 tokens, 16,384 tokens a step (in the last cells
4,096 to 65,536, for memory as a curve). It runs in a process of its own, for kernels patch modules, and its figures are
in the file before the next begins.

Sides: stock TRL as its documentation shows it (no packing); stock TRL on packed rows, with each attention it has on
this machine; ours, with each loss head and attention. Stock's packed rows and ours are the same, in the same order,
from the same weights, so loss curves are to agree. MFU counts the weights' products and the pairs of tokens within
documents (`cprec_hf/training/sizing.py`), nothing for recomputation or padding, over 989e12 operations a second.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import importlib.metadata
import io
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
import trl
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.files import atomic_file
from cprec_hf.training.attention import VARLEN
from cprec_hf.training.packing import Order, pack_rows, row_lengths
from cprec_hf.training.sizing import Size, causal_pairs, mfu, recipe_config
from cprec_hf.training.trainer import StageTrainer

MODELS, LENGTHS, SEED = ("qwen3-0.6b", "llama-3.2-1b"), (2048, 8192), 0
LIMIT_S = 480  # of one cell
USUAL_S = 60  # what a cell is thought to take while none has run


@dataclass(frozen=True)
class Cell:
    """One trainer on one shape; `side` is stock-docs, stock or ours."""

    model: str
    length: int
    side: str
    attention: str = "sdpa"
    head: str = "auto"
    checkpointing: bool = False
    compiled: bool = False
    tokens: int | None = None  # a step; the settings' if None

    @property
    def name(self) -> str:
        extra = ["checkpointing"] * self.checkpointing + ["compiled"] * self.compiled
        extra += [f"{self.tokens}-tokens"] * (self.tokens is not None)
        head = [self.head] if self.side == "ours" else []
        return "-".join([self.model, str(self.length), self.side, *head, self.attention, *extra])


@dataclass(frozen=True)
class Settings:
    """What all cells have in common."""

    tokens: int = 16384
    warmup: int = 5
    steps: int = 20
    toy: bool = False


def all_cells(settings: Settings) -> list[Cell]:
    """The cells, those that matter most first, so that a short lease still compares the two sides."""
    stock_attention = ["sdpa", "flex_attention"] + [f"flash_attention_{n}" for n in (2, 3) if _has_flash(n)]
    heads, attentions = ["trl", "torch"], ["sdpa", "flex_attention"]  # beside auto and varlen
    shapes = [(model, length) for length in LENGTHS for model in MODELS]
    if settings.toy:
        shapes, stock_attention, heads, attentions = [(m, 64) for m in MODELS], ["sdpa"], ["trl"], ["sdpa"]
    every: list[Cell] = []
    for waves in (
        [{"side": "ours", "attention": VARLEN}, *({"side": "stock", "attention": a} for a in stock_attention)],
        [{"side": "ours", "attention": VARLEN, "checkpointing": True}],
        [{"side": "stock", "attention": a, "checkpointing": True} for a in stock_attention],
        [{"side": "stock-docs", "checkpointing": True}],
        [{"side": "ours", "attention": VARLEN, "compiled": True}] if not settings.toy else [],
        [{"side": "ours", "attention": VARLEN, "head": head} for head in heads],
        [{"side": "ours", "attention": a} for a in attentions],
        [{"side": "ours", "attention": VARLEN, "checkpointing": True, "compiled": True}] if not settings.toy else [],
    ):
        every += [Cell(model, length, **keys) for model, length in shapes for keys in waves]  # type: ignore[arg-type]
    sides = [("ours", VARLEN), *(("stock", a) for a in stock_attention)]
    for tokens in () if settings.toy else (4096, 8192, 32768, 65536):  # memory as a curve
        every += [
            Cell(model, LENGTHS[0], side, attention, checkpointing=checkpointing, tokens=tokens)
            for model in MODELS for checkpointing in (False, True) for side, attention in sides
        ]  # fmt: skip
    return every


def _has_flash(version: int) -> bool:
    from transformers import utils

    return bool(getattr(utils, f"is_flash_attn_{version}_available", lambda: False)())


def documents(tokens: int, longest: int, vocabulary: int) -> datasets.Dataset:
    """At least `tokens` tokens in documents of 32 to `longest`, log-normal around 350; few tokens are common (Zipf)."""
    rng = np.random.default_rng(SEED)
    least = min(32, longest // 4)
    lengths = np.exp(rng.normal(np.log(min(350, longest / 2)), 0.8, tokens // least + 1)).astype(np.int64)
    lengths = lengths.clip(least, longest)
    lengths = lengths[: int(np.searchsorted(lengths.cumsum(), tokens)) + 1]
    ids = 3 + np.minimum(rng.zipf(1.2, lengths.sum()), vocabulary - 4).astype(np.int32)
    offsets = pa.array(np.concatenate([[0], lengths.cumsum()]), pa.int32())
    column = pa.ListArray.from_arrays(offsets, pa.array(ids))
    return datasets.Dataset(pa.table({"input_ids": column, "labels": column}))


def new_model(config: Any, attention: str, device: str) -> Any:
    """Random weights, the same whatever the attention."""
    torch.manual_seed(SEED)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)


def new_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One that is never asked to tokenise."""
    words = {f"w{i}": i for i in range(vocabulary - 1)} | {"<pad>": vocabulary - 1}
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<pad>")


class Meter(TrainerCallback):
    """Times the steps after the warmup, and notes what their batches held by standing before the collator."""

    def __init__(self, settings: Settings, collate: Any) -> None:
        self.settings, self.collate, self.read = settings, collate, []
        self.seconds = self.cpu_seconds = 0.0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = [n for row in rows for n in row.get("seq_lengths") or [len(row["input_ids"])]]
        self.read.append((sum(lengths), causal_pairs(lengths)))
        return self.collate(rows)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.settings.warmup:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.settings.steps:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds += time.perf_counter()
            self.cpu_seconds += time.process_time()

    def measured(self) -> tuple[int, int]:
        """Tokens and pairs of the timed steps."""
        tokens, pairs = np.asarray(self.read[self.settings.warmup : self.settings.steps]).sum(0).tolist()
        return tokens, pairs


def make_trainer(cell: Cell, config: Any, settings: Settings, folder: str) -> trl.SFTTrainer:
    """The cell's trainer."""
    gpu = torch.cuda.is_available()
    batch = max(1, (cell.tokens or settings.tokens) // cell.length)
    docs = documents(int(1.1 * settings.steps * batch * cell.length), cell.length, config.vocab_size)
    model = new_model(config, cell.attention, "cuda" if gpu else "cpu")
    common = {
        "output_dir": folder, "max_steps": settings.steps, "learning_rate": 1e-3, "lr_scheduler_type": "constant",
        "max_length": cell.length, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "bf16": gpu, "use_cpu": not gpu, "dataloader_pin_memory": gpu, "seed": SEED, "torch_compile": cell.compiled,
        "activation_checkpointing": cell.checkpointing,
    }  # fmt: skip
    tokenizer = new_tokenizer(config.vocab_size)
    if cell.side == "stock-docs":  # its defaults: a batch of 8, padded to the longest document
        return trl.SFTTrainer(model, trl.SFTConfig(**common), train_dataset=docs, processing_class=tokenizer)
    rows = pack_rows(docs, cell.length, SEED)
    args = trl.SFTConfig(**common, per_device_train_batch_size=batch, packing=True, packing_strategy="bfd_split")
    if cell.side == "ours":
        record = ModelRecord("cpt", "", "1", 24, 20, None, "", None, "", {}, 0, 0, [])
        return StageTrainer(
            model, args, rows,
            tokenizer=tokenizer, record=record, phases=None, items=pa.table({}), loss_head=cell.head,
        )  # fmt: skip
    args.dataset_kwargs, args.train_sampling_strategy = {"skip_prepare_dataset": True}, "sequential"
    order = list(Order(row_lengths(rows), batch, settings.steps, SEED))
    return trl.SFTTrainer(model, args, train_dataset=rows.select(order), processing_class=tokenizer)


def toy_config(name: str) -> Any:
    """Of the same kind as a recipe's model, tiny."""
    config = recipe_config(name)
    shape = {"vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    return type(config)(**shape, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)


def run_cell(cell: Cell, settings: Settings, config: Any = None) -> dict[str, Any]:
    """Train, and return the cell's figures; `config` is the model's if it is not the cell's own."""
    datasets.disable_progress_bars()
    config = copy.deepcopy(config) or (toy_config if settings.toy else recipe_config)(cell.model)  # trainers change it
    size = Size.of(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(cell, config, settings, folder)
        meter = trainer.data_collator = Meter(settings, trainer.data_collator)
        trainer.add_callback(meter)
        with contextlib.redirect_stdout(io.StringIO()):  # both sides print each step
            trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    tokens, pairs = meter.measured()
    figures = {
        **dataclasses.asdict(cell),
        "kernels": getattr(trainer, "kernels", "stock"),
        "tokens_read": tokens,
        "seconds": meter.seconds,
        "tokens_per_second": tokens / meter.seconds,
        "tokens_per_cpu_second": tokens / meter.cpu_seconds,
        "losses": losses,
    }
    if torch.cuda.is_available():
        figures["mfu"] = mfu(size.training_flops(tokens, pairs), meter.seconds)
        figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return figures


def run_apart(cell: Cell) -> dict[str, Any]:
    """Run a cell in a process of its own; what goes wrong there is its result."""
    command = [sys.executable, __file__, "--cell", json.dumps(dataclasses.asdict(cell))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {**dataclasses.asdict(cell), "error": f"stopped after {LIMIT_S} seconds"}
    if done.returncode == 0:
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures
    if "OutOfMemoryError" in done.stderr:
        return {**dataclasses.asdict(cell), "out_of_memory": True}
    return {**dataclasses.asdict(cell), "error": done.stderr[-2000:]}


def machine() -> dict[str, Any]:
    """What figures depend on."""
    gpu = torch.cuda.is_available()
    names = ("torch", "transformers", "trl", "accelerate", "liger-kernel", "triton")
    found = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU",
        "versions": {name: importlib.metadata.version(name) for name in names if name in found},
    }


def summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each shape and checkpointing, ours against the fastest packed stock, which must have the same losses."""
    done = [cell for cell in cells if "losses" in cell]
    out = []
    keys = ("model", "length", "checkpointing", "tokens")
    for shape in dict.fromkeys(tuple(cell[key] for key in keys) for cell in done):
        same = [cell for cell in done if tuple(cell[key] for key in keys) == shape]
        sides = {side: [cell for cell in same if cell["side"] == side] for side in ("stock", "ours")}
        if not all(sides.values()):
            continue
        stock, ours = (max(sides[side], key=lambda cell: cell["tokens_per_second"]) for side in ("stock", "ours"))
        apart = max(np.abs(np.subtract(c["losses"], stock["losses"])).max() for c in same if c["side"] != "stock-docs")
        line = dict(zip(keys, shape, strict=True))
        line |= {"stock": stock["attention"], "ours": f"{ours['head']}, {ours['attention']}"}
        line |= {"times_as_fast": ours["tokens_per_second"] / stock["tokens_per_second"]}
        if "mfu" in ours:
            line |= {"mfu": ours["mfu"], "stock_mfu": stock["mfu"]}
            line |= {"memory_share": ours["peak_memory_bytes"] / stock["peak_memory_bytes"]}
        out.append({**line, "largest_difference_of_losses": float(apart)})
    return out


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go, cell by cell, and are taken up again")
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="seconds this call may take")
    parser.add_argument("--only", default="", help="only cells whose names contain this")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    parser.add_argument("--toy", action="store_true", help="tiny models on a CPU, to see that it runs and agrees")
    given = parser.parse_args(argv)
    settings = Settings(tokens=128, warmup=1, steps=3, toy=True) if given.toy else Settings()
    if given.cell:
        print(json.dumps(run_cell(Cell(**json.loads(given.cell)), settings)))
        return {}
    if not given.toy and not torch.cuda.is_available():
        parser.error("there is no GPU here; --toy runs anywhere")
    figures: dict[str, Any] = machine() | {"settings": dataclasses.asdict(settings), "cells": {}}
    if given.json and given.json.exists():
        before = json.loads(given.json.read_text(encoding="utf-8"))
        if any(before[key] != figures[key] for key in ("device", "versions", "settings")):
            parser.error(f"{given.json} holds figures of another machine or release; give another --json")
        figures = before
    started, longest = time.monotonic(), 0.0
    for cell in all_cells(settings):
        known = figures["cells"].get(cell.name, {"error": "not run yet"})
        if given.only not in cell.name or "error" not in known:
            continue
        begun = time.monotonic()
        if begun - started + (longest or USUAL_S) > given.budget_s:
            print(f"{cell.name}: not begun, for it would outlast --budget-s; call again", flush=True)
            break
        found = run_cell(cell, settings) if given.toy else run_apart(cell)
        longest = max(longest, time.monotonic() - begun)
        figures["cells"][cell.name] = found
        figures["summary"] = summary(list(figures["cells"].values()))
        if given.json:
            with atomic_file(given.json) as temporary:
                temporary.write_text(json.dumps(figures, indent=1), encoding="utf-8")
        print(f"{cell.name:<60} {_said(found)}", flush=True)
    for line in figures.get("summary", []):
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))
        if given.toy:
            assert line["largest_difference_of_losses"] < 1e-4, line
    return figures


def _said(found: dict[str, Any]) -> str:
    if "losses" not in found:
        return "out of memory" if found.get("out_of_memory") else f"failed: {found['error'].splitlines()[-1]}"
    text = f"{found['tokens_per_second']:>10,.0f} tokens/s"
    if "mfu" in found:
        text += f"  MFU {found['mfu']:.3f}  {found['peak_memory_bytes'] / 1e9:.1f} GB"
    return text


if __name__ == "__main__":
    main()
