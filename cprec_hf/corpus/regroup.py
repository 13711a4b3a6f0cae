"""The second pass of `events`: rows grouped by a hash of their user, to buckets that are ranges of the users' ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_hf.corpus.threads import in_order

EVENT_COLUMNS = pa.schema(
    [("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64()), ("clock", pa.int64())]
)
USER_COLUMNS = pa.schema([("user_id", pa.string())])


def to_buckets(
    groups: list[list[Path]], folder: Path, n_buckets: int, name_users: Callable[[Sequence[str]], list[str]] | None
) -> None:
    """The second pass: a stream of events and one of users a bucket. The first parts set the bounds."""
    known = np.zeros(n_buckets, dtype=np.int64)  # users of each bucket so far
    first = _read_part(groups[0], name_users) if groups else None
    bounds = _bounds(first.names, first.user, n_buckets) if first else None
    with ExitStack() as stack:
        events, users = (
            [
                stack.enter_context(pa.ipc.new_stream(folder / f"{what}-{number:05d}.arrows", schema))
                for number in range(n_buckets)
            ]
            for what, schema in (("events", EVENT_COLUMNS), ("users", USER_COLUMNS))
        )
        pieces = [partial(_divided, first, bounds)] if first else []
        pieces += [partial(_read_divided, files, name_users, bounds) for files in groups[1:]]
        del first
        for part in in_order(pieces):
            offset = np.repeat(known, np.diff(part.ends, prepend=0)).astype(np.int32)
            table = part.table.set_column(0, "user", pa.array(part.table["user"].to_numpy() + offset))
            begin = 0
            for number, end in enumerate(part.ends.tolist()):
                if end > begin:
                    events[number].write_table(table.slice(begin, end - begin))
                    of_bucket = part.names.slice(part.edges[number], part.edges[number + 1] - part.edges[number])
                    users[number].write_table(pa.table([of_bucket], schema=USER_COLUMNS))
                begin = end
            known += np.diff(part.edges)


@dataclass(frozen=True)
class _Part:
    """Some files of the first pass.

    Attributes:
        table: their rows.
        names: the final ids of their users, ascending.
        user: row of `names` of each row.
    """

    table: pa.Table
    names: pa.StringArray
    user: np.ndarray


@dataclass(frozen=True)
class _Divided:
    """A part by bucket: `EVENT_COLUMNS` sorted by bucket, users numbered from 0 on in each of them.

    Attributes:
        table: the rows.
        ends: where the rows of each bucket end [buckets].
        names: the final ids, ascending.
        edges: names[edges[b] : edges[b + 1]] belong to bucket b [buckets + 1].
    """

    table: pa.Table
    ends: np.ndarray
    names: pa.StringArray
    edges: np.ndarray


def _read_part(files: list[Path], name_users: Callable[[Sequence[str]], list[str]] | None) -> _Part:
    table = pa.concat_tables([pq.read_table(file) for file in files])
    ids = table["user_id"].combine_chunks().dictionary_encode()
    names = ids.dictionary.cast(pa.string())
    if name_users is not None:
        names = pa.array(name_users(names.to_pylist()), pa.string())
    order = pc.sort_indices(names)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return _Part(table.drop_columns("user_id"), names.take(order), rank[ids.indices.to_numpy()])


def _read_divided(
    files: list[Path], name_users: Callable[[Sequence[str]], list[str]] | None, bounds: pa.Array
) -> _Divided:
    return _divided(_read_part(files, name_users), bounds)


def _divided(part: _Part, bounds: pa.Array) -> _Divided:
    edges = _edges(part.names, bounds)
    n_buckets = len(edges) - 1
    bucket_of = np.repeat(np.arange(n_buckets, dtype=np.int16), np.diff(edges))[part.user]
    rows = np.argsort(bucket_of, kind="stable")
    ends = np.cumsum(np.bincount(bucket_of, minlength=n_buckets))
    user = (part.user - edges[bucket_of]).astype(np.int32)
    columns = [part.table[name].combine_chunks() for name in ("item", "timestamp", "clock")]
    table = pa.table([user, *columns], schema=EVENT_COLUMNS).take(pa.array(rows)).combine_chunks()
    return _Divided(table, ends, part.names, edges)


def grouped(files: list[Path], sizes: list[int], most: int) -> list[list[Path]]:
    """Files in their order, as many to a group as hold `most` rows together, or one."""
    groups: list[list[Path]] = []
    room = 0
    for file, size in zip(files, sizes, strict=True):
        if size > room or not groups:
            groups.append([])
            room = most
        groups[-1].append(file)
        room -= size
    return groups


def _bounds(names: pa.StringArray, user: np.ndarray, n_buckets: int) -> pa.Array:
    """The first id of each bucket but the first, so that about as many rows lie between any two [buckets - 1]."""
    rows = np.cumsum(np.bincount(user, minlength=len(names)))
    wanted = rows[-1] * np.arange(1, n_buckets) // n_buckets if len(rows) else np.zeros(n_buckets - 1)
    return names.take(pa.array(np.searchsorted(rows, wanted)))


def _edges(names: pa.StringArray, bounds: pa.Array) -> np.ndarray:
    """How many of the ascending `names` lie before each bound; 0 first and all of them last [buckets + 1]."""
    both = pa.concat_arrays([names, bounds])
    tie = np.repeat([1, 0], [len(names), len(bounds)])  # a bound comes before a name equal to it
    order = pc.sort_indices(pa.table({"id": both, "tie": tie}), sort_keys=[("id", "ascending"), ("tie", "ascending")])
    places = np.flatnonzero(order.to_numpy() >= len(names))
    return np.concatenate([[0], places - np.arange(len(bounds)), [len(names)]]).astype(np.int64)
