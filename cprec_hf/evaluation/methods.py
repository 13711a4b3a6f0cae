"""Each method is measured on the same candidates: by its scores (`fit_method`) or by its written answers.

What is read off the scores beside the metrics costs no second reading: groups of rows, properties of the lists, where
among its candidates a row's choice stands, and whether scores are probabilities.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_hf.evaluation.calibration import Probabilities, fit_temperature, probabilities, reliability
from cprec_hf.evaluation.config import CALIBRATED, MODELS, ORACLES, MethodConfig
from cprec_hf.evaluation.fitters import fit_method
from cprec_hf.evaluation.groups import group_figures
from cprec_hf.evaluation.lists import list_figures, top_items
from cprec_hf.evaluation.models import answers_of_model
from cprec_hf.evaluation.rows import METRICS, Rows, Score
from cprec_hf.evaluation.task import Task
from cprec_hf.metrics.beyond_accuracy.beyond_accuracy import position_bias
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
    """Settings and their grid, `candidates_sha256`, `groups`, and where they have a meaning `beyond_accuracy`,
    `position` and `calibration`."""


def measure_method(method: MethodConfig, task: Task) -> Measured:
    """Run one method and measure it.

    Of a written answer a ranking is made by putting it first, what names no candidate too, and the other candidates
    after it in random order, of which metrics take the expectation. So hr@1 is hr_all, and a cut-off of k adds what
    k - 1 guesses are worth. Properties of lists are not taken of it.

    Raises:
        InputError: as `fit_method`.
        ValueError: the method gave scores of another shape, or NaN.
    """
    found = _answered(method, task) if method.kind == "generate" else _scored(method, task)
    headline = {name: found.metrics[name] for name in (f"hr@{task.config.k[0]}", f"ndcg@{task.config.k[-1]}")}
    found.record["groups"] = group_figures(task.groupings, headline, task.rows)
    return found


def _answered(method: MethodConfig, task: Task) -> Measured:
    rows, ks = task.rows, task.config.k
    answers, record = answers_of_model(method, task.config, rows)
    targets = answers.titles[np.arange(len(rows)), rows.relevance.argmax(axis=1)]
    matched = candidate_match(answers.texts, targets.tolist(), answers.titles.tolist())
    # One more candidate, never relevant: first where the answer is invalid, else last.
    stranger = np.where(matched["valid"] > 0, -1.0, 1.0)
    scores = np.column_stack([answers.named, stranger])
    relevance = np.column_stack([rows.relevance, np.zeros(len(rows))])
    digest = hashlib.sha256(rows.candidate_lines(task.catalogue))
    record = {**record, "candidates_sha256": digest.hexdigest()}
    if matched["valid"].any():
        record["position"] = position_bias(answers.named[matched["valid"] > 0])
    return Measured(ranking_at_k(scores, relevance, ks, METRICS), matched, record)


def _scored(method: MethodConfig, task: Task) -> Measured:
    """One pass over the rows, block by block: a whole catalogue's scores are never held at once."""
    rows, ks = task.rows, task.config.k
    score, record = fit_method(method, task)
    calibrated = method.kind in CALIBRATED
    temperature = _temperature(score, task.validation) if calibrated and _knows_validation(method, task) else None
    digest, rng = hashlib.sha256(), np.random.default_rng(task.config.seed)
    metrics, lists, frozen, as_scored, tempered = [], [], [], [], []
    for block, scores in rows.scored(score):
        metrics.append(ranking_at_k(scores, block.relevance, ks, METRICS))
        lists.append(top_items(scores, block.candidates, max(ks), rng))
        if not rows.whole or not block.first:  # a whole catalogue is the same for every row
            digest.update(block.candidate_lines(task.catalogue))
        if not rows.whole:
            frozen.append(scores)
        if calibrated:
            as_scored.append(probabilities(scores, block.target_places))
        if temperature is not None:
            tempered.append(probabilities(scores, block.target_places, temperature))
    record = {**record, "candidates_sha256": digest.hexdigest()}
    record["beyond_accuracy"] = list_figures(np.concatenate(lists), task.rows, task.popularity, task.title_words, ks)
    if frozen:
        record["position"] = position_bias(np.concatenate(frozen))
    if calibrated:
        record["calibration"] = {"as_scored": _reliability(as_scored, rows), "temperature": temperature}
    if temperature is not None:
        record["calibration"]["tempered"] = _reliability(tempered, rows)
    values = {name: np.concatenate([part[name] for part in metrics]) for name in metrics[0]}
    return Measured(values, {}, record)


def _knows_validation(method: MethodConfig, task: Task) -> bool:
    """Whether the method's scores of the validation rows are there already, or cost little."""
    return method.score == "validation" or method.name in task.config.parts or method.kind not in (*MODELS, *ORACLES)


def _temperature(score: Score, rows: Rows) -> float:
    scores = np.concatenate([part for _, part in rows.scored(score)])
    return fit_temperature(scores, rows.target_places, rows.user_weights)


def _reliability(parts: list[Probabilities], rows: Rows) -> dict[str, Any]:
    columns = ([getattr(part, name) for part in parts] for name in ("confidence", "right", "log_loss"))
    return reliability(Probabilities(*map(np.concatenate, columns)), rows.user_weights)
