"""Generate-and-match: does a generated title name the target, a candidate, anything that exists, or something old?

As a function of lists:    candidate_match(titles, targets, candidates)["correct"]       one value per row
As an `evaluate` module:   evaluate.load("path/to/candidate_match").compute(predictions=titles, references=targets,
                               candidates=lists_of_titles, catalogue=titles, histories=lists_of_titles)
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
among the rows whose answer names a candidate; the "HR" some papers report alone) and valid_ratio. Beside them shares
of generated titles that are at fault: not among the candidates, not in the catalogue, in the history, or repeated.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: a generated title per row, or a list of titles per row in order of preference.
    references: titles of the targets, one per row, each among its row's candidates.
    candidates: lists of candidate titles, one list per row; lists may differ in length.
    catalogue: the titles of all items, for non_exist. Default none.
    histories: lists of the titles each user has had, one list per row, for in_history. Default none.
Returns:
    hr_all, hr_valid (0 if no prediction is valid) and valid_ratio, of the first title of each row; hr_all = hr_valid *
    valid_ratio. not_in_candidates; repeat with lists; non_exist with a catalogue; in_history with histories: the share
    of a row's titles at fault, averaged over rows.
    Titles match if equal after Unicode NFKC, lower case, and runs of white space made one space and stripped. Where m
    candidates of a row share the target's title, naming it counts 1/m: the answer does not say which it means.
Examples:
    >>> metric = evaluate.load("candidate_match")
    >>> metric.compute(predictions=["Blue  pen", "a pencil"], references=["Blue pen", "Ruler"],
    ...                candidates=[["Ruler", "Blue pen"], ["Ruler", "Blue pen"]])
    {'hr_all': 0.5, 'hr_valid': 1.0, 'valid_ratio': 0.5, 'not_in_candidates': 0.5}
"""

_CITATION = """
@inproceedings{liao2024llara,
  title={LLaRA: Large Language-Recommendation Assistant},
  author={Liao, Jiayi and Li, Sihang and Yang, Zhengyi and Wu, Jiancan and Yuan, Yancheng and Wang, Xiang
          and He, Xiangnan},
  booktitle={SIGIR}, pages={1785--1795}, year={2024}
}
"""

FAULTS = ("not_in_candidates", "non_exist", "in_history", "repeat")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def candidate_match(
    predictions: Sequence[str] | Sequence[Sequence[str]],
    references: Sequence[str],
    candidates: Sequence[Sequence[str]],
    catalogue: Sequence[str] | None = None,
    histories: Sequence[Sequence[str]] | None = None,
) -> dict[str, Floats]:
    """Per row, whether the first title is right, and the share of the row's titles at fault.

    Args:
        predictions: generated titles [rows], or [rows][any]; a row without titles has answered nothing.
        references: target titles [rows].
        candidates: candidate titles [rows][any].
        catalogue: titles of all items [items], candidates included.
        histories: titles that each row's user has had [rows][any].

    Returns:
        `valid`, 1 if the first title names a candidate, and `correct`, 1/m if it names a target whose title m
        candidates share; each float64 [rows]. Shares of the row's titles, 0 for a row without any: `not_in_candidates`,
        those that name no candidate of the row; with a catalogue `non_exist`, those that name no item at all; with
        histories `in_history`, those that name something the user has had; with lists `repeat`, those that name what
        the row has named already (more often than candidates of the row are called so).

    Raises:
        ValueError: unequal numbers of rows, no rows, a missing text, a target that is not among its candidates, or a
            candidate that is not in the catalogue.
    """
    answers, in_lists = _answers(predictions)
    targets, rows = pa.array(references, pa.string()), len(answers)
    columns = {"prediction": answers, "candidate": pa.array(candidates, pa.list_(pa.string()))}
    if histories is not None:
        columns["history"] = pa.array(histories, pa.list_(pa.string()))
    given = [len(column) for column in (answers, targets, *list(columns.values())[1:])]
    if not rows or len({*given}) > 1:
        text = f"{given[0]} predictions, {given[1]} references and {given[2]} lists of candidates"
        histories_too = "" if histories is None else f", {given[3]} histories"
        raise ValueError(f"{text}{histories_too}; give one of each per row")
    _refuse_missing("reference", targets)
    for name, column in columns.items():
        _refuse_missing(f"list of {name} titles", column)
    owner = {name: pc.list_parent_indices(column).to_numpy() for name, column in columns.items()}
    flat = {name: column.flatten() for name, column in columns.items()} | {"target": targets}
    if catalogue is not None:
        flat["catalogue"] = pa.array(catalogue, pa.string())
    for name, texts in flat.items():
        _refuse_missing(name, texts, owner.get(name))
    codes = normalised(pa.concat_arrays(list(flat.values()))).dictionary_encode().indices.to_numpy().astype(np.int64)
    ends = np.cumsum([len(texts) for texts in flat.values()])
    code = dict(zip(flat, np.split(codes, ends[:-1]), strict=True))
    n, row, said = int(codes.max(initial=0)) + 1, owner["prediction"], code["prediction"]

    # A title of a row is one number: names are compared within their rows.
    offered = owner["candidate"] * n + code["candidate"]
    sharing = np.bincount(owner["candidate"], code["candidate"] == code["target"][owner["candidate"]], rows)
    if not sharing.all():
        at = int(np.argmin(sharing))
        raise ValueError(
            f"row {at}: the target {references[at]!r} is not among the candidates; give titles as they are listed"
        )
    named = np.isin(row * n + said, offered)
    many = np.bincount(row, minlength=rows)
    first = (np.cumsum(many) - many)[many > 0]
    valid, correct = np.zeros(rows), np.zeros(rows)
    valid[many > 0] = named[first]
    correct[many > 0] = (said[first] == code["target"][many > 0]) / sharing[many > 0]
    at_fault = {"not_in_candidates": ~named}
    if catalogue is not None:
        unknown = ~np.isin(code["candidate"], code["catalogue"])
        if unknown.any():
            at = int(unknown.argmax())
            text = f"row {owner['candidate'][at]}: the candidate {flat['candidate'][at].as_py()!r}"
            raise ValueError(f"{text} is not in the catalogue; give the titles of all items")
        at_fault["non_exist"] = ~np.isin(said, code["catalogue"])
    if histories is not None:
        at_fault["in_history"] = np.isin(row * n + said, owner["history"] * n + code["history"])
    if in_lists:
        at_fault["repeat"] = _times_before(row * n + said) >= np.maximum(_counts(row * n + said, offered), 1)
    shares = {name: np.bincount(row, fault, rows) / np.maximum(many, 1) for name, fault in at_fault.items()}
    return {"valid": valid, "correct": correct, **shares}


def summarise(per_row: dict[str, Floats]) -> dict[str, float]:
    """hr_all, hr_valid (0 where nothing is valid), valid_ratio and the faults, from `candidate_match`'s values."""
    right, valid, rows = float(per_row["correct"].sum()), float(per_row["valid"].sum()), len(per_row["valid"])
    found = {"hr_all": right / rows, "hr_valid": right / valid if valid else 0.0, "valid_ratio": valid / rows}
    return found | {name: float(per_row[name].mean()) for name in FAULTS if name in per_row}


def normalised(titles: pa.Array) -> pa.Array:
    """Titles as they are compared: Unicode NFKC, lower case, runs of white space made one space and stripped."""
    spaced = pc.replace_substring_regex(pc.utf8_normalize(titles, "NFKC"), r"[\s\p{Z}]+", " ")
    return pc.utf8_lower(pc.utf8_trim_whitespace(spaced))


def _answers(predictions: Sequence[str] | Sequence[Sequence[str]]) -> tuple[pa.Array, bool]:
    """Predictions as lists, and whether they were lists."""
    first = next((one for one in predictions if one is not None), "")
    if not isinstance(first, str):
        return pa.array([*predictions], pa.list_(pa.string())), True
    texts = pa.array(predictions, pa.string())
    _refuse_missing("prediction", texts)
    return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1, dtype=np.int32)), texts), False


def _refuse_missing(name: str, column: pa.Array, owner: Ints | None = None) -> None:
    if column.null_count:
        at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"row {at if owner is None else owner[at]}: the {name} is missing")


def _times_before(keys: Ints) -> Ints:
    """How often each key stood before."""
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
    before = np.empty(len(keys), np.int64)
    before[order] = np.arange(len(keys)) - np.repeat(begins, np.diff(begins, append=len(keys)))
    return before


def _counts(keys: Ints, among: Ints) -> Ints:
    """How often each key stands among others."""
    known, times = np.unique(among, return_counts=True)
    at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[at] == keys, times[at], 0)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CandidateMatch(evaluate.Metric):
    """hr_all, hr_valid and valid_ratio as an `evaluate` metric; see `candidate_match`."""

    def _info(self) -> evaluate.MetricInfo:
        text, texts = datasets.Value("string"), datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": kind, "references": text, "candidates": texts})
                for kind in (text, texts)
            ],
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        candidates: Any,
        catalogue: Sequence[str] | None = None,
        histories: Sequence[Sequence[str]] | None = None,
    ) -> dict[str, float]:
        given = list(predictions), list(references), list(candidates)
        return summarise(candidate_match(*given, catalogue, histories))
