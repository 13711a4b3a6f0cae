"""What the same CPU time buys, from one fine-tuned model: more of the same fine-tuning, or list-wise training.

    python benchmarks/listwise_quality.py --world tiny --json tiny.json           # needs outputs/tiny/{corpus,sft}
    python benchmarks/listwise_quality.py --world amazon-small --json amazon.json # outputs/amazon-small/{corpus,sft}
    python benchmarks/listwise_quality.py --toy                                   # seconds; only checks that it runs

Every cell is one run of a stage from the model `outputs/WORLD/sft`, as long as its CPU seconds allow (a step's cost is
measured first, in this process, on one thread). First one seed tries settings, each arm its own: learning rates, and of
list-wise training K, the weight of the LM loss, where negatives come from, and the reference. The best of each arm by
ndcg@10 on the validation rows (never on test) then runs with three further seeds, and these are compared on the test
rows: hr@1 and ndcg@10 with 95 % intervals over seeds and users, and p. A cell that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cprec_hf.files import atomic_file
from cprec_hf.metrics.paired_significance.paired_significance import bootstrap_means, compare_paired, estimate
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.training import listwise, sft
from cprec_hf.training.data import corpus_table

WORLDS = {"tiny": ("Music", 30.0), "amazon-small": ("Scientific", 600.0)}  # domain, CPU seconds of a cell
SEEDS = (11, 12, 13)
TRIED_WITH = 7
KEYS = {"per_device_train_batch_size": 8, "warmup_steps": 0.05, "save_strategy": "no", "logging_steps": 50}
KEYS |= {"lr_scheduler_kwargs": '{"anneal_ratio": 0.3}', "report_to": "none"}
METRICS, SCORES = ("hr@1", "ndcg@10"), ("sum", "pmi")
BASE = {"learning_rate": 1e-3, "negatives": 6, "lm_weight": 0.3}


def settings() -> list[tuple[str, dict[str, Any]]]:
    """What is tried: arms with their keys, those that matter most first."""
    found: list[tuple[str, dict[str, Any]]] = [("sft", {"learning_rate": rate}) for rate in (1e-3, 3e-4, 3e-3)]
    changes: list[dict[str, Any]] = [{}, {"learning_rate": 3e-4}, {"learning_rate": 2e-3}]
    changes += [{"negatives": count} for count in (1, 3, 20)] + [{"lm_weight": weight} for weight in (0.0, 0.1, 1.0)]
    changes += [{"negative_source": source} for source in ("popularity", "in_batch")]
    changes += [{"length_normalise": "true", "beta": 10.0}, {"min_history": 0}]
    changes += [{"reference": "true", "beta": beta} for beta in (1.0, 0.1)]
    return found + [("listwise", BASE | change) for change in changes]


def command(world: str, outputs: Path, arm: str, keys: dict[str, Any], folder: Path, seed: int) -> list[str]:
    here = outputs / world
    values = KEYS | keys | {
        "corpus": here / "corpus", "domain": WORLDS[world][0], "model_name_or_path": here / "sft",
        "output_dir": folder / "out", "seed": seed,
    }  # fmt: skip
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def run(arm: str, argv: list[str], steps: int) -> tuple[Path, float]:
    """A run's folder and the CPU seconds it took, what comes before and after its steps included."""
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        stage = sft if arm == "sft" else listwise
        out = stage.main([*argv, "--max_steps", str(steps), "--overwrite"])
    return out, time.process_time() - begin


def per_user(folder: Path, corpus: Path, domain: str, split: str, rows: int | None) -> dict[str, np.ndarray]:
    """`SCORE METRIC` -> its value for each row of a split."""
    recommender = Recommender.from_pretrained(str(folder))
    table = corpus_table(str(corpus), None, f"sft-{domain.lower()}", split, ["history", "target", "candidates"])
    table = table.slice(0, rows)
    histories, candidates = table["history"].to_pylist(), table["candidates"].to_pylist()
    relevance = np.array(candidates) == np.array(table["target"].to_pylist())[:, None]
    found = {}
    for score in SCORES:
        metrics = ranking_at_k(recommender.rank(histories, candidates, domain=domain, score=score), relevance, [1, 10])
        found |= {f"{score} {name}": np.asarray(metrics[name], dtype=np.float64) for name in METRICS}
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=[*WORLDS], default="tiny")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where the recipes of the world wrote")
    parser.add_argument("--cpu-seconds", type=float, help="of a cell, in place of the world's own")
    parser.add_argument("--json", type=Path, help="where the figures go, and what is run already stands")
    parser.add_argument("--toy", action="store_true", help="a model and a corpus of its own, two settings, three steps")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        outputs, tried, seeds, rows = given.outputs, settings(), SEEDS, None
        budget = given.cpu_seconds or WORLDS[given.world][1]
        if given.toy:
            outputs, tried, seeds, rows, budget = (
                toy_world(Path(scratch)),
                [*settings()[:1], *settings()[3:4]],
                (11,),
                20,
                0.0,
            )
        return compare(given.world, outputs, tried, seeds, budget, rows, given.json, Path(scratch))


def compare(
    world: str, outputs: Path, tried: list[tuple[str, dict[str, Any]]], seeds: Sequence[int], budget: float,
    rows: int | None, file: Path | None, scratch: Path,
) -> dict[str, Any]:  # fmt: skip
    domain, corpus = WORLDS[world][0], outputs / world / "corpus"
    figures: dict[str, Any] = {"world": world, "cpu_seconds": budget, "cells": {}}
    if file and file.exists():
        figures = json.loads(file.read_text(encoding="utf-8"))
        assert (figures["world"], figures["cpu_seconds"]) == (world, budget), f"{file} is of another comparison"
    cells, costs = figures["cells"], figures.setdefault("cpu_seconds_a_step", {})

    def save() -> None:
        if file:
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(figures, indent=1), encoding="utf-8")

    def cell(arm: str, keys: dict[str, Any], seed: int, splits: Sequence[str]) -> dict[str, Any]:
        name = f"{arm} {' '.join(f'{k}={v}' for k, v in keys.items())}"
        argv = command(world, outputs, arm, keys, scratch, seed)
        if budget and name not in costs:
            short, longer = (run(arm, argv, steps)[1] for steps in (5, 25))
            costs[name] = max(longer - short, 1e-3) / 20
        steps = max(3, round(budget / costs[name])) if budget else 3
        key = f"{name} seed={seed}"
        if key not in cells:
            out, seconds = run(arm, argv, steps)
            values = {split: per_user(out, corpus, domain, split, rows) for split in splits}
            cells[key] = {"arm": arm, "keys": keys, "seed": seed, "steps": steps, "cpu_seconds": seconds} | {
                split: {metric: column.tolist() for metric, column in found.items()} for split, found in values.items()
            }
            shutil.rmtree(out)
            save()
        found = cells[key]
        means = "  ".join(f"{m} {np.mean(v):.4f}" for m, v in found["validation"].items())
        print(f"{key}: {found['steps']} steps, {found['cpu_seconds']:.0f} CPU s; validation {means}", flush=True)
        return found

    start = per_user(outputs / world / "sft", corpus, domain, "test", rows)
    figures["start"] = {metric: float(column.mean()) for metric, column in start.items()}
    print(f"start on test: {figures['start']}", flush=True)
    best: dict[str, dict[str, Any]] = {}
    for arm, keys in tried:
        found = cell(arm, keys, TRIED_WITH, ["validation"])
        if arm not in best or _chosen_by(found) > _chosen_by(best[arm]):
            best[arm] = found
    final = {
        arm: [cell(arm, found["keys"], seed, ["validation", "test"]) for seed in seeds] for arm, found in best.items()
    }
    figures["result"] = {"chosen": {arm: found["keys"] for arm, found in best.items()}} | {
        metric: _compared(final, metric) for metric in start
    }
    save()
    for metric, result in figures["result"].items():
        print(metric, json.dumps(result))
    return figures


def _chosen_by(found: dict[str, Any]) -> float:
    """The ndcg@10 on validation, by the better of the scores."""
    return max(float(np.mean(found["validation"][f"{score} ndcg@10"])) for score in SCORES)


def _compared(final: dict[str, list[dict[str, Any]]], metric: str) -> dict[str, Any]:
    """Both arms on test, and the list-wise one against the other."""
    values = {arm: np.array([found["test"][metric] for found in cells]) for arm, cells in final.items()}
    n_seeds, n = next(iter(values.values())).shape
    result: dict[str, Any] = {"n": n, "seeds": n_seeds}
    for arm, found in values.items():
        users = found.mean(axis=0)
        e = estimate(users, bootstrap_means(users[:, None], 0)[:, 0])
        result[arm] = {"mean": e.mean, "low": e.low, "high": e.high}
    seeds, users = (index.ravel() for index in np.indices((n_seeds, n)))
    gap = compare_paired(values["listwise"].ravel(), values["sft"].ravel(), users=users, seeds=seeds)
    return result | {
        "difference": gap.difference,
        "low": gap.low,
        "high": gap.high,
        "p": gap.p_bootstrap,
        "p_t": gap.p_t,
    }


def toy_world(folder: Path) -> Path:
    """The marketplace at a size of seconds, with a base model for a fine-tuned one."""
    from cprec_hf.corpus.build import build_corpus
    from cprec_hf.corpus.config import CorpusConfig
    from cprec_hf.recipes import read_recipe
    from cprec_hf.training import base

    here = folder / "tiny"
    config = read_recipe("recipes/tiny/corpus.yaml", CorpusConfig, {"output": str(here / "corpus")})
    config.source.update(domains=["Books"], users=60, unseen_users=60, items_per_domain=160)
    with contextlib.redirect_stdout(io.StringIO()):
        build_corpus(config)
        base.main(
            ["--config", "recipes/tiny/base.yaml", "--corpus", str(here / "corpus"), "--output_dir", str(here / "sft"),
             "--max_steps", "3", "--warmup_steps", "0", "--hidden_size", "32"]
        )  # fmt: skip
    return folder


if __name__ == "__main__":
    main()
