"""Sequential models as methods of an evaluation: trained for each setting of a declared grid, chosen on validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cprec_hf.errors import InputError
from cprec_hf.evaluation.baselines import choose
from cprec_hf.evaluation.config import MethodConfig
from cprec_hf.evaluation.rows import Rows, Score
from cprec_hf.evaluation.sequential.bert4rec import BERT4REC_GRID, BERT4REC_SCHEDULE, Bert4rec
from cprec_hf.evaluation.sequential.gru4rec import GRU4REC_GRID, Gru4rec
from cprec_hf.evaluation.sequential.model import SequenceModel
from cprec_hf.evaluation.sequential.sasrec import SASREC_GRID, Sasrec
from cprec_hf.evaluation.sequential.scoring import sequence_scores
from cprec_hf.evaluation.sequential.sequences import Vocabulary
from cprec_hf.evaluation.sequential.trainer import Schedule, train_model

if TYPE_CHECKING:
    from cprec_hf.evaluation.task import Task


@dataclass(frozen=True)
class _Kind:
    build: Callable[[int, Any], SequenceModel]
    grid: list[Any]
    schedule: Schedule


_KINDS = {
    "gru4rec": _Kind(Gru4rec, GRU4REC_GRID, Schedule()),
    "sasrec": _Kind(Sasrec, SASREC_GRID, Schedule()),
    "sasrec_llm": _Kind(Sasrec, SASREC_GRID, Schedule()),
    "bert4rec": _Kind(Bert4rec, BERT4REC_GRID, BERT4REC_SCHEDULE),
}


def fit_sequential(method: MethodConfig, task: Task) -> tuple[Score, dict[str, Any]]:
    """Train a model for each setting of the kind's grid on the training rows; the best on validation scores.

    Early stopping and the choice go by the ndcg at the last cut-off on the validation rows, as the other baselines'
    choices do. On a GPU if there is one.

    Args:
        method: of kind gru4rec, sasrec, sasrec_llm or bert4rec.
        task: its seed draws weights, batches, masks and dropout.

    Returns:
        The scorer, and the record of `baselines.choose` with the schedule, how each training ended, the number of
        parameters, of training users, events, and of items without a training event.

    Raises:
        InputError: no training rows, or the language model of sasrec_llm cannot be loaded.
    """
    kind, seed, k = _KINDS[method.kind], task.config.seed, max(task.config.k)
    if not len(task.sequences):
        raise InputError(f"{task.config.corpus}: no training rows, and method {method.name!r} learns from them")
    vocabulary, vectors = _vocabulary(method, task, kind.grid[0].width)
    sequences = vocabulary.of(task.sequences)
    models: dict[Any, SequenceModel] = {}
    trainings = []

    def score(setting: Any, rows: Rows) -> np.ndarray:
        return sequence_scores(models[setting], vocabulary, rows)

    for number, setting in enumerate(kind.grid, start=1):
        model = models[setting] = _first(kind.build, vocabulary, setting, vectors, seed)

        def validate(setting: Any = setting) -> float:
            rows = task.validation
            values = rows.metrics(lambda part: score(setting, part), [k])[f"ndcg@{k}"]
            return float(rows.per_user(values).mean())

        name, start = f"{method.kind} {number}/{len(kind.grid)}", time.perf_counter()
        ended = train_model(model, sequences, validate, kind.schedule, seed, name)
        trainings.append(asdict(ended))
        print(
            f"  {name}: ndcg@{k} {ended.validation:.4f} on validation after epoch {ended.best_epoch} of "
            f"{ended.epochs}, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
    setting, record = choose(kind.grid, score, task.validation, k)
    known = len(np.unique(task.sequences.values))
    record |= {
        "trainings": trainings, "schedule": asdict(kind.schedule), "seed": seed,
        "parameters": sum(weight.numel() for weight in models[setting].parameters()),
        "training_users": len(sequences), "training_events": len(sequences.values),
        "items_without_training": len(task.catalogue) - known,
    }  # fmt: skip
    return lambda rows: score(setting, rows), record


def _vocabulary(method: MethodConfig, task: Task, width: int) -> tuple[Vocabulary, np.ndarray | None]:
    """The items' rows, and for sasrec_llm what the language model says of each item, float32 [items, at most width]."""
    if method.kind != "sasrec_llm":
        return Vocabulary.seen(task.sequences, len(task.catalogue)), None
    from cprec_hf.ranking.embeddings import title_embeddings, whitened

    assert method.model is not None
    found = title_embeddings(method.model, task.catalogue.titles, method.revision)
    return Vocabulary.whole(len(task.catalogue)), whitened(found, width)


def _first(
    build: Callable[[int, Any], SequenceModel], vocabulary: Vocabulary, setting: Any, vectors: np.ndarray | None,
    seed: int,
) -> SequenceModel:  # fmt: skip
    """A model with its first weights, on its device; the global random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(vocabulary.size, setting)
    if vectors is not None:  # in the scale of the weights they replace; columns they do not fill stay as drawn
        with torch.no_grad():
            model.items.weight[:, : vectors.shape[1]] = torch.from_numpy(vectors) * setting.width**-0.5
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
