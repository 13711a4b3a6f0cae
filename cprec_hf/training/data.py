"""A corpus' rows as token ids, through the corpus' one encoder: columns in, columns out.

Every function returns a `datasets.Dataset` with `input_ids` and `labels`, one row a text, in the corpus' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.controls import CONTROLS
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.few_shot import RANK
from cprec_hf.corpus.load import load_corpus
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.training.kernels import IGNORED
from cprec_hf.training.packing import row_lengths
from cprec_hf.training.subset import few_users


def corpus_table(
    corpus: str, revision: str | None, config: str, split: str, columns: list[str], optional: Sequence[str] = ()
) -> pa.Table:
    """Columns of one split of a corpus, and those of `optional` that it has.

    Raises:
        InputError: the config has no such split.
    """
    splits = load_corpus(corpus, config, revision)
    if split not in splits:
        raise InputError(f"{corpus}: config {config} has no {split} split; it has {', '.join(splits)}")
    found = [name for name in optional if name in splits[split].column_names]
    return splits[split].select_columns([*columns, *found]).with_format("arrow")[:]


def document_kinds(corpus: str, revision: str | None) -> list[str]:
    """The kinds of the behaviour documents to train on, sorted."""
    return sorted(pc.unique(corpus_table(corpus, revision, "cpt", "train", ["kind"])["kind"]).to_pylist())


def document_domains(corpus: str, revision: str | None, kind: str) -> list[str]:
    """The domains of the documents of a kind to train on, sorted; none of a kind whose documents are of all domains."""
    table = corpus_table(corpus, revision, "cpt", "train", ["kind", "domain"])
    domains = table.filter(pc.equal(table["kind"], kind))["domain"]
    return sorted(pc.unique(domains.drop_null()).to_pylist())


def item_rows(corpus: str, revision: str | None, encoder: Encoder) -> datasets.Dataset:
    """The item documents of all domains: what the items are, without any behaviour."""
    return _document_rows(corpus_table(corpus, revision, "items", "train", ["text"]), encoder)


def cpt_rows(
    corpus: str,
    revision: str | None,
    encoder: Encoder,
    kinds: list[str] | None = None,
    split: str = "train",
    domain: str | None = None,
) -> datasets.Dataset:
    """The behaviour documents of the pre-training domains.

    Args:
        corpus: folder or Hub repo.
        revision: of the repo.
        encoder: the model's.
        kinds: kinds of document to keep; None keeps all but controls (`corpus/controls.py`), which no run reads that
            does not name them.
        split: `train` or `validation`.
        domain: keeps the documents of that domain; None keeps all.

    Raises:
        InputError: the split has no document of one of the kinds.
    """
    table = corpus_table(corpus, revision, "cpt", split, ["text", "kind", *(["domain"] if domain else [])])
    if domain is not None:
        table = table.filter(pc.equal(table["domain"], domain))
    if kinds is None:
        table = table.filter(pc.invert(pc.is_in(table["kind"], pa.array([*CONTROLS], pa.string()))))
    else:
        found = pc.unique(table["kind"]).to_pylist()
        missing = [kind for kind in kinds if kind not in found]
        if missing:
            raise InputError(f"{corpus}: `kinds` names {missing[0]!r}; its {split} documents are of {', '.join(found)}")
        table = table.filter(pc.is_in(table["kind"], pa.array(kinds, pa.string())))
    return _document_rows(table, encoder)


def mixture(
    corpus: str, revision: str | None, encoder: Encoder, kinds: list[str] | None, item_share: float, seed: int
) -> datasets.Dataset:
    """What a trunk or an anneal trains on: behaviour documents (`cpt_rows`), with item documents `mix_in`ed."""
    rows = cpt_rows(corpus, revision, encoder, kinds)
    return mix_in(rows, item_rows(corpus, revision, encoder), item_share, seed) if item_share else rows


def mix_in(rows: datasets.Dataset, items: datasets.Dataset, share: float, seed: int) -> datasets.Dataset:
    """Behaviour documents with item documents among them, drawn in shuffled passes without repeats within a pass.

    Args:
        rows: the behaviour documents; all are kept.
        items: the item documents.
        share: of all tokens that are item documents', from 0 to below 1; met to within one document.
        seed: of the passes' order.

    Raises:
        InputError: `share` is out of range.
    """
    if not 0 <= share < 1:
        raise InputError(f"`item_share` is {share}; give 0 or more and less than 1")
    wanted = share / (1 - share) * row_lengths(rows).sum()
    lengths, rng = row_lengths(items), np.random.default_rng(seed)
    passes = int(wanted // lengths.sum()) + 1
    order = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])
    chosen = order[: int((lengths[order].cumsum() <= wanted).sum())]
    return datasets.concatenate_datasets([rows, items.select(chosen)]) if len(chosen) else rows


def sft_rows(
    corpus: str,
    revision: str | None,
    encoder: Encoder,
    config: str,
    split: str,
    *,
    completion_only: bool,
    share: float | None = None,
    subset_seed: int | None = None,
) -> datasets.Dataset:
    """Prompts with their completions; the loss is over the completions only, or over all positions.

    Args:
        corpus: folder or Hub repo.
        revision: of the repo.
        encoder: the model's.
        config: `sft-<slug>`.
        split: `train` or `validation`.
        completion_only: leave the prompts' tokens out of the labels.
        share: of the users whose rows are read, see `few_users`; None for all.
        subset_seed: draws other users than the corpus froze.

    Raises:
        InputError: `share` is out of range.
    """
    table = corpus_table(corpus, revision, config, split, ["prompt", "completion", "user_id"], [RANK])
    table = few_users(table, share, subset_seed)
    prompts, completions = encoder.documents(table["prompt"]), encoder.documents(table["completion"], start=False)
    if completion_only:
        return labelled(prompts, completions)
    rows = prompts.join(completions)
    return _dataset(rows, rows.values, table.num_rows)


def labelled(prompts: Ragged, completions: Ragged) -> datasets.Dataset:
    """Prompts with their completions, row by row, the loss over the completions only."""
    rows = prompts.join(completions)
    within = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
    labels = np.where(within < np.repeat(prompts.lengths, rows.lengths), np.int32(IGNORED), rows.values)
    return _dataset(rows, labels, len(prompts))


def check_rows(rows: datasets.Dataset, length: int, packing: bool, *, split_long: bool, where: str) -> int:
    """Refuse rows that the run would cut; returns the number of rows that packing will split.

    Args:
        rows: with `input_ids`.
        length: `max_length`, in tokens.
        packing: whether the rows will be packed.
        split_long: whether a packed row may be split (a document may, a prompt with its completion may not).
        where: the corpus and config, for the message.

    Raises:
        InputError: no rows at all, or rows too long.
    """
    if not len(rows):
        raise InputError(f"{where}: no rows to train on")
    lengths = row_lengths(rows)
    too_long = int((lengths > length).sum())
    if too_long and not (packing and split_long):
        raise InputError(
            f"{where}: {too_long:,} of {len(rows):,} rows are longer than `max_length` {length} (the longest has "
            f"{lengths.max()} tokens); raise `max_length`, or build the corpus with smaller windows"
        )
    return too_long


def check_model(model: Any, rows: datasets.Dataset, length: int, column: str = "input_ids") -> None:
    """Refuse a model whose context or vocabulary is too small for the rows' ids in `column`.

    Raises:
        InputError: with both numbers.
    """
    config = model.config.get_text_config()
    name = config.name_or_path or type(model).__name__
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and context < length:
        raise InputError(
            f"{name} reads {context} tokens at most, and `max_length` is {length}; build the corpus with "
            f"`window_tokens: {context}` (or less), lower `max_length`, or choose a model with a longer context"
        )
    highest = pc.max(rows.with_format("arrow")[:].column(column).combine_chunks().values).as_py()
    weight = model.get_input_embeddings().weight
    vocabulary = getattr(weight, "ds_shape", weight.shape)[0]  # ZeRO-3 leaves a part, and the whole's shape
    if highest >= vocabulary:
        raise InputError(
            f"{name} has {vocabulary} embeddings, and its tokenizer gives id "
            f"{highest}; the model and the tokenizer do not belong together"
        )


def labelled_whole(rows: Ragged) -> datasets.Dataset:
    """Documents, the loss over all positions."""
    return _dataset(rows, rows.values, len(rows))


def _document_rows(table: pa.Table, encoder: Encoder) -> datasets.Dataset:
    rows = encoder.documents(table["text"])
    return _dataset(rows, rows.values, table.num_rows)


def _dataset(rows: Ragged, labels: np.ndarray, expected: int) -> datasets.Dataset:
    if len(rows) != expected:
        raise RuntimeError(f"encoding made {len(rows)} rows of {expected}")
    ids = rows.to_arrow()
    columns = [ids, pa.ListArray.from_arrays(ids.offsets, pa.array(labels, pa.int32()))]
    return datasets.Dataset(pa.table(columns, names=["input_ids", "labels"]))
