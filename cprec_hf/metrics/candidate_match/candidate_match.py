"""Generate-and-match: does a generated title name the target, or any candidate at all?

As a function of lists:    candidate_match(titles, targets, candidates)["correct"]       one value per row
As an `evaluate` module:   evaluate.load("path/to/candidate_match").compute(
                               predictions=titles, references=targets, candidates=lists_of_titles)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_DESCRIPTION = """
Matches generated titles against candidate titles, the protocol of earlier work on language models as recommenders
(LLaRA and others), with its three numbers side by side: hr_all (right answers among all rows), hr_valid (right answers
among the rows whose answer names a candidate; the "HR" some papers report alone) and valid_ratio.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: generated titles, one per row.
    references: titles of the targets, one per row, each among its row's candidates.
    candidates: lists of candidate titles, one list per row; lists may differ in length.
Returns:
    hr_all, hr_valid (0 if no prediction is valid) and valid_ratio; hr_all = hr_valid * valid_ratio.
    Titles match if equal after Unicode NFKC, lower case, and runs of white space made one space and stripped. Where m
    candidates of a row share the target's title, naming it counts 1/m: the answer does not say which it means.
Examples:
    >>> metric = evaluate.load("candidate_match")
    >>> metric.compute(predictions=["Blue  pen", "a pencil"], references=["Blue pen", "Ruler"],
    ...                candidates=[["Ruler", "Blue pen"], ["Ruler", "Blue pen"]])
    {'hr_all': 0.5, 'hr_valid': 1.0, 'valid_ratio': 0.5}
"""

_CITATION = """
@inproceedings{liao2024llara,
  title={LLaRA: Large Language-Recommendation Assistant},
  author={Liao, Jiayi and Li, Sihang and Yang, Zhengyi and Wu, Jiancan and Yuan, Yancheng and Wang, Xiang
          and He, Xiangnan},
  booktitle={SIGIR}, pages={1785--1795}, year={2024}
}
"""


def candidate_match(
    predictions: Sequence[str], references: Sequence[str], candidates: Sequence[Sequence[str]]
) -> dict[str, npt.NDArray[np.float64]]:
    """Per row: `valid`, 1 if the answer names a candidate, and `correct`, 1/m if it names a target whose title m share.

    Args:
        predictions: generated titles [rows].
        references: target titles [rows].
        candidates: candidate titles [rows][any].

    Raises:
        ValueError: unequal numbers of rows, no rows, a missing text, or a target that is not among its candidates.
    """
    answers, targets = pa.array(predictions, pa.string()), pa.array(references, pa.string())
    lists = pa.array(candidates, pa.list_(pa.string()))
    rows = len(answers)
    if not rows or len(targets) != rows or len(lists) != rows:
        raise ValueError(
            f"{rows} predictions, {len(targets)} references and {len(lists)} lists of candidates; "
            "give one of each per row"
        )
    owner, offered = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
    for name, column in (
        ("prediction", answers),
        ("reference", targets),
        ("list of candidates", lists),
        ("candidate", offered),
    ):
        if column.null_count:
            at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"row {owner[at] if column is offered else at}: the {name} is missing")
    codes = normalised(pa.concat_arrays([answers, targets, offered])).dictionary_encode().indices.to_numpy()
    answer, target, offer = codes[:rows], codes[rows : 2 * rows], codes[2 * rows :]
    named = np.bincount(owner, weights=offer == answer[owner], minlength=rows)
    sharing = np.bincount(owner, weights=offer == target[owner], minlength=rows)
    if not sharing.all():
        at = int(np.argmin(sharing))
        raise ValueError(
            f"row {at}: the target {references[at]!r} is not among the candidates; give titles as they are listed"
        )
    return {"valid": (named > 0).astype(np.float64), "correct": (answer == target) / sharing}


def summarise(per_row: dict[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    """hr_all, hr_valid (0 where nothing is valid) and valid_ratio from `candidate_match`'s per-row values."""
    right, valid, rows = float(per_row["correct"].sum()), float(per_row["valid"].sum()), len(per_row["valid"])
    return {"hr_all": right / rows, "hr_valid": right / valid if valid else 0.0, "valid_ratio": valid / rows}


def normalised(titles: pa.Array) -> pa.Array:
    """Titles as they are compared: Unicode NFKC, lower case, runs of white space made one space and stripped."""
    spaced = pc.replace_substring_regex(pc.utf8_normalize(titles, "NFKC"), r"[\s\p{Z}]+", " ")
    return pc.utf8_lower(pc.utf8_trim_whitespace(spaced))


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CandidateMatch(evaluate.Metric):
    """hr_all, hr_valid and valid_ratio as an `evaluate` metric; see `candidate_match`."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": text, "references": text, "candidates": datasets.Sequence(text)}
            ),
        )

    def _compute(self, predictions: Any, references: Any, candidates: Any) -> dict[str, float]:
        return summarise(candidate_match(list(predictions), list(references), list(candidates)))
