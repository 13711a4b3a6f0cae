"""The recipe key `replay`: any general text, read beside behaviour so that a model does not forget its language.

    mixture: {domain: 4, all_domain: 4, replay: 1}
    replay: {dataset: HuggingFaceFW/fineweb-edu, config: sample-10BT, tokens: 20000000}
    replay: {dataset: texts/*.jsonl, column: body, tokens: 200000}

A kind of document that knows nothing of behaviour, with a weight in `mixture` like any other. Replay of general text at
1 to 5 % and more of the tokens is what keeps continually pre-trained models from forgetting (Ibrahim et al., arXiv
2403.08763); behaviour-agnostic text is the paper's future work. The text is streamed, from the first row on, until
`tokens` are taken, and packed as the corpus' documents are; a run that needs more reads them again. Each line is
encoded alone (`corpus/encoder.py`), as everywhere here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.hub.files import dataset_facts
from cprec_hf.recipes import from_mapping
from cprec_hf.training.data import labelled_whole

REPLAY = "replay"
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".txt": "text"}
_BATCH = 256  # texts read and encoded at a time


@dataclass(frozen=True)
class Replay:
    """What the key says."""

    dataset: str
    """A dataset repo of the Hub, or local files: a path or a glob to .parquet, .jsonl, .json or .txt, .gz too. A .txt
    file's texts are its paragraphs, which blank lines divide."""
    tokens: int
    """Most tokens that are taken, of the model's tokenizer; whole texts, the first of the split."""
    column: str = "text"
    """The column with the text."""
    config: str | None = None
    """The repo's config, where it has several."""
    split: str = "train"
    """The repo's split."""
    revision: str | None = None
    """Branch, tag or commit of the repo."""

    def __post_init__(self) -> None:
        """Raise `InputError` for a number of tokens below 1."""
        if self.tokens < 1:
            raise InputError(f"`tokens` is {self.tokens}; give at least 1")


def read_replay(given: Any) -> Replay | None:
    """The key's value, a mapping or (of a flag) its JSON, checked; None without one.

    Raises:
        InputError: no mapping, an unknown or missing key, or a value of the wrong type.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise InputError(f"`replay` is {given!r}, not valid JSON: {error}") from None
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InputError(f"`replay` is {given!r}; give {{dataset: a repo or files, tokens: most to take}}")
    return from_mapping(given, Replay, "`replay`")


def replay_rows(replay: Replay, encoder: Encoder) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The texts as token ids, and what a record says of them.

    Args:
        replay: what to read.
        encoder: the model's.

    Returns:
        Rows of `input_ids` and `labels`, a text each, without those that are null or blank; and the key's values with
        the commit that was read (of a repo; `revision` null for files), the repo's licence, the texts, the tokens, the
        texts passed over because there is nothing in them, and the SHA-256 of the token ids.

    Raises:
        InputError: no such file, repo, config or split; no such column, or one that holds no text; not one text that
            fits within `tokens`.
    """
    files, facts = _files(replay), {}
    if not files:
        facts = dataset_facts(replay.dataset, replay.revision)
    where, parts, left, empty, too_long = f"`replay`: {replay.dataset}", [], replay.tokens, 0, False
    with tqdm(total=replay.tokens, desc="replay", unit="token", unit_scale=True, leave=False, disable=None) as bar:
        for texts in _texts(replay, files, facts.get("revision"), where):
            told = texts.filter(pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False))
            rows = encoder.documents(told)
            fit = int(np.searchsorted(np.cumsum(rows.lengths), left, side="right"))
            parts.append(rows.take(np.arange(fit)))
            taken = int(parts[-1].offsets[-1])
            left -= taken
            bar.update(taken)
            too_long = fit < len(rows)
            if too_long:  # of a batch that is not used up, the empty texts are not counted
                break
            empty += len(texts) - len(told)
    lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths for part in parts)])
    if not len(lengths):
        why = f"is within {replay.tokens:,} tokens; raise `tokens`" if too_long else "has anything in it"
        raise InputError(f"{where}: not one text of its column `{replay.column}` {why}")
    values = np.concatenate([part.values for part in parts])
    rows = Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))
    digest = hashlib.sha256(lengths.astype("<i8").tobytes() + values.astype("<i4").tobytes()).hexdigest()
    said = asdict(replay) | facts | {"texts": len(rows), "tokens_taken": len(values), "empty": empty, "sha256": digest}
    return labelled_whole(rows), {key: value for key, value in said.items() if value is not None}


def _files(replay: Replay) -> list[str]:
    """The local files that are meant; none for a repo of the Hub.

    Raises:
        InputError: files of another format, or of several; or what only a repo has, given beside files.
    """
    pattern = str(Path(replay.dataset).expanduser())
    found = sorted(glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute patterns)
    suffixes = {Path(path.removesuffix(".gz")).suffix for path in found or [replay.dataset]}
    if not found:
        if suffixes & _BUILDERS.keys() or replay.dataset.startswith((".", "/", "~")):
            raise InputError(f"`replay`: no such file: {replay.dataset}")
        return []
    if len(suffixes) > 1 or not suffixes <= _BUILDERS.keys():
        raise InputError(
            f"`replay`: {replay.dataset} is {', '.join(sorted(suffixes)) or 'a folder'}; give files of one format, "
            f"{', '.join(_BUILDERS)}"
        )
    for key, idle in (("config", None), ("split", "train"), ("revision", None)):
        if getattr(replay, key) != idle:
            raise InputError(f"`replay`: `{key}` has no place beside local files; it is a key of a repo of the Hub")
    return found


def _texts(replay: Replay, files: list[str], commit: str | None, where: str) -> Iterator[pa.Array]:
    """The column, a batch after the other.

    Raises:
        InputError: see `replay_rows`.
    """
    try:
        if files:
            builder = _BUILDERS[Path(files[0].removesuffix(".gz")).suffix]
            # Parquet's own batches are row groups, of which an empty file has none.
            options: dict[str, Any] = {"text": {"sample_by": "paragraph"}, "parquet": {"batch_size": _BATCH}}
            stream = datasets.load_dataset(
                builder, data_files=files, split="train", streaming=True, **options.get(builder, {})
            )
        else:
            stream = datasets.load_dataset(
                replay.dataset, replay.config, split=replay.split, revision=commit, streaming=True
            )
        assert isinstance(stream, datasets.IterableDataset)
        for batch in stream.with_format("arrow").iter(_BATCH):
            if replay.column not in batch.column_names:
                raise InputError(f"{where}: no column `{replay.column}`; it has {', '.join(batch.column_names)}")
            column = batch[replay.column]
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise InputError(f"{where}: column `{replay.column}` is {column.type}, not text")
            yield column.cast(pa.large_string()).combine_chunks()
    except InputError:
        raise
    except (ValueError, OSError, datasets.exceptions.DatasetsError, pa.ArrowException) as error:
        raise InputError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None
