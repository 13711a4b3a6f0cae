"""Local folders of every kind that can be pushed, small and whole, and the plan for each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file

from cprec_hf.hub import kinds
from cprec_hf.hub.publish import Push

SOMEWHERE = "/home/someone/outputs"
COUNTS = {"users": 12, "items": 3, "interactions": 60}
CORPUS = {
    "format": 1, "name": "shop",
    "template": {
        "version": "1", "max_title_tokens": 8, "history_length": 5, "window_tokens": 64,
        "candidate_list_in_prompt": False,
    },
    "tokenizer": "tokenizer",
    "about": {"name": "shop", "licence": "CC BY 4.0", "citation": "us", "order": "time", "redistributable": True},
    "source": {"kind": "table", "interactions": "/home/someone/secret/events.csv"},
    "domains": {
        "Arts": {**COUNTS, "slug": "arts", "role": "cpt"}, "Toys": {**COUNTS, "slug": "toys", "role": "downstream"},
    },
    "split": {"policy": "leave_one_out", "cuts": None},
    "candidates": {"count": 3, "sha256": "ab" * 32}, "content_sha256": "cd" * 32,
    "account": [], "audit": [{"check": "no leak", "passed": True, "n": 5, "detail": "none"}],
    "counts": {"cpt": {"train": 2}, "items": {"train": 3}, "sft-toys": {"train": 2, "test": 1}},
    "tokens": {"domain": 10}, "titles": {"cut": 0, "collisions": 0}, "seed": 7, "cprec_hf": "0.1.0",
    "pseudonymised": True,
}  # fmt: skip
RECORD = {
    "format": 1, "stage": "sft", "base": "user/base", "template_version": "1", "max_title_tokens": 8,
    "history_length": 5, "domain": "Toys", "corpus": "user/corpus", "corpus_revision": "a" * 40,
    "corpus_hash": "cd" * 32,
    "schedule": {"type": "wsa", "step": 4, "warmup_steps": 1, "stable_steps": 3, "anneal_steps": 0},
    "tokens": 99, "seed": 0, "parents": ["user/base"], "candidate_list_in_prompt": False, "window_tokens": 64,
    "corpus_redistributable": True, "hardware": "CPU, 1 threads",
}  # fmt: skip


def dump(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def corpus(folder: Path, **facts: Any) -> Path:
    dump(folder / "cprec-corpus.json", {**CORPUS, **facts})
    for name, splits in CORPUS["counts"].items():
        for split, rows in splits.items():
            (folder / name).mkdir(exist_ok=True)
            pq.write_table(pa.table({"text": [f"{name} {i}" for i in range(rows)]}), folder / name / f"{split}.parquet")
    return folder


def model(folder: Path, seed: int = 0, **record: Any) -> Path:
    dump(folder / "cprec.json", {**RECORD, **record})
    dump(folder / "config.json", {"model_type": "llama", "seed": seed})
    weights = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
    save_file({"w": weights}, folder / "model.safetensors")
    log = [{"step": i, "loss": 1.0, "learning_rate": 0.1, "phase": "stable", "tokens": 9 * i} for i in (1, 2, 3, 4)]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log), encoding="utf-8")
    items = {"item_id": ["a"], "domain": ["Toys"], "title": ["red ball"], "full_title": ["Red ball"]}
    pq.write_table(pa.table(items), folder / "items.parquet")
    (folder / "README.md").write_text("the stage's own card", encoding="utf-8")
    return folder


def adapter(folder: Path, seed: int = 0, **record: Any) -> Path:
    model(folder, seed, **record)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    dump(folder / "adapter_config.json", {"base_model_name_or_path": "user/base", "peft_type": "LORA"})
    return folder


def trunk(run: Path, seed: int = 0, **record: Any) -> Path:
    folder = model(run / "checkpoint-4", seed, **{"stage": "cpt", "domain": None, **record})
    (folder / "items.parquet").unlink()  # a run writes its items and its log once, beside the finished model
    (folder / "log.jsonl").rename(run / "log.jsonl")
    dump(folder / "trainer_state.json", {"global_step": 4, "best_model_checkpoint": f"{SOMEWHERE}/checkpoint-4"})
    state = {"numpy": np.random.default_rng(seed).bit_generator.state["state"], "cpu": torch.zeros(3)}
    torch.save(state, folder / "rng_state.pth")
    torch.save({"state": {0: torch.ones(2)}}, folder / "optimizer.pt")
    torch.save({"last_epoch": 4}, folder / "scheduler.pt")
    (folder / "training_args.bin").write_bytes(b"pickle")
    return folder


def results(folder: Path, model_folder: str = f"{SOMEWHERE}/rec", **corpus_keys: Any) -> Path:
    metrics = {
        f"{name}@{k}": {"mean": 0.4, "low": 0.3, "high": 0.5}
        for k in (1, 10)
        for name in ("hr", "ndcg", "mrr", "recall")
    }
    where = {
        "location": "user/corpus", "revision": "a" * 40, "name": "shop", "content_sha256": "cd" * 32,
        "candidates_sha256": "ab" * 32, "split_policy": {"policy": "time", "cuts": None}, "redistributable": True,
    }  # fmt: skip
    method = {"name": "CPRec", "kind": "model", "model": model_folder, "revision": None, "score": "sum"}
    dump(
        folder / "results.json",
        {
            "format": 1, "corpus": {**where, **corpus_keys}, "domain": "Toys", "split": "test", "users": 9, "rows": 9,
            "candidates": 20, "items": 30, "k": [1, 10], "seed": 0, "bootstrap_resamples": 100, "curves": [],
            "versions": {"torch": "2"}, "reference": {},
            "methods": [{**method, "record": RECORD, "metrics": metrics, "against_reference": {}}],
        },
    )  # fmt: skip
    (folder / "report.md").write_text(f"# report of {model_folder}", encoding="utf-8")
    pq.write_table(pa.table({"user_id": ["u"], "CPRec/hr@1": [0.4]}), folder / "per_user.parquet")
    return folder


def metric(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"{folder.name}.py", "app.py", "requirements.txt", "__init__.py"):
        (folder / name).write_text(f"# {name} {seed}\n", encoding="utf-8")
    card = f'---\nsdk: gradio\ntitle: a metric\n---\n# a metric\n\nevaluate.load("{folder.name}")\n'
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


PLANS: dict[str, Callable[[Path, int], Push]] = {
    "corpus": lambda at, seed: kinds.plan_corpus(corpus(at / "corpus", seed=seed), "ada/it"),
    "trunk": lambda at, seed: kinds.plan_trunk(trunk(at / "trunk", seed), "ada/it"),
    "model": lambda at, seed: kinds.plan_model(model(at / "model", seed), "ada/it"),
    "adapter": lambda at, seed: kinds.plan_adapter(adapter(at / "adapter", seed), "ada/it"),
    "recommender": lambda at, seed: kinds.plan_recommender(
        model(at / "rec", seed), "ada/it", results=results(at / "report", str(at / "rec"))
    ),
    "metric": lambda at, seed: kinds.plan_metric(metric(at / "it", seed), "ada/it"),
    "results": lambda at, seed: kinds.plan_results(results(at / "report", name=f"shop {seed}"), "ada/it"),
}
"""Kind -> a function that writes its folder (another `seed`, other contents) and plans its push to `ada/it`."""
