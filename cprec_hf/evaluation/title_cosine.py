"""Text alone, read by a language model: how near a candidate's title is to the titles of the history."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cprec_hf.evaluation.baselines import choose
from cprec_hf.evaluation.config import MethodConfig
from cprec_hf.evaluation.rows import Rows, Score

if TYPE_CHECKING:
    from cprec_hf.evaluation.task import Task

_CELLS = 1 << 24  # values of candidates' vectors held at once: 64 MB


@dataclass(frozen=True)
class TitleCosine:
    """Settings of `title_cosine`."""

    space: Literal["centred", "whitened"]
    """Embeddings less their mean, or their principal components of variance 1 (see `embeddings.whitened`)."""
    last: int
    """How many of the latest items of the history count; 1000 is all of them."""


TITLE_COSINE_GRID = [
    TitleCosine(space, last)  # type: ignore[arg-type]
    for space, last in itertools.product(("centred", "whitened"), (1, 3, 5, 10, 1000))
]
_COMPONENTS = 64  # most that "whitened" keeps: the last ones of a language model's are noise blown up


def title_cosine(vectors: np.ndarray, rows: Rows, last: int) -> np.ndarray:
    """The cosine of each candidate with the mean of the history's latest items.

    Args:
        vectors: of unit length or zero, float32 [items, size].
        rows: the rows to score.
        last: items of the history that count.

    Returns:
        float32 [rows, candidates]; 0 where there is no history.
    """
    users = rows.history_matrix(len(vectors), last).astype(np.float32) @ vectors
    users = unit(users)
    if rows.whole:
        return users @ vectors.T
    found = np.empty(rows.candidates.shape, dtype=np.float32)
    block = max(1, _CELLS // (rows.candidates.shape[1] * vectors.shape[1]))
    for start in range(0, len(found), block):
        part = slice(start, start + block)
        found[part] = np.einsum("rcd,rd->rc", vectors[rows.candidates[part]], users[part])
    return found


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay zero. Shapes: [n, size] -> float32 [n, size]."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def fit_title_cosine(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    """The setting that is best on validation, as a scorer, and the record of the choice.

    Raises:
        InputError: the model cannot be loaded.
    """
    from cprec_hf.ranking.embeddings import title_embeddings, whitened

    assert method.model is not None
    found = title_embeddings(method.model, task.catalogue.titles, method.revision)
    spaces = {"centred": unit(found - found.mean(axis=0)), "whitened": unit(whitened(found, _COMPONENTS))}

    def score(setting: TitleCosine, rows: Rows) -> np.ndarray:
        return title_cosine(spaces[setting.space], rows, setting.last)

    setting, record = choose(TITLE_COSINE_GRID, score, task.validation, max(task.config.k))
    return lambda rows: score(setting, rows), {**record, "hidden_size": found.shape[1]}
