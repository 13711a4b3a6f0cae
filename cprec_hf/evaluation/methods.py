"""Each method is measured on the same candidates: by its scores (`fit_method`) or by its written answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_hf.evaluation.config import MethodConfig
from cprec_hf.evaluation.fitters import fit_method
from cprec_hf.evaluation.models import answers_of_model
from cprec_hf.evaluation.rows import METRICS
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
        return Measured(rows.metrics(score, ks), {}, record)
    answers, record = answers_of_model(method, task.config, rows)
    targets = answers.titles[np.arange(len(rows)), rows.relevance.argmax(axis=1)]
    matched = candidate_match(answers.texts, targets.tolist(), answers.titles.tolist())
    # One more candidate, never relevant: first where the answer is invalid, else last.
    stranger = np.where(matched["valid"] > 0, -1.0, 1.0)
    scores = np.column_stack([answers.named, stranger])
    relevance = np.column_stack([rows.relevance, np.zeros(len(rows))])
    return Measured(ranking_at_k(scores, relevance, ks, METRICS), matched, record)
