"""Score every method on the same frozen candidates, user by user, and write the report.

    cprec evaluate --config recipes/tiny/evaluate.yaml

Metrics are taken per row with ties in expectation (`metrics/ranking_at_k`), averaged within each user, then over users.
Intervals and p-values come from resampling users, the same ones for every method (`metrics/paired_significance`).
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.command import run_as_command
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import MODELS, TRAINED, EvaluateConfig, MethodConfig
from cprec_hf.evaluation.matches import summarise_matches
from cprec_hf.evaluation.methods import Task, measure_method
from cprec_hf.evaluation.report import write_report
from cprec_hf.files import atomic_folder, require_free_space
from cprec_hf.hub.markdown import one_line
from cprec_hf.hub.report import console_table
from cprec_hf.metrics.paired_significance.paired_significance import RESAMPLES, bootstrap_means, compare, estimate
from cprec_hf.quiet import without_datasets_bars
from cprec_hf.recipes import read_recipe

RESULTS_FORMAT = 2
PerUser = dict[str, dict[str, np.ndarray]]  # by method and metric, float64 [users]


def run_evaluation(config: EvaluateConfig, *, overwrite: bool = False) -> Path:
    """Run the evaluation and write `results.json`, `per_user.parquet`, `report.md` and the plots, whole or not at all.

    Args:
        config: what to evaluate, on what.
        overwrite: whether an existing output folder may be replaced.

    Returns:
        The output folder.

    Raises:
        InputError: before any scoring: the output exists, or something the config names is missing or does not fit.
    """
    from cprec_hf.evaluation.plots import Curve

    with atomic_folder(config.output, overwrite=overwrite) as folder, without_datasets_bars():
        curves = [Curve.read(stage) for stage in config.curves]
        task = Task.load(config)
        if len(task.rows.user_ids) < 2:
            raise InputError(f"{config.corpus}: {config.domain} has one user in {config.split}; significance needs two")
        require_free_space(
            config.output, 16 * len(task.rows.user_ids) * len(config.methods) * len(config.k) * 4 + 10**7
        )
        per_user, matched, records = _measure_all(task)
        results = {
            **_about(task),
            "reference": _references(config, per_user),
            "methods": _summaries(config, per_user, matched, records),
        }
        _write_per_user(folder / "per_user.parquet", task, per_user, matched)
        write_report(folder, results, curves)
        table = console_table(results)
    print(f"\n{table}\n\nwritten to {config.output}")
    return Path(config.output)


def _measure_all(task: Task) -> tuple[PerUser, PerUser, dict[str, dict[str, Any]]]:
    """Per method: metrics, and how answers matched; and what is recorded of it. Prints a line and an estimate each."""
    config, rows = task.config, task.rows
    per_user: PerUser = {}
    matched: PerUser = {}
    records: dict[str, dict[str, Any]] = {}
    print(
        f"{config.domain}, {config.split}: {len(rows.user_ids):,} users, {len(rows):,} rows of "
        f"{rows.candidates.shape[1]} candidates, {len(config.methods)} methods",
        flush=True,
    )
    spent: dict[str, list[float]] = {}  # seconds of each method so far, of those that take about as long
    width = max(len(method.name) for method in config.methods)
    methods = sorted(config.methods, key=lambda method: bool(method.parts))  # after their parts, which take time
    for i, method in enumerate(methods, start=1):
        start = time.perf_counter()
        found = measure_method(method, task)
        per_user[method.name] = {name: rows.per_user(values) for name, values in found.metrics.items()}
        if found.matched:
            matched[method.name] = {name: rows.per_user(values) for name, values in found.matched.items()}
        records[method.name] = found.record
        seconds = time.perf_counter() - start
        spent.setdefault(_pace(method), []).append(seconds)
        first = f"hr@{config.k[0]}"
        print(
            f"[{i}/{len(config.methods)}] {one_line(method.name):<{width}}  {first} "
            f"{per_user[method.name][first].mean():.3f}  {seconds:.1f} s{_left(methods[i:], spent)}",
            flush=True,
        )
        gc.collect()  # the model, before the next one is loaded
    return per_user, matched, records


def _pace(method: MethodConfig) -> str:
    return "model" if method.kind in MODELS else "trained" if method.kind in TRAINED else "counted"


def _left(remaining: Sequence[MethodConfig], spent: dict[str, list[float]]) -> str:
    """The time the remaining methods should take, from the mean of those like them; empty if none has run yet."""
    paces = [_pace(method) for method in remaining]
    if not paces or not spent.keys() >= set(paces):
        return ""
    return f", about {sum(sum(spent[pace]) / len(spent[pace]) for pace in paces):.0f} s left"


def _about(task: Task) -> dict[str, Any]:
    config, facts = task.config, task.facts
    return {
        "format": RESULTS_FORMAT,
        "corpus": {
            "location": config.corpus,
            "revision": config.corpus_revision,
            "name": facts["name"],
            "redistributable": facts["about"]["redistributable"],
            "content_sha256": facts["content_sha256"],
            "candidates_sha256": facts["candidates"]["sha256"],
            "split_policy": facts["split"],
            "template": facts["template"],
        },
        "domain": config.domain,
        "split": config.split,
        "users": len(task.rows.user_ids),
        "rows": len(task.rows),
        "candidates": task.rows.candidates.shape[1],
        "candidate_set": task.column or "all",
        "items": len(task.catalogue),
        "k": config.k,
        "seed": config.seed,
        "train_share": config.train_share,
        "subset_seed": config.subset_seed,
        "bootstrap_resamples": RESAMPLES,
        "curves": config.curves,
        "versions": {
            name: _version(name)
            for name in ("cprec-hf", "torch", "transformers", "datasets", "numpy", "scipy", "pyarrow")
        },
    }


def _references(config: EvaluateConfig, per_user: PerUser) -> dict[str, str]:
    """For each metric, the best of the methods that `reference` names (the first of equals)."""
    if not config.reference:
        return {}
    metrics = per_user[config.reference[0]]
    return {m: max(config.reference, key=lambda name: float(per_user[name][m].mean())) for m in metrics}


def _summaries(
    config: EvaluateConfig, per_user: PerUser, matched: PerUser, records: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Per method: what it is, metrics with intervals, the comparison with the reference, how its answers matched."""
    reference = _references(config, per_user)
    columns = [(method.name, metric) for method in config.methods for metric in per_user[method.name]]
    values = [per_user[name][metric] for name, metric in columns]
    gaps = [per_user[name][m] - per_user[reference[m]][m] for name, m in columns] if reference else []
    answers = [matched[name][value] for name in matched for value in ("correct", "valid")]
    means = bootstrap_means(np.stack(values + gaps + answers, axis=1), config.seed)
    summaries: dict[str, dict[str, Any]] = {
        method.name: {**dataclasses.asdict(method), **records[method.name], "metrics": {}, "against_reference": {}}
        for method in config.methods
    }
    for i, (name, metric) in enumerate(columns):
        estimated = estimate(values[i], means[:, i])
        summaries[name]["metrics"][metric] = dataclasses.asdict(estimated)
        if reference and name != reference[metric]:
            compared = compare(values[i], per_user[reference[metric]][metric], means[:, len(columns) + i])
            summaries[name]["against_reference"][metric] = dataclasses.asdict(compared)
    for i, (name, values_of) in enumerate(matched.items()):
        resampled = means[:, len(values) + len(gaps) + 2 * i :]
        three = summarise_matches(values_of["correct"], values_of["valid"], resampled[:, 0], resampled[:, 1])
        summaries[name]["matched"] = {metric: dataclasses.asdict(estimated) for metric, estimated in three.items()}
    return list(summaries.values())


def _write_per_user(path: Path, task: Task, per_user: PerUser, matched: PerUser) -> None:
    """One row per user: user_id, rows, and a column `<method>/<metric>` for each method and metric.

    For answers also `<method>/correct` and `<method>/valid`: hr_all and valid_ratio are their means, hr_valid the
    first's over the second's.
    """
    columns: dict[str, Any] = {"user_id": task.rows.user_ids, "rows": np.bincount(task.rows.users)}
    names = [method.name for method in task.config.methods]
    for name, metrics in [*((name, per_user[name]) for name in names), *matched.items()]:
        columns |= {f"{name}/{metric}": values for metric, values in metrics.items()}
    pq.write_table(pa.table(columns), path)


def main(argv: Sequence[str] | None = None) -> Path:
    """`cprec evaluate`: read a recipe, run it, print the table. Returns the output folder."""
    parser = argparse.ArgumentParser(prog="cprec evaluate", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", required=True, help="an evaluation recipe, for example recipes/tiny/evaluate.yaml")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it exists")
    for key in ("corpus", "corpus_revision", "domain", "split", "output"):
        parser.add_argument(f"--{key}", help="in place of the recipe's")
    parser.add_argument("--seed", type=int, help="in place of the recipe's")
    parser.add_argument("--train_share", type=float, help="in place of the recipe's: fit baselines on few users only")
    given = vars(parser.parse_args(argv))
    recipe, overwrite = given.pop("config"), given.pop("overwrite")
    config = read_recipe(recipe, EvaluateConfig, {key: value for key, value in given.items() if value is not None})
    return run_evaluation(config, overwrite=overwrite)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # a checkout that is run without being installed
        return "checkout"


if __name__ == "__main__":
    run_as_command(main)
