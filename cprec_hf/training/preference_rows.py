"""Rows to prefer by: a prompt, the completion that came true, and several that did not, as token ids.

Prompts are made and trimmed as ranking makes them (`ranking.catalogue`): with room for the longest of a row's titles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.ranking.request import Request


def preference_rows(
    rows: pa.Table, catalogue: Catalogue, negatives: np.ndarray, sizes: Mapping[str, Any], length: int
) -> datasets.Dataset:
    """Columns `prompt_ids`, `chosen_ids` (lists of ids) and `rejected_ids` (as many lists of ids as negatives).

    Args:
        rows: history, target and candidates, as the corpus has them.
        catalogue: of their domain, with the model's encoder.
        negatives: rows of the catalogue, int64 [n_rows, count].
        sizes: the corpus' `template`: history_length, candidate_list_in_prompt.
        length: most tokens of a prompt with a completion.

    Raises:
        InputError: there are no rows, or a title does not fit `length` with the prompt's header.
    """
    request = choices_of(rows, catalogue, negatives, sizes, length)
    rejected = catalogue.codes.take(request.codes[:, 1:].ravel()).to_arrow()
    each = pa.array(np.arange(len(request.codes) + 1, dtype=np.int32) * negatives.shape[1])
    columns = {
        "prompt_ids": request.prompts.to_arrow(),
        "chosen_ids": catalogue.codes.take(request.codes[:, 0]).to_arrow(),
        "rejected_ids": pa.ListArray.from_arrays(each, rejected),
    }
    return datasets.Dataset(pa.table(columns))


def choices_of(
    rows: pa.Table, catalogue: Catalogue, negatives: np.ndarray, sizes: Mapping[str, Any], length: int
) -> Request:
    """What ranking would be asked about each row: its target first, then its negatives; see `preference_rows`."""
    if not rows.num_rows:
        raise InputError(f"no rows of {catalogue.domain!r} to train on")
    targets = catalogue.rows([rows["target"].to_pylist()], "targets").values
    codes = catalogue.code_of[np.column_stack([targets, negatives])]
    shown = None
    if sizes["candidate_list_in_prompt"]:
        shown = catalogue.code_of[catalogue.rows(rows["candidates"].to_pylist(), "candidates").values]
        shown = shown.reshape(len(codes), -1)
    openings = catalogue.openings(len(codes), shown)
    catalogue.check_fits(openings, codes, length)
    histories = catalogue.rows(rows["history"].to_pylist(), "histories")
    return Request(catalogue, histories, codes, openings, length, sizes["history_length"])


def tokens_read(rows: datasets.Dataset) -> np.ndarray:
    """Tokens that each row makes a model read: its prompt before each of its completions, int64 [n_rows]."""
    table = rows.with_format("arrow")[:]
    prompts, chosen = (Ragged.from_arrow(table[name]).lengths for name in ("prompt_ids", "chosen_ids"))
    rejected = table["rejected_ids"].combine_chunks()
    count = len(rejected.values) // len(prompts)
    return (1 + count) * prompts + chosen + Ragged.from_arrow(rejected.values).lengths.reshape(-1, count).sum(axis=1)


@dataclass(frozen=True)
class ChoiceCollator:
    """Rows to `input_ids`, `attention_mask` and `completion_mask`, int64 [(1 + negatives) * rows, longest].

    The rows' chosen completions come first, then the first negative of each row, then the second: with one negative
    this is the layout of TRL's own collator. Padding is on the right, where no token sees it.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows of `prompt_ids`, `chosen_ids` and `rejected_ids`."""
        choices = zip(*([row["chosen_ids"], *row["rejected_ids"]] for row in rows), strict=True)
        pairs = [(row["prompt_ids"], ids) for choice in choices for row, ids in zip(rows, choice, strict=True)]
        width = max(len(prompt) + len(ids) for prompt, ids in pairs)
        ids = np.full((len(pairs), width), self.pad_token_id, dtype=np.int64)
        attention, completion = np.zeros_like(ids), np.zeros_like(ids)
        for i, (prompt, rest) in enumerate(pairs):
            begin, end = len(prompt), len(prompt) + len(rest)
            ids[i, :end] = [*prompt, *rest]
            attention[i, :end], completion[i, begin:end] = 1, 1
        names = ("input_ids", "attention_mask", "completion_mask")
        return {name: torch.from_numpy(a) for name, a in zip(names, (ids, attention, completion), strict=True)}
