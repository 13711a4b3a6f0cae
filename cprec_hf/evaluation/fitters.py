"""How each kind of method is fitted: a table from kind to fitter. A new kind is one entry here and one in `Kind`.

A fitter takes the method and the task and gives a function from rows to scores, and what is to be recorded. It reads
training and validation rows only, and imports what is heavy (torch, a model) when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.memoriser import memoriser_scores
from cprec_hf.evaluation import baselines
from cprec_hf.evaluation.config import Kind, MethodConfig
from cprec_hf.evaluation.hybrid import fit_hybrid
from cprec_hf.evaluation.kept import Kept
from cprec_hf.evaluation.models import model_scorer
from cprec_hf.evaluation.rows import Rows, Score
from cprec_hf.evaluation.task import Task

Fitter = Callable[[MethodConfig, Task], tuple[Score, dict[str, Any]]]


def fit_method(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    """What gives scores to rows of the task, higher is better, and what is to be recorded of the method.

    A part of another method is fitted once, and scores the task's rows and the validation rows at once; those are kept.

    Args:
        method: of any kind in `FITTERS`.
        task: what it is fitted on.

    Raises:
        InputError: the method cannot run here (see `Task.load`, `Recommender.from_pretrained`, `MarketplaceOracle`).
        ValueError: when it scores: the scores are of another shape than the candidates, or NaN.
    """
    if method.name in task.fitted:
        return task.fitted[method.name]
    score, record = FITTERS[method.kind](method, task)
    score = partial(_checked, method, score)
    if method.name in task.config.parts:
        score = Kept.score(score, [task.rows, task.validation] if task.config.split != "validation" else [task.rows])
        task.fitted[method.name] = score, record
    return score, record


def _checked(method: MethodConfig, score: Score, rows: Rows) -> np.ndarray:
    """Scores float64 [rows, candidates]; raises `ValueError` for another shape, or NaN."""
    scores = np.asarray(score(rows), dtype=np.float64)
    if scores.shape != rows.candidates.shape:
        raise ValueError(f"method {method.name!r} gave scores {scores.shape} for candidates {rows.candidates.shape}")
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise ValueError(f"method {method.name!r} gave NaN scores, first in row {row}; NaN has no rank")
    return scores


def _model(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    return model_scorer(method, task.config, lambda: task.validation)


def _hybrid(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    return fit_hybrid(_parts(method, task), task.validation, max(task.config.k), task.config.seed)


@dataclass(frozen=True)
class _Part:
    """Setting of a best_of."""

    method: str


def _best_of(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    parts = _parts(method, task)
    best, record = baselines.choose(
        [_Part(name) for name in parts], lambda part, rows: parts[part.method](rows), task.validation,
        max(task.config.k),
    )  # fmt: skip
    return parts[best.method], record


def _parts(method: MethodConfig, task: Task) -> dict[str, Score]:
    by_name = {other.name: other for other in task.config.methods}
    return {name: fit_method(by_name[name], task)[0] for name in method.parts}


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
    vectors = baselines.title_vectors(task.title_words)

    def score(setting: baselines.TitleOverlap, rows: Rows) -> np.ndarray:
        return baselines.title_overlap(vectors, rows, setting)

    return _tuned(baselines.TITLE_OVERLAP_GRID, score, task)


def _bm25(_: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    def score(setting: baselines.Bm25, rows: Rows) -> np.ndarray:
        return baselines.bm25(task.title_words, rows, setting)

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
        with np.errstate(divide="ignore"):  # what cannot be next
            return np.log(oracle.bayes_scores(of_row, times, rows.table["history"].to_pylist(), rows.candidate_ids))

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
    "hybrid": _hybrid,
    "best_of": _best_of,
    "candidate_memoriser": _candidate_memoriser,
    "latent_oracle": _oracle,
    "bayes_oracle": _oracle,
}
"""Every kind that gives scores; `generate` gives answers."""
