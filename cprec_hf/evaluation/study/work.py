"""What a worker does: one whole cell at a time, in its own process, through the entry points of the recipes.

A worker lives for the whole study, so that libraries are imported once, and computes on one thread, so that a cell has
the same bytes however many work side by side. It ends with the process that started it, whatever ended that.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.evaluation.study.cells import CORPUS, LOG, MODEL, PER_USER, RESULT, Cells
from cprec_hf.evaluation.study.plan import Cell
from cprec_hf.recipes import expand_environment, from_mapping

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Of every worker, set before it starts."""


def work(output: str, told: Connection) -> None:
    """Do the cells that come through a pipe, until it is closed; answer each with None, or why it failed.

    Args:
        output: folder of the study.
        told: gives (cell, the cells it needs by role), takes the answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the cells
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cells = Cells(output)
    while True:
        try:
            cell, needs = told.recv()
        except EOFError:
            return
        told.send(do(cells, cell, needs))


def do(cells: Cells, cell: Cell, needs: Mapping[str, Cell]) -> str | None:
    """Make one cell; returns None, or in a line why it failed. All it prints goes to its log."""
    begin, cpu = time.monotonic(), time.process_time()
    makers = {"corpus": _corpus, "stage": _stage, "evaluate": _evaluate}
    folder = cells.begin(cell, _runnable(cells, cell, needs))
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    failed = None
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        makers[cell.kind](cells, cell, needs, folder)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        failed = " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, before in enumerate(kept, 1):
            os.dup2(before, descriptor)
            os.close(before)
        os.close(log)
        gc.collect()
    if failed is None:
        cells.finish(cell, needs, time.monotonic() - begin, time.process_time() - cpu)
    return failed


def _runnable(cells: Cells, cell: Cell, needs: Mapping[str, Cell]) -> dict[str, Any]:
    """The configuration with the paths of its finished neighbours: a recipe that runs by hand."""
    here = cells.path(cell)
    if cell.kind == "corpus":
        return {**cell.config, "output": str(here / CORPUS)}
    corpus = cells.corpus(needs["corpus"])
    if cell.kind == "stage":
        config = {key: value for key, value in cell.config.items() if key not in ("stage", "start")}
        config |= {"corpus": corpus, "output_dir": str(here / MODEL)}
        if "start" in needs or "start" in cell.config:
            start = cell.config.get("start", "")
            found = cells.model(needs["start"], cell.inside) if not start else expand_environment(start, cell.label)
            config["init_from" if cell.config["stage"] == "anneal" else "model_name_or_path"] = found
        return config
    config = dict(cell.config)
    method = {"name": cell.label, **config.pop("method")}
    if "model" in needs:
        method["model"] = cells.model(needs["model"], cell.inside)
    methods = [*config.pop("parts", []), method]
    for i, part in enumerate(methods):
        part = methods[i] = dict(part)
        if "of" in part:
            part["model"] = cells.model(needs[part.pop("of")], part.pop("inside"))
        elif part.get("model"):
            part["model"] = expand_environment(part["model"], cell.label)
    return {"corpus": corpus, **config, "output": str(here), "methods": methods}


def _corpus(cells: Cells, cell: Cell, needs: Mapping[str, Cell], folder: Path) -> None:
    from cprec_hf.corpus.build import build_corpus
    from cprec_hf.corpus.config import CorpusConfig

    config = {**_runnable(cells, cell, needs), "output": str(folder / CORPUS)}
    if isinstance(config["tokenizer"], str):
        config["tokenizer"] = expand_environment(config["tokenizer"], f"corpus {cell.label!r}: `tokenizer`")
    build_corpus(from_mapping(config, CorpusConfig, f"corpus {cell.label!r}"), overwrite=True)


def _stage(cells: Cells, cell: Cell, needs: Mapping[str, Cell], folder: Path) -> None:
    import torch

    from cprec_hf.ranking.catalogue import ITEMS_FILE

    torch.set_num_threads(1)
    flags = ["--config", str(folder / "config.yaml"), "--output_dir", str(folder / MODEL)]
    stage = import_module(f"cprec_hf.training.{cell.config['stage']}")
    stage.main([*flags, "--resume_from_checkpoint", "true"])
    for checkpoint in (folder / MODEL).glob("checkpoint-*"):  # they rank too, as rows may ask of them
        (checkpoint / ITEMS_FILE).unlink(missing_ok=True)
        os.link(folder / MODEL / ITEMS_FILE, checkpoint / ITEMS_FILE)


def _evaluate(cells: Cells, cell: Cell, needs: Mapping[str, Cell], folder: Path) -> None:
    import torch

    from cprec_hf.evaluation.config import EvaluateConfig
    from cprec_hf.evaluation.methods import Task, measure_method
    from cprec_hf.metrics.paired_significance.paired_significance import bootstrap_means, estimate

    torch.set_num_threads(1)
    config = from_mapping(_runnable(cells, cell, needs), EvaluateConfig, cell.name)
    task = Task.load(config)
    found = measure_method(config.methods[-1], task)  # a hybrid's parts stand before it
    rows = task.rows
    per_user = {name: rows.per_user(values) for name, values in [*found.metrics.items(), *found.matched.items()]}
    columns: dict[str, Any] = {"user_id": rows.user_ids, "rows": np.bincount(rows.users), **per_user}
    pq.write_table(pa.table(columns), folder / PER_USER)
    facts, means = task.facts, bootstrap_means(np.stack([*per_user.values()], axis=1), config.seed)
    result = {
        "method": {key: value for key, value in _runnable(cells, cell, needs)["methods"][-1].items() if key != "name"},
        "record": found.record,
        "metrics": {name: asdict(estimate(per_user[name], means[:, i])) for i, name in enumerate(per_user)},
        "corpus": {
            "location": config.corpus, "revision": config.corpus_revision, "name": facts["name"],
            "redistributable": facts["about"]["redistributable"], "content_sha256": facts["content_sha256"],
            "candidates_sha256": facts["candidates"]["sha256"],
        },
        "users": len(rows.user_ids), "rows": len(rows), "candidates": rows.candidates.shape[1],
        "candidate_set": task.column or "all", "items": len(task.catalogue),
    }  # fmt: skip
    (folder / RESULT).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
