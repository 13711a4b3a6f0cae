"""A log on disk as buckets of whole users in ascending order of their ids: what a build reads in place of the log.

Three passes, none of which holds more than a part of the log (our choice; a grace hash join and a bucket sort):

1. the source is read once, streaming; usable rows go to parts by a hash of their user;
2. part by part, users get their final ids (pseudonyms, see `pseudonyms.py`), and rows go to buckets, which are ranges
   of those ids: the users of the first parts are a sample of all users, and their quantiles are the bounds;
3. bucket by bucket, rows are sorted by (user, domain, timestamp, item), and an event that stands there twice is taken
   once.

What comes after sees users in one and the same order, whatever the number of buckets. So memory is bounded by the size
of a bucket, by the catalogue, and by nothing else that grows with the log.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cprec_hf.corpus.regroup import EVENT_COLUMNS, USER_COLUMNS, grouped, to_buckets
from cprec_hf.corpus.threads import in_order
from cprec_hf.corpus.windows import row_order
from cprec_hf.errors import InputError

PARTS = 64
"""Files of the first pass. Twice as many would hold twice as long a log in the same memory."""
BUCKET_EVENTS = 1_000_000
"""Most events of a bucket, however much memory there is: several are worked on at once, and sort faster. Measured."""
BYTES_PER_EVENT = 400
"""What an event of a bucket takes at most while it is worked on: ids, numbers, sorted copies and texts. Measured."""


@dataclass(frozen=True)
class Bucket:
    """All events of some users, sorted by (user, domain, timestamp, item).

    Attributes:
        users: their ids, ascending [users]; each has an event.
        user: row of `users`, int32 [events].
        item: row of the catalogue sorted by (domain, item_id), int32 [events].
        timestamp: order within (user, domain), int64 [events].
        clock: order across domains, int64 [events], 0 where unknown.
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
        columns = ("user", "item", "timestamp", "clock", "known")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

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
        """One bucket."""
        table = pq.read_table(self._path("events", number), memory_map=True)
        clock = table["clock"]
        user, item, timestamp = (table[name].to_numpy() for name in ("user", "item", "timestamp"))
        users = pq.read_table(self._path("users", number))["user_id"].combine_chunks()
        return Bucket(users, user, item, timestamp, clock.fill_null(0).to_numpy(), clock.is_valid().to_numpy())

    def __iter__(self) -> Iterator[Bucket]:
        return (self.load(number) for number in range(self.n_buckets))

    def save(self, number: int, bucket: Bucket) -> None:
        """Write a bucket, in place of what stood there."""
        clock = pa.array(bucket.clock, mask=~bucket.known)
        table = pa.table([bucket.user, bucket.item, bucket.timestamp, clock], schema=EVENT_COLUMNS)
        pq.write_table(table, self._path("events", number), compression="lz4", use_dictionary=False)
        pq.write_table(pa.table([bucket.users], schema=USER_COLUMNS), self._path("users", number), compression="lz4")

    def renumber_items(self, number: int, row_of: np.ndarray) -> None:
        """Name the items of a bucket by `row_of`, int32 [items], which keeps their order."""
        bucket = self.load(number)
        self.save(number, replace(bucket, item=row_of[bucket.item]))

    def _path(self, what: str, number: int) -> Path:
        return self.folder / f"{what}-{number:05d}.parquet"


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
        rows: user_id String, item Int32, timestamp Int64, clock Int64 or null; an event may stand there more than once.
        domain_of: the domain's number of each item, int64 [items], ascending.
        folder: to be made; takes about 50 bytes an event for a while.
        name_users: distinct user ids -> their final ids; null keeps them.
        memory_gb: gigabytes (2**30 bytes) that a bucket may take while it is worked on.
        also: other queries over the same scan, run in the same pass over the source.

    Returns:
        The buckets, how many rows were the second or later of their event, and the results of `also`.

    Raises:
        InputError: two users share a final id.
    """
    parts = folder / "parts"
    parts.mkdir(parents=True)
    part = (pl.col("user_id").hash() % PARTS).cast(pl.Int32)
    sink = rows.select("user_id", "item", "timestamp", "clock", part=part).sink_parquet(
        pl.PartitionBy(parts, key="part", include_key=False), compression="lz4", statistics=False,
        maintain_order=False, mkdir=True, lazy=True,
    )  # fmt: skip
    _, *found = pl.collect_all([sink, *also], engine="streaming")
    files = sorted(parts.rglob("*.parquet"))
    sizes = [pq.read_metadata(file).num_rows for file in files]
    most = min(int(memory_gb * 2**30) // BYTES_PER_EVENT, BUCKET_EVENTS)
    n_buckets = max(-(-sum(sizes) // max(most, 1)), 1)
    store = EventStore(folder, n_buckets)
    to_buckets(grouped(files, sizes, sum(sizes) // n_buckets), folder, n_buckets, name_users)
    shutil.rmtree(parts)
    repeated = sum(in_order(partial(_sort_bucket, store, number, domain_of) for number in range(n_buckets)))
    return store, repeated, found


def _sort_bucket(store: EventStore, number: int, domain_of: np.ndarray) -> int:
    """The third pass, for one bucket; returns how many rows were repetitions."""
    paths = [store.folder / f"{what}-{number:05d}.arrows" for what in ("events", "users")]
    events, users = (pa.ipc.open_stream(path).read_all().combine_chunks() for path in paths)
    names = users["user_id"].combine_chunks() if len(users) else pa.array([], pa.string())
    order = pc.sort_indices(names)
    names = names.take(order)
    if len(names) > 1 and pc.any(pc.equal(names[1:], names[:-1])).as_py():
        raise InputError(f"two of {len(names):,} users share a pseudonym; set another secret key for user ids")
    rank = np.empty(len(order), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    clock = events["clock"]
    bucket = Bucket(
        names, rank[events["user"].to_numpy()], events["item"].to_numpy(), events["timestamp"].to_numpy(),
        clock.fill_null(0).to_numpy(), clock.is_valid().to_numpy(),
    )  # fmt: skip
    keys = [bucket.user, domain_of[bucket.item], bucket.timestamp, bucket.item]
    order = row_order(*keys)
    if _repeated(
        bucket.take(order)
    ).any():  # which of equal events is taken is no chance: the one of the earliest clock
        order = row_order(*keys, ~bucket.known, bucket.clock)
    bucket = bucket.take(order)
    repeated = _repeated(bucket)
    store.save(number, bucket.take(~repeated) if repeated.any() else bucket)
    for path in paths:
        path.unlink()
    return int(repeated.sum())


def _repeated(bucket: Bucket) -> np.ndarray:
    """Whether each event of a sorted bucket is the one before it again (an item has one domain). Shape: [events]."""
    keys = (bucket.user, bucket.timestamp, bucket.item)
    repeated = np.zeros(len(bucket), dtype=bool)
    repeated[1:] = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return repeated
