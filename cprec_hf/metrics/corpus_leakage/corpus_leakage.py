"""Does pre-training or fine-tuning data tell what a recommender is tested on? Counted from item ids and times.

As a function of tables:   corpus_leakage(events, examples)            PyArrow tables, or mappings of columns
From Parquet files:        corpus_leakage(read_events(["cpt.parquet"]), read_examples({"Music": ["test.parquet"]}))
As an `evaluate` module:   evaluate.load("path/to/corpus_leakage").compute(data=events, examples=examples)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import binom

_DESCRIPTION = """
Leaks in data for sequential recommendation: from held-out examples into pre-training events, between the train,
validation and test splits, and from candidate lists to their targets (a lookup that knows no history). Each is a count
of rows that break a rule. As figures, the users and item ids that domains share. Texts are not looked at.
"""

_KWARGS_DESCRIPTION = """
Args:
    data: pre-training events, each a dict of user_id, domain, item_id and timestamp (an integer; None where only an
        order is known); or paths of Parquet files with those columns, or of documents (see the card).
    examples: what is fine-tuned and tested on, each a dict of split (train, validation or test), user_id, domain,
        target, history and candidates (lists of item ids; candidates may be empty) and timestamp; or a mapping from
        each domain to the paths of its Parquet files.
    cut: the time at which validation begins, where all data is split at one time; None where it is not.
Returns:
    rules_broken; the rows that break each rule; memoriser_hr@1, memoriser_chance, memoriser_recognised and memoriser_p;
    shared_users and shared_item_ids, domain by domain. See the card for what each one is.
Examples:
    >>> audit = evaluate.load("corpus_leakage")
    >>> found = audit.compute(
    ...     data=[{"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 9}],
    ...     examples=[{"split": "test", "user_id": "ann", "domain": "Music", "target": "m2", "history": ["m1"],
    ...                "candidates": ["m2", "m3"], "timestamp": 12}], cut=8)
    >>> found["rules_broken"], found["pretraining_after_cut"], found["shared_users"]["Books"]["Music"]
    (1, 1, 1)
"""

_CITATION = """
@article{ji2023critical,
  title={A Critical Study on Data Leakage in Recommender System Offline Evaluation},
  author={Ji, Yitong and Sun, Aixin and Zhang, Jie and Li, Chenliang},
  journal={ACM Transactions on Information Systems}, volume={41}, number={3}, pages={1--27}, year={2023}
}
"""

_text, _time = pa.string(), pa.int64()
EVENTS = pa.schema([("user_id", _text), ("domain", _text), ("item_id", _text), ("timestamp", _time)])
_one, _many = ("split", "user_id", "domain", "target"), ("history", "candidates")
EXAMPLES = pa.schema(
    [(name, _text) for name in _one] + [(name, pa.list_(_text)) for name in _many] + [("timestamp", _time)]
)
SPLITS = ("train", "validation", "test")
MEMORISER_P = 1e-6
"""A memoriser whose hits chance gives more rarely than this breaks a rule. Our choice."""
_EARLY, _LATE = np.iinfo(np.int64).min, np.iinfo(np.int64).max
Ints: TypeAlias = npt.NDArray[np.int64]
Table: TypeAlias = pa.Table | Mapping[str, Any]
Mask: TypeAlias = npt.NDArray[np.bool_]


def corpus_leakage(events: Table, examples: Table, cut: int | None = None) -> dict[str, Any]:
    """Rows that break each rule, the memoriser's figures, and what domains share; the card says what each one is.

    Args:
        events: `EVENTS`, a table or its columns.
        examples: `EXAMPLES`, a table or its columns; a list that is null is empty.
        cut: where validation begins, of a split by time.

    Raises:
        ValueError: a column is missing or of another type; a name is missing; an unknown split.
    """
    before, rows = _table(events, EVENTS, "data"), _table(examples, EXAMPLES, "examples")
    split = pc.index_in(rows["split"], pa.array(SPLITS)).fill_null(-1).to_numpy().astype(np.int64)
    if (split < 0).any():
        raise ValueError(f"split {rows['split'][int(np.argmin(split))]}; each is one of {', '.join(SPLITS)}")
    past_of, past_names = _lists(rows["history"])
    listed_of, listed_names = _lists(rows["candidates"])
    users = _numbers(before["user_id"], rows["user_id"])
    domains = _numbers(before["domain"], rows["domain"])
    ids = _numbers(before["item_id"], rows["target"], past_names, listed_names)
    # An item is its domain and its id; what a user did is the user and the item: each one number.
    of_domain = (domains[0], domains[1], domains[1][past_of], domains[1][listed_of])
    n_ids = _size(*ids)
    event, target, past, listed = (domain * n_ids + name for domain, name in zip(of_domain, ids, strict=True))
    n_items = _size(event, target, past, listed)
    did, does = users[0] * n_items + event, users[1] * n_items + target
    did_past, would_do = users[1][past_of] * n_items + past, users[1][listed_of] * n_items + listed
    time, known = _times(rows["timestamp"])
    event_time, event_known = _times(before["timestamp"])

    train, held, test = split == 0, split > 0, split == 2
    first = np.full(_size(*users), _LATE)
    np.minimum.at(first, users[1][held & known], time[held & known])
    begin = (_LATE, _EARLY) if cut is None else (cut, cut)
    times = np.bincount(listed_of[listed == target[listed_of]], minlength=len(split))
    in_history = held[listed_of] & np.isin(listed_of * n_items + listed, past_of * n_items + past)
    trained = held[listed_of] & np.isin(would_do, np.concatenate([does[train], did_past[train[past_of]]]))
    broken = {
        "downstream_domain_in_pretraining": np.isin(domains[0], domains[1]),
        "held_out_event_in_pretraining": np.isin(did, does[held]),
        "pretraining_after_cut": event_known & (event_time >= begin[0]),
        "pretraining_after_held_out_event": event_known & (event_time >= first[users[0]]),
        "held_out_event_as_train_target": train & np.isin(does, does[held]),
        "held_out_event_in_train_history": train[past_of] & np.isin(did_past, does[held]),
        "test_event_in_held_out_history": held[past_of] & np.isin(did_past, does[test]),
        "target_in_its_history": held & _any(past == target[past_of], past_of, len(split)),
        "train_after_cut": train & known & (time >= begin[0]),
        "held_out_before_cut": held & known & (time < begin[1]),
        "held_out_twice_of_one_user": held & _again((users[1] * _size(domains[1]) + domains[1]) * 3 + split),
        "users_out_of_order": _out_of_order(users[1] * _size(domains[1]) + domains[1], split, time, known),
        "target_not_once_in_candidates": _any(listed >= 0, listed_of, len(split)) & (times != 1),
        "candidate_twice": _any(_again(listed_of * n_items + listed), listed_of, len(split)),
        "candidate_in_history": _any(in_history, listed_of, len(split)),
        "candidate_among_training_items": _any(trained, listed_of, len(split)),
    }
    counts = {name: int(np.count_nonzero(rows)) for name, rows in broken.items()}
    memoriser = _memoriser(split, target, listed_of, listed)
    spellings = pc.unique(pa.chunked_array([*before["domain"].chunks, *rows["domain"].chunks], pa.string())).to_pylist()
    return {
        "rules_broken": sum(n > 0 for n in counts.values()) + (memoriser["memoriser_p"] < MEMORISER_P),
        **counts,
        **memoriser,
        "shared_users": _shared(np.concatenate(users), np.concatenate(domains), spellings),
        "shared_item_ids": _shared(np.concatenate(ids), np.concatenate(of_domain), spellings),
    }


def read_events(paths: Sequence[str | Path]) -> pa.Table:
    """`EVENTS` from Parquet files of events, or of documents.

    Raises:
        ValueError: a file has neither's columns.
    """
    tables = []
    for path in paths:
        events: Table
        if "item_ids" in pq.read_schema(path).names:
            documents = pq.read_table(path, columns=["user_id", "item_domains", "item_ids", "last_timestamp"])
            owner, ids = _lists(documents["item_ids"])
            of = documents.select(["user_id", "last_timestamp"]).take(pa.array(owner))
            domains = _lists(documents["item_domains"])[1]
            events = {"user_id": of["user_id"], "domain": domains, "item_id": ids, "timestamp": of["last_timestamp"]}
        else:
            events = pq.read_table(path)
        tables.append(_table(events, EVENTS, str(path)))
    return pa.concat_tables(tables)


def read_examples(paths: Mapping[str, Sequence[str | Path]]) -> pa.Table:
    """`EXAMPLES` from the Parquet files of each domain.

    Raises:
        ValueError: a file lacks a column, or its split is neither in it nor in its name.
    """
    tables = []
    for domain, files in paths.items():
        for path in files:
            names = [name for name in pq.read_schema(path).names if name in EXAMPLES.names]
            table = pq.read_table(path, columns=names)
            columns = {name: table[name] for name in names} | {"domain": pa.array([domain] * len(table), pa.string())}
            if "split" not in names:
                split = next((split for split in SPLITS if Path(path).stem.startswith(split)), None)
                if split is None:
                    raise ValueError(f"{path}: no column `split`, and its name begins with none of {', '.join(SPLITS)}")
                columns["split"] = pa.array([split] * len(table), pa.string())
            tables.append(_table(columns, EXAMPLES, str(path)))
    return pa.concat_tables(tables)


def _table(given: Table, schema: pa.Schema, what: str) -> pa.Table:
    missing = set(schema.names) - set(given.column_names if isinstance(given, pa.Table) else given)
    if missing:
        raise ValueError(f"{what}: no column {', '.join(sorted(missing))}; it needs {', '.join(schema.names)}")
    try:
        table = pa.table({name: given[name] for name in schema.names}).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{what}: {error}") from None
    for name in schema.names:
        if table[name].null_count and name not in ("timestamp", "history", "candidates"):
            raise ValueError(f"{what}: {table[name].null_count} rows without {name}")
    return table


def _lists(column: pa.ChunkedArray) -> tuple[Ints, pa.ChunkedArray]:
    """The row of each value of a column of lists, and the values."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values = pc.list_flatten(column)
    if values.null_count:
        raise ValueError(f"{values.null_count} item ids in lists are missing")
    return np.repeat(np.arange(len(lengths)), lengths), values


def _numbers(*columns: pa.ChunkedArray) -> list[Ints]:
    """Names as numbers from 0, equal names in any of the columns having equal ones."""
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    numbers = joined.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return np.split(numbers, np.cumsum([len(column) for column in columns])[:-1])


def _size(*numbers: Ints) -> int:
    return 1 + max(int(part.max(initial=-1)) for part in numbers)


def _times(column: pa.ChunkedArray) -> tuple[Ints, Mask]:
    return column.fill_null(0).to_numpy(), column.is_valid().to_numpy()


def _any(values: Mask, row: Ints, n: int) -> Mask:
    return np.bincount(row[values], minlength=n) > 0


def _again(keys: Ints) -> Mask:
    """Which keys stood before."""
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return again


def _out_of_order(groups: Ints, split: Ints, time: Ints, known: Mask) -> Mask:
    """Which users of a domain (`groups`) have train after held-out rows, or validation after test."""
    n = _size(groups)
    latest, earliest = np.full((3, n), _EARLY), np.full((3, n), _LATE)
    np.maximum.at(latest, (split[known], groups[known]), time[known])
    np.minimum.at(earliest, (split[known], groups[known]), time[known])
    return (latest[0] > np.minimum(earliest[1], earliest[2])) | (latest[1] > earliest[2])


def _memoriser(split: Ints, target: Ints, listed_of: Ints, listed: Ints) -> dict[str, Any]:
    """The lookup from a candidate set to the targets it had in validation, asked about the test rows."""
    lengths = np.bincount(listed_of, minlength=len(split))
    starts = np.cumsum(lengths) - lengths
    sets = np.full(len(split), -1)
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        table = np.sort(listed[starts[rows][:, None] + np.arange(length)], axis=1)
        sets[rows] = sets.max(initial=-1) + 1 + np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
    n_items, n_sets = _size(target, listed), _size(sets)
    learnt = (split == 1) & (lengths > 0)
    pairs, times = np.unique(sets[learnt] * n_items + target[learnt], return_counts=True)
    most = np.zeros(n_sets, dtype=np.int64)
    np.maximum.at(most, pairs // n_items, times)
    best = pairs[times == most[pairs // n_items]]
    ties = np.bincount(best // n_items, minlength=n_sets)
    asked = np.flatnonzero((split == 2) & (lengths > 0))
    chance = 1 / lengths[asked]
    seen = ties[sets[asked]] > 0
    right = np.isin(sets[asked] * n_items + target[asked], best)
    hits = np.where(seen, right / np.maximum(ties[sets[asked]], 1), chance)
    among = float(chance[seen].mean()) if seen.any() else 0.0
    return {
        "memoriser_hr@1": float(hits.mean()) if len(asked) else 0.0,
        "memoriser_chance": float(chance.mean()) if len(asked) else 0.0,
        "memoriser_recognised": int(seen.sum()),
        "memoriser_p": float(binom.sf(np.ceil(hits[seen].sum()) - 1, seen.sum(), among)) if seen.any() else 1.0,
    }


def _shared(values: Ints, domains: Ints, spellings: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many distinct values both domains have; on the diagonal, a domain has."""
    order = sorted(range(len(spellings)), key=spellings.__getitem__)
    of = {number: np.unique(values[domains == number]) for number in order}
    return {
        spellings[one]: {spellings[other]: len(np.intersect1d(of[one], of[other], True)) for other in order}
        for one in order
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CorpusLeakage(evaluate.Measurement):
    """Leaks of a corpus as an `evaluate` measurement; see `corpus_leakage`."""

    def _info(self) -> evaluate.MeasurementInfo:
        text, time = datasets.Value("string"), datasets.Value("int64")
        event = {"user_id": text, "domain": text, "item_id": text, "timestamp": time}
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[datasets.Features({"data": event}), datasets.Features({"data": text})],
        )

    def _compute(self, data: Sequence[Any], examples: Any, cut: int | None = None) -> dict[str, Any]:
        of_paths = isinstance(next(iter(data), None), str)
        events = read_events(data) if of_paths else pa.Table.from_pylist(list(data), EVENTS)
        rows = read_examples(examples) if isinstance(examples, Mapping) else pa.Table.from_pylist(examples, EXAMPLES)
        return corpus_leakage(events, rows, cut)
