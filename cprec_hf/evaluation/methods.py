"""Each method is measured on the same candidates: by its scores (`fit_method`) or by its written answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cprec_hf.evaluation.config import MethodConfig
from cprec_hf.evaluation.fitters import FITTERS
from cprec_hf.evaluation.models import answers_of_model
from cprec_hf.evaluation.rows import METRICS, Rows, Score
from cprec_hf.evaluation.task import Task
from cprec_hf.metrics.candidate_match.candidate_match import candidate_match
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k


@dataclass(frozen=True)
class Measured:
    """What a method is worth on each row, and what is to be recorded of it."""

    metrics: dict[str, np.ndarray]
    """`ranking_at_k`'s values [rows] by name."""
    matched: dict[str, np.ndarray]
    """kind generate: `candidate_match`'s values [rows] by name; of other kinds empty."""
    record: dict[str, Any]


def measure_method(method: MethodConfig, task: Task) -> Measured:
    """Run one method and measure it.

    Of a written answer a ranking is made by putting it first, what names no candidate too, and the other candidates
    after it in random order, of which metrics take the expectation. So hr@1 is hr_all, and a cut-off of k adds what
    k - 1 guesses are worth.

    Raises:
        InputError: as `fit_method`.
        ValueError: the method gave scores of another shape, or NaN.
    """
    rows, ks = task.rows, task.config.k
    if method.kind != "generate":
        score, record = fit_method(method, task)
        return Measured(rows.metrics(partial(_checked, method, score), ks), {}, record)
    answers, record = answers_of_model(method, task.config, rows)
    targets = answers.titles[np.arange(len(rows)), rows.relevance.argmax(axis=1)]
    matched = candidate_match(answers.texts, targets.tolist(), answers.titles.tolist())
    # One more candidate, never relevant: first where the answer is invalid, else last.
    stranger = np.where(matched["valid"] > 0, -1.0, 1.0)
    scores = np.column_stack([answers.named, stranger])
    relevance = np.column_stack([rows.relevance, np.zeros(len(rows))])
    return Measured(ranking_at_k(scores, relevance, ks, METRICS), matched, record)


def fit_method(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    """What gives scores to rows of the task, higher is better, and what is to be recorded of the method.

    Args:
        method: of any kind in `FITTERS`.
        task: what it is fitted on.

    Raises:
        InputError: the method cannot run here (see `Task.load`, `Recommender.from_pretrained`, `MarketplaceOracle`).
    """
    return FITTERS[method.kind](method, task)


def _checked(method: MethodConfig, score: Score, rows: Rows) -> np.ndarray:
    """Scores float64 [rows, candidates]; raises `ValueError` for another shape, or NaN."""
    scores = np.asarray(score(rows), dtype=np.float64)
    if scores.shape != rows.candidates.shape:
        raise ValueError(f"method {method.name!r} gave scores {scores.shape} for candidates {rows.candidates.shape}")
    if np.isnan(scores).any():
        row = int(np.isnan(scores).any(axis=1).argmax())
        raise ValueError(f"method {method.name!r} gave NaN scores, first in row {row}; NaN has no rank")
    return scores
