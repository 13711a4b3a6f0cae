"""The audit's checks on candidate lists: each by its rules, and all of them against the memoriser (see `audit.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cprec_hf.corpus.audit_held import member
from cprec_hf.corpus.audit_report import AuditRow, Tally
from cprec_hf.corpus.audit_rows import Rows
from cprec_hf.corpus.memoriser import hit_rate_of_numbers
from cprec_hf.corpus.ragged import Ragged

MEMORISER_P = 1e-6
"""A memoriser with so many hits that chance gives them more rarely than this fails the audit. Our choice."""


def candidate_sets(facts: Mapping[str, Any]) -> dict[str, str]:
    """The columns of frozen candidates and the policy each was drawn by; older releases wrote one, and did not say."""
    sets: dict[str, str] = facts["candidates"].get("sets", {"candidates": "uniform"})
    return sets


def check_candidates(rows: Rows, column: str, split: str, seen: np.ndarray, wanted: int, tally: Tally) -> None:
    """Check the candidate lists of a batch.

    Args:
        rows: of the batch.
        column: the lists.
        split: it belongs to.
        seen: what users with held-out events did in training rows, as in `HeldOut.keys`: part of their histories, shown
            or not.
        wanted: candidates a row.
        tally: to count in.
    """
    batch, n_items = rows.batch, rows.n_items
    (owner, one), values = rows.item(column), rows.lists[column].values.astype(np.int64)

    def shown(n: int) -> dict[str, Any]:
        return batch.shown(n, "user_id", "target", column)

    def rows_with(bad: np.ndarray) -> np.ndarray:
        return np.bincount(owner, weights=bad, minlength=len(rows)) > 0

    tally.mark(f"{wanted} candidates", rows.lists[column].lengths != wanted, shown)
    times = np.bincount(owner, weights=(values == rows.target[owner]) & (values >= 0), minlength=len(rows))
    tally.mark("candidates hold the target once", times != 1, shown)
    keys = np.sort(owner * (n_items + 1) + values + 1)  # by row, then item; an unknown one is the row's first
    twice = np.flatnonzero((keys[1:] == keys[:-1]) & (keys[1:] % (n_items + 1) > 0)) + 1
    repeated = np.zeros(len(rows), dtype=bool)
    repeated[keys[twice] // (n_items + 1)] = True
    tally.mark("candidates are distinct", repeated, shown)
    if split != "train":
        before = np.repeat(np.arange(len(rows)), rows.history.lengths) * (n_items + 1) + rows.history.values + 1
        met = member(owner * (n_items + 1) + values + 1, np.sort(before)) & (values >= 0)
        tally.mark("no candidate in the history", rows_with(met), shown)
        users = rows.users[owner]
        again = (users >= 0) & (values >= 0) & member(users * n_items + values, seen)
        tally.mark(
            "no candidate among the user's training items",
            again,
            lambda n: {**one(n), "target": rows.batch.rows["target"][int(owner[n])].as_py()},
        )
    tally.mark("candidates are items of the domain", values < 0, one)


@dataclass
class Asked:
    """What the memoriser learns from, or is asked: the rows of a split, in pieces."""

    candidates: list[Ragged] = field(default_factory=list)
    """Rows of the catalogue."""
    targets: list[np.ndarray] = field(default_factory=list)


def memoriser_row(domain: str, policy: str, known: Asked, asked: Asked) -> AuditRow:
    """How the memoriser does on the test rows of a domain, having learnt its validation rows.

    Against chance, where candidates were drawn uniformly. Of other sets some come again, and popular items are likelier
    targets of one, whatever drew it: there the memoriser may do no better than counting targets.
    """
    check = f"candidate memoriser at chance in {domain}"
    if policy != "uniform":
        check = f"candidate memoriser no better than counting targets in {domain}, {policy}"
    sizes = [np.concatenate([part.lengths for part in found.candidates]) for found in (known, asked)]
    if any(len(np.unique(lengths)) != 1 for lengths in sizes):
        return AuditRow(check, False, len(sizes[1]), "candidate lists have different lengths")
    tables = []
    for rows, lengths in zip((known, asked), sizes, strict=True):
        values = np.concatenate([part.values for part in rows.candidates]) + 1  # an unknown item is 0
        tables += [values.reshape(-1, int(lengths[0])), np.concatenate(rows.targets) + 1]
    result = hit_rate_of_numbers(*tables)
    p_value, against = result.p_value, f"chance {1 / result.count:.4f}"
    if policy != "uniform":
        p_value, against = result.p_value_of_counting, f"counting targets {result.counting_hit_rate:.4f}"
    found = f"hr@1 {result.hit_rate:.4f}, {against}, {result.recognised:,} sets recognised"
    passed = p_value >= MEMORISER_P
    return AuditRow(check, passed, result.rows, found if passed else f"{found}: the sets give their targets away")
