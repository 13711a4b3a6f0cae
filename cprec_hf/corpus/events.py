"""A log on disk as buckets of whole users in ascending order of their ids: what a build reads in place of the log.

Three passes, none of which holds more than a part of the log (our choice; a grace hash join and a sample sort):

1. the source is read once, streaming; usable rows go to parts by a hash of their user;
2. part by part, users get their final ids (pseudonyms, see `pseudonyms.py`), rows are sorted by (user, domain,
   timestamp, item), and an event that stands there twice is taken once;
3. buckets are ranges of the final ids, bounded by quantiles of a sample from all parts; bucket by bucket, its users'
   events are gathered from the parts, where each user's lie together, in order.

What comes after sees users in one and the same order, whatever the number of buckets. So memory is bounded by the size
of a bucket, by the catalogue, and by nothing else that grows with the log.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.ragged import offsets_of, ranges
from cprec_hf.corpus.threads import in_order
from cprec_hf.corpus.windows import row_order, run_bounds
from cprec_hf.errors import InputError

PARTS = 64
"""Files of the first pass. Twice as many would hold twice as long a log in the same memory."""
BUCKET_EVENTS = 500_000
"""Most events of a bucket, however much memory there is: several are worked on at once, and sort faster. Measured."""
BYTES_PER_EVENT = 400
"""What an event of a bucket takes at most while it is worked on: ids, numbers, sorted copies and texts. Measured."""
SAMPLES = 64
"""Events a bucket, of all parts, whose users' ids are sampled for its bounds."""


@dataclass(frozen=True)
class Bucket:
    """All events of some users, sorted by (user, domain, timestamp, item).

    Attributes:
        users: their ids, ascending [users]; each has an event.
        user: row of `users`, int32 [events].
        item: row of the catalogue sorted by (domain, item_id), int32 [events].
        timestamp: order within (user, domain), int64 [events].
        clock: order across domains, int64 [events], 0 where unknown; where times are that order, the array `timestamp`
            itself, so that no file and no copy holds them twice.
        known: whether there is a clock, bool [events].
    """

    users: pa.StringArray
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    clock: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: np.ndarray) -> Bucket:
        """The events at `rows` (a mask or indices), of the same users."""
        user, item, timestamp, known = (column[rows] for column in (self.user, self.item, self.timestamp, self.known))
        clock = timestamp if self.clock is self.timestamp else self.clock[rows]
        return Bucket(self.users, user, item, timestamp, clock, known)

    def without_idle_users(self) -> Bucket:
        """The same events, of those users alone who have one."""
        active = np.zeros(len(self.users), dtype=bool)
        active[self.user] = True
        number = np.cumsum(active, dtype=np.int32) - 1
        return replace(self, users=self.users.filter(pa.array(active)), user=number[self.user])

    def frame(self) -> pl.DataFrame:
        """user, item, timestamp, clock (null where unknown)."""
        clock = pl.Series(self.clock)
        if not self.known.all():
            clock = clock.set(pl.Series(~self.known), None)
        return pl.DataFrame({"user": self.user, "item": self.item, "timestamp": self.timestamp, "clock": clock})


@dataclass(frozen=True)
class Opened:
    """The files of a bucket, as their pages: they take memory while they are looked at."""

    events: pa.RecordBatch
    users: pa.RecordBatch

    def piece(self, first: int, last: int | None) -> Bucket:
        """The events of users `first` to `last` - 1 (to the end, if null), who are numbered from 0 on."""
        user = self.events["user"].to_numpy()
        names = self.users["user_id"].slice(first, None if last is None else last - first)
        begin, end = np.searchsorted(user, np.array([first, first + len(names)], dtype=user.dtype))
        item, timestamp = (self.events[name].to_numpy()[begin:end] for name in ("item", "timestamp"))
        user = user[begin:end] - np.int32(first) if first else user[begin:end]
        if "clock" not in self.events.schema.names:
            return Bucket(names, user, item, timestamp, timestamp, np.ones(len(user), dtype=bool))
        clock = self.events["clock"].slice(begin, end - begin)
        known = clock.is_valid().to_numpy(zero_copy_only=False)
        return Bucket(names, user, item, timestamp, clock.fill_null(0).to_numpy(), known)

    def edges(self, bounds: pl.Series) -> np.ndarray:
        """How many of the users come before each of these ids; 0 first and all of them last [bounds + 2]."""
        users = pl.Series(self.users["user_id"])
        return np.concatenate([[0], users.search_sorted(bounds).to_numpy(), [len(users)]]).astype(np.int64)


class EventStore:
    """The buckets in a folder, numbered in ascending order of their users' ids.

    Args:
        folder: of the bucket files.
        n_buckets: how many there are.
    """

    def __init__(self, folder: Path, n_buckets: int) -> None:
        self.folder, self.n_buckets = folder, n_buckets

    def __len__(self) -> int:
        return self.n_buckets

    def load(self, number: int) -> Bucket:
        """One bucket; its arrays are the file's own pages."""
        return self.opened(number).piece(0, None)

    def opened(self, number: int) -> Opened:
        """One bucket, of which pieces are wanted."""
        return Opened(*(_mapped(self._path(what, number)) for what in ("events", "users")))

    def __iter__(self) -> Iterator[Bucket]:
        return (self.load(number) for number in range(self.n_buckets))

    def save(self, number: int, bucket: Bucket) -> None:
        """Write a bucket, in place of what stood there."""
        columns = {"user": bucket.user, "item": bucket.item, "timestamp": bucket.timestamp}
        if bucket.clock is not bucket.timestamp:
            columns["clock"] = pa.array(bucket.clock, mask=~bucket.known)
        _write(pa.record_batch(columns), self._path("events", number))
        _write(pa.record_batch({"user_id": bucket.users}), self._path("users", number))

    def renumber_items(self, number: int, row_of: np.ndarray) -> None:
        """Name the items of a bucket by `row_of`, int32 [items], which keeps their order."""
        bucket = self.load(number)
        self.save(number, replace(bucket, item=row_of[bucket.item]))

    def _path(self, what: str, number: int) -> Path:
        return self.folder / f"{what}-{number:05d}.arrow"


def open_events(
    rows: pl.LazyFrame,
    domain_of: np.ndarray,
    folder: Path,
    *,
    name_users: Callable[[Sequence[str]], list[str]] | None,
    memory_gb: float,
    also: Sequence[pl.LazyFrame] = (),
) -> tuple[EventStore, int, list[pl.DataFrame]]:
    """Write the buckets of a log (see the module's docstring).

    Args:
        rows: user_id String, item Int32, timestamp Int64, and clock Int64 or null, unless that is the timestamp; an
            event may stand there more than once.
        domain_of: the domain's number of each item, int64 [items], ascending.
        folder: to be made; takes about 50 bytes an event, and its user's id, for a while.
        name_users: distinct user ids -> their final ids; null keeps them.
        memory_gb: gigabytes (2**30 bytes) that a bucket may take while it is worked on.
        also: other queries over the same scan, run in the same pass over the source.

    Returns:
        The buckets, how many rows were the second or later of their event, and the results of `also`.

    Raises:
        InputError: two users share a final id.
    """
    raw = folder / "parts"
    raw.mkdir(parents=True)
    sink = rows.with_columns(part=(pl.col("user_id").hash() % PARTS).cast(pl.Int32)).sink_ipc(
        pl.PartitionBy(raw, key="part", include_key=False), compat_level=pl.CompatLevel.oldest(), maintain_order=False,
        mkdir=True, lazy=True,
    )  # fmt: skip
    _, *found = pl.collect_all([sink, *also], engine="streaming")
    files = sorted(path for path in raw.rglob("*") if path.is_file())
    n_events = sum(pa.ipc.open_file(pa.memory_map(str(file))).read_all().num_rows for file in files)
    most = min(int(memory_gb * 2**30) // BYTES_PER_EVENT, BUCKET_EVENTS)
    n_buckets = max(-(-n_events // max(most, 1)), 1)
    parts, store = EventStore(raw, len(files)), EventStore(folder, n_buckets)
    every = max(n_events // (n_buckets * SAMPLES), 1)
    sorting = (
        partial(_sort_part, file, parts, number, domain_of, name_users, every) for number, file in enumerate(files)
    )
    repeated, samples = 0, [pl.Series([], dtype=pl.String)]
    for n_repeated, sample in in_order(sorting):
        repeated += n_repeated
        samples.append(sample)
    sample = pl.concat(samples).sort()
    bounds = sample.gather(len(sample) * np.arange(1, n_buckets) // n_buckets)
    opened = [parts.opened(number) for number in range(len(parts))]
    edges = [part.edges(bounds) for part in opened]
    for _ in in_order(partial(_gather, opened, store, number, edges) for number in range(n_buckets)):
        pass
    shutil.rmtree(raw)
    return store, repeated, found


def _sort_part(
    file: Path, parts: EventStore, number: int, domain_of: np.ndarray,
    name_users: Callable[[Sequence[str]], list[str]] | None, every: int,
) -> tuple[int, pl.Series]:  # fmt: skip
    """The second pass, for one part; returns how many rows were repetitions, and the user of every so many events."""
    rows = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    ids = rows["user_id"].combine_chunks().dictionary_encode()
    names = ids.dictionary.cast(pa.string())
    if name_users is not None:
        names = pa.array(name_users(names.to_pylist()), pa.string())
    order = pc.sort_indices(names)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    timestamp = rows["timestamp"].to_numpy()
    clock, known = timestamp, np.ones(len(timestamp), dtype=bool)
    if "clock" in rows.column_names:
        clock, known = rows["clock"].fill_null(0).to_numpy(), rows["clock"].is_valid().to_numpy()
    names = names.take(order)
    bucket = Bucket(names, rank[ids.indices.to_numpy()], rows["item"].to_numpy(), timestamp, clock, known)
    keys = [bucket.user, domain_of[bucket.item], bucket.timestamp, bucket.item]
    ordered = bucket.take(row_order(*keys))
    repeated = _repeated(ordered)
    if repeated.any():
        if clock is not timestamp:  # which of equal events is taken is no chance: the one of the earliest clock
            ordered = bucket.take(row_order(*keys, ~known, clock))
        ordered = ordered.take(~repeated)
    parts.save(number, ordered)
    file.unlink()
    return int(repeated.sum()), pl.Series(names.take(pa.array(ordered.user[every // 2 :: every])))


def _gather(parts: list[Opened], store: EventStore, number: int, edges: list[np.ndarray]) -> None:
    """The third pass, for one bucket."""
    pieces = [part.piece(*cuts[number : number + 2].tolist()) for part, cuts in zip(parts, edges, strict=True)]
    names = pa.concat_arrays([pa.array([], pa.string()), *(piece.users for piece in pieces)])
    order = pc.sort_indices(names)
    users = names.take(order)
    if len(users) > 1 and pc.any(pc.equal(users[1:], users[:-1])).as_py():
        raise InputError(f"two of {len(users):,} users share a pseudonym; set another secret key for user ids")
    first = offsets_of(np.array([len(piece.users) for piece in pieces], dtype=np.int64)).astype(np.int32)
    user = _joined(np.int32, (piece.user + begin for piece, begin in zip(pieces, first, strict=False)))
    item = _joined(np.int32, (piece.item for piece in pieces))
    timestamp = _joined(np.int64, (piece.timestamp for piece in pieces))
    known = _joined(np.bool_, (piece.known for piece in pieces))
    clock = timestamp
    if any(piece.clock is not piece.timestamp for piece in pieces):
        clock = _joined(np.int64, (piece.clock for piece in pieces))
    begins = run_bounds(user)
    begins, ends = begins[:-1][order.to_numpy()], begins[1:][order.to_numpy()]
    bucket = Bucket(users, user, item, timestamp, clock, known).take(ranges(begins, ends))
    user = np.repeat(np.arange(len(users), dtype=np.int32), ends - begins)
    store.save(number, replace(bucket, user=user))


def _joined(dtype: type[np.generic], arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays])


def _mapped(path: Path) -> pa.RecordBatch:
    """The rows of a file of `_write`."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _write(batch: pa.RecordBatch, path: Path) -> None:
    """Write rows to a new file of that name: whoever has mapped the one that stood there keeps it."""
    whole = path.with_suffix(".new")
    with pa.OSFile(str(whole), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    whole.replace(path)


def _repeated(bucket: Bucket) -> np.ndarray:
    """Whether each event of a sorted bucket is the one before it again (an item has one domain). Shape: [events]."""
    keys = (bucket.user, bucket.timestamp, bucket.item)
    repeated = np.zeros(len(bucket), dtype=bool)
    repeated[1:] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return repeated
