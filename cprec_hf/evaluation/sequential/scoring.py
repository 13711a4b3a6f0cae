"""Scores of evaluation rows by a sequential model."""

from __future__ import annotations

import numpy as np
import torch

from cprec_hf.evaluation.rows import Rows
from cprec_hf.evaluation.sequential.batches import padded
from cprec_hf.evaluation.sequential.model import SequenceModel
from cprec_hf.evaluation.sequential.sequences import Vocabulary

_BATCH = 256  # rows read at once


@torch.inference_mode()
def sequence_scores(model: SequenceModel, vocabulary: Vocabulary, rows: Rows) -> np.ndarray:
    """How well each candidate follows its row's history: the model's logit. The model is put in evaluation mode.

    Args:
        model: see `SequenceModel`.
        vocabulary: the model's.
        rows: what to score.

    Returns:
        float32 [rows, candidates].
    """
    model.eval()
    place, histories = model.items.weight.device, vocabulary.of(rows.histories)
    found = np.empty(rows.candidates.shape, dtype=np.float32)
    order = np.argsort(histories.lengths, kind="stable")  # little padding
    for start in range(0, len(order), _BATCH):
        some = order[start : start + _BATCH]
        ids, lengths = padded(histories.take(some), model.history)
        logits = model.logits(model.last(ids.to(place), lengths.to(place))).cpu().numpy()
        if rows.whole:  # every row's candidates are all items in their order
            found[some] = logits[:, vocabulary.rows]
        else:
            found[some] = np.take_along_axis(logits, vocabulary.rows[rows.candidates[some]], axis=1)
    return found
