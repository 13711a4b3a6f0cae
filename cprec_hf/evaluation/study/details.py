"""What stands behind a row's figures: what its model was trained on, and what the scores show beside the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.cells import Cells
from cprec_hf.evaluation.study.plan import Cell, Plan

FIGURES = {
    "position V": ("position", "position_cramers_v"),
    "ECE": ("calibration", "as_scored", "ece"),
    "log loss": ("calibration", "as_scored", "log_loss"),
    "temperature": ("calibration", "temperature"),
    "ECE, tempered": ("calibration", "tempered", "ece"),
    "log loss, tempered": ("calibration", "tempered", "log_loss"),
    "coverage": ("beyond_accuracy", "last", "coverage"),
    "Gini": ("beyond_accuracy", "last", "gini"),
    "novelty": ("beyond_accuracy", "last", "novelty"),
    "popularity lift": ("beyond_accuracy", "last", "popularity_lift"),
}
"""A figure's name -> where it stands in a measurement's record; `last` is the last cut-off."""


def trained_on(measured: Sequence[Cell], plan: Plan, cells: Cells) -> list[dict[str, Any]]:
    """The stages behind a row's model, the first one first: tokens and steps, means over the row's finished cells whose
    models are there.

    Stages that began from a checkpoint of another count that one as far as the checkpoint. A row without a model of the
    study, and a hybrid, has none: a hybrid's parts say theirs.

    Args:
        measured: the row's cells.
        plan: with the cells that they need.
        cells: where those are.
    """
    chains = []
    for cell in measured:
        chain: list[tuple[str, str, int, int]] = []
        need, inside = cell.needs.get("model"), cell.inside
        while need is not None and cells.is_done(cell):
            stage = plan.cells[need]
            try:
                record = ModelRecord.load(cells.model(stage, inside))
            except InputError:  # models may be removed once they are measured
                chain = []
                break
            steps = record.schedule["anneal_steps"] if record.stage == "anneal" else record.schedule["step"]
            chain.append((stage.label, record.stage, record.tokens, steps))
            need, inside = stage.needs.get("start"), stage.inside
        chains += [chain[::-1]] if chain else []
    return [
        {"node": of[0][0], "stage": of[0][1], "tokens": float(np.mean([one[2] for one in of])),
         "steps": float(np.mean([one[3] for one in of]))}
        for of in zip(*chains, strict=True)
    ]  # fmt: skip


def details(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The means over a row's cells of the figures of their records, by name; None for what a method does not have.

    Args:
        results: `result.json` of each cell.
    """
    found = {}
    for name, path in FIGURES.items():
        values = [_at(result["record"], path) for result in results]
        known = [value for value in values if value is not None]
        found[name] = float(np.mean(known)) if known else None
    return found


def _at(record: Any, path: Sequence[str]) -> float | None:
    for key in path:
        if not record:
            return None
        record = record[max(record, key=int)] if key == "last" else record.get(key)
    return record
