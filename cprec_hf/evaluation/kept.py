"""Scores that are needed twice are made once: those of a hybrid's parts, and of what validation chooses from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cprec_hf.evaluation.rows import Rows, Score


@dataclass(frozen=True)
class Kept:
    """A method's scores of some splits, in its place: called with rows of them, it looks their scores up."""

    targets: Mapping[str, np.ndarray]
    """By split, the item codes [rows] that tell whether rows are those that were scored."""
    scores: Mapping[str, np.ndarray]
    """By split [rows, candidates]."""

    @classmethod
    def of(cls, splits: Mapping[str, tuple[Rows, np.ndarray]]) -> Kept:
        """Scores [rows, candidates] of all rows of some splits."""
        return cls(
            {name: rows.targets for name, (rows, _) in splits.items()},
            {name: scores for name, (_, scores) in splits.items()},
        )

    @classmethod
    def score(cls, score: Score, splits: Iterable[Rows]) -> Kept:
        """Score all rows of some splits once, block by block."""
        made = {rows.split: (rows, [np.asarray(score(block)) for block in rows.blocks()]) for rows in splits}
        return cls.of({name: (rows, np.concatenate(parts)) for name, (rows, parts) in made.items()})

    def __call__(self, rows: Rows) -> np.ndarray:
        """The scores of these rows [rows, candidates].

        Raises:
            ValueError: these are not rows that were scored.
        """
        place = slice(rows.first, rows.first + len(rows))
        if not np.array_equal(self.targets.get(rows.split, np.empty(0))[place], rows.targets):
            raise ValueError(f"scores are kept of whole splits ({', '.join(self.scores)}); these rows are others")
        return self.scores[rows.split][place]
