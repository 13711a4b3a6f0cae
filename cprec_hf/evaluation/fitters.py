"""How each kind of method is fitted: a table from kind to fitter. A new kind is one entry here and one in `Kind`.

A fitter takes the method and the task and gives a function from rows to scores, and what is to be recorded. It reads
training and validation rows only, and imports what is heavy (torch, a model) when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.memoriser import memoriser_scores
from cprec_hf.evaluation import baselines
from cprec_hf.evaluation.config import Kind, MethodConfig
from cprec_hf.evaluation.models import model_scorer
from cprec_hf.evaluation.rows import Rows, Score
from cprec_hf.evaluation.task import Task

Fitter = Callable[[MethodConfig, Task], tuple[Score, dict[str, Any]]]


def _model(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    return model_scorer(method, task.config)


def _random(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    rng = np.random.default_rng(task.config.seed)
    return lambda rows: baselines.random_scores(rows, rng), {"seed": task.config.seed}


def _popularity(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    return partial(baselines.popularity, task.train), {}


def _repeat(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    def score(setting: baselines.Repeat, rows: Rows) -> np.ndarray:
        return baselines.repeat(rows, setting)

    return _tuned(baselines.REPEAT_GRID, score, task)


def _item_knn(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    def score(setting: baselines.ItemKnn, rows: Rows) -> np.ndarray:
        return baselines.item_knn(task.train, rows, setting)

    return _tuned(baselines.ITEM_KNN_GRID, score, task)


def _title_overlap(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    vectors = baselines.title_vectors(baselines.title_words(task.catalogue.titles))

    def score(setting: baselines.TitleOverlap, rows: Rows) -> np.ndarray:
        return baselines.title_overlap(vectors, rows, setting)

    return _tuned(baselines.TITLE_OVERLAP_GRID, score, task)


def _bm25(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    counts = baselines.title_words(task.catalogue.titles)

    def score(setting: baselines.Bm25, rows: Rows) -> np.ndarray:
        return baselines.bm25(counts, rows, setting)

    return _tuned(baselines.BM25_GRID, score, task)


def _embedding(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    from cprec_hf.evaluation.title_cosine import fit_title_cosine

    return fit_title_cosine(method, task)


def _sequential(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    from cprec_hf.evaluation.sequential.fit import fit_sequential

    return fit_sequential(method, task)


def _candidate_memoriser(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    """The lookup from candidate set to target, learnt on train, validation and test rows but those that are scored."""
    column, width = task.column, task.rows.candidates.shape[1]
    names = [name for name in ("train", "validation", "test") if name in task.splits and name != task.config.split]
    known = pa.concat_tables([task.splits[name].select([column, "target"]) for name in names])
    known = known.filter(pc.equal(pc.list_value_length(known[column]), width))
    targets = known["target"].to_pylist()
    return lambda rows: memoriser_scores(known[column], targets, rows.table[column]), {"known_rows": len(known)}


def _oracle(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    oracle, users = task.oracle

    def score(rows: Rows) -> np.ndarray:
        of_row, times = np.array(users)[rows.users].tolist(), rows.table["timestamp"].to_numpy()
        if method.kind == "latent_oracle":
            return oracle.latent_scores(of_row, times, rows.candidate_ids)
        return oracle.bayes_scores(of_row, times, rows.table["history"].to_pylist(), rows.candidate_ids)

    return score, {}


def _tuned(grid: list[Any], score: Callable[[Any, Rows], np.ndarray], task: Task) -> tuple[Score, dict[str, Any]]:
    """The setting that is best on validation, as a scorer; the grid and the choice are recorded."""
    setting, record = baselines.choose(grid, score, task.validation, max(task.config.k))
    return partial(score, setting), record


FITTERS: Mapping[Kind, Fitter] = {
    "model": _model,
    "pointwise": _model,
    "item_knn": _item_knn,
    "title_overlap": _title_overlap,
    "bm25": _bm25,
    "popularity": _popularity,
    "repeat": _repeat,
    "embedding": _embedding,
    "gru4rec": _sequential,
    "sasrec": _sequential,
    "bert4rec": _sequential,
    "sasrec_llm": _sequential,
    "random": _random,
    "candidate_memoriser": _candidate_memoriser,
    "latent_oracle": _oracle,
    "bayes_oracle": _oracle,
}
"""Every kind that gives scores; `generate` gives answers."""
