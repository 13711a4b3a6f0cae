"""Whose history goes to whom in documents of shuffled users (`controls.py`), and those events in their new buckets.

In each domain users stand in a circle, in an order drawn by (seed, domain, user), and hand their history to the next:
everybody gives one and gets one, and nobody keeps their own, unless they are alone in the domain. So the receivers of a
domain are its users, and everybody has as many domains as before. Events are gone through twice: once for the pairs of
user and domain, once to put each event into the bucket of its receiver. In memory are 30 bytes a pair (600 MB for 10
million users of two domains) and no more of the events than a bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import row_keys
from cprec_hf.corpus.controls import SHUFFLED_USERS
from cprec_hf.corpus.windows import row_order, run_bounds

if TYPE_CHECKING:
    from cprec_hf.corpus.write import Part

_COLUMNS = pa.schema([("user", pa.int64()), ("item", pa.int32()), ("timestamp", pa.int64()), ("clock", pa.int64())])


def circle_keys(users: pa.StringArray, domain: str, seed: int) -> np.ndarray:
    """What sets the order of users in a domain's circle, uint64 [users].

    Args:
        users: ids, as they are published.
        domain: its name.
        seed: of the corpus.
    """
    return row_keys(f"{seed}", f"{SHUFFLED_USERS}\0{domain}", users, np.zeros(len(users)))


def receivers(user: np.ndarray, domain: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Who gets each history, int64 [pairs].

    Args:
        user: number of the user of each pair, in the order of the ids.
        domain: number of its domain.
        key: of `circle_keys`.
    """
    line = np.lexsort((user, key, domain))
    bounds = run_bounds(domain[line])
    following = np.arange(1, len(line) + 1)
    following[bounds[1:] - 1] = bounds[:-1]  # the last in a domain's line hands to its first
    given = np.empty(len(line), dtype=np.int64)
    given[line] = user[line[following]]
    return given


@dataclass(frozen=True)
class Handed:
    """Events handed over, on disk.

    Attributes:
        folder: with a file a bucket.
        first: number of each bucket's first user, and of all users [buckets + 1].
        events: how many there are.
    """

    folder: Path
    first: np.ndarray
    events: int

    def of(self, number: int) -> pl.DataFrame:
        """What the users of a bucket were given, by user: user_id (row of its users), item_id, timestamp, clock."""
        table = pa.ipc.open_stream(self.folder / f"{number:05d}.arrows").read_all().combine_chunks()
        user = table["user"].to_numpy() - self.first[number]
        table = table.set_column(0, "user_id", pa.array(user.astype(np.int32))).rename_columns({"item": "item_id"})
        frame = pl.DataFrame(table.take(pa.array(row_order(user))))
        assert isinstance(frame, pl.DataFrame)
        return frame


def hand_over(parts: Iterable[Part], domains: list[str], held: pa.StringArray, folder: Path, seed: int) -> Handed:
    """Hand each history of those who take part to its receiver, and write the events to the receivers' buckets.

    Those take part who have events of two domains with a known order across domains, validation users apart: no event
    of theirs comes into a training document, and none of others into theirs.

    Args:
        parts: the events of each bucket; gone through twice.
        domains: names, by number.
        held: the validation users.
        folder: to be made.
        seed: of the corpus.
    """
    of_pairs: list[tuple[np.ndarray, ...]] = []
    sizes = [0]
    for part in parts:
        rows = _taking_part(part.pretraining, pc.is_in(part.bucket.users, held).to_numpy(zero_copy_only=False))
        user, domain = part.pretraining["user_id"].to_numpy()[rows], _domain(part.pretraining)[rows]
        begins = run_bounds(user, domain)[:-1]
        user, domain = user[begins], domain[begins]
        key = np.empty(len(user), dtype=np.uint64)
        for number in np.unique(domain).tolist():
            here = domain == number
            key[here] = circle_keys(part.bucket.users.take(pa.array(user[here])), domains[number], seed)
        of_pairs.append((user + np.int64(sum(sizes)), domain, key))
        sizes.append(len(part.bucket.users))
    first = np.cumsum(sizes)
    given = receivers(*(np.concatenate(columns) for columns in zip(*of_pairs, strict=True)))
    pairs = np.cumsum([0, *(len(user) for user, _, _ in of_pairs)])
    folder.mkdir()
    n_events = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_stream(folder / f"{number:05d}.arrows", _COLUMNS))
            for number in range(len(first) - 1)
        ]
        for number, part in enumerate(parts):
            events = part.pretraining
            rows = _taking_part(events, pc.is_in(part.bucket.users, held).to_numpy(zero_copy_only=False))
            bounds = run_bounds(events["user_id"].to_numpy()[rows], _domain(events)[rows])
            receiver = np.repeat(given[pairs[number] : pairs[number + 1]], np.diff(bounds))
            columns = [events[name].to_numpy()[rows] for name in ("item_id", "timestamp", "clock")]
            for to, table in _by_bucket(pa.table([receiver, *columns], schema=_COLUMNS), first):
                files[to].write_table(table)
            n_events += len(rows)
    return Handed(folder, first, n_events)


def _domain(events: pl.DataFrame) -> np.ndarray:
    return events["domain"].to_physical().to_numpy()


def _taking_part(events: pl.DataFrame, held: np.ndarray) -> np.ndarray:
    """The events that are handed over, int64 [rows]; `events` sorted by (user, domain), `held` bool [users]."""
    known = np.flatnonzero(events["clock"].is_not_null().to_numpy())
    user = events["user_id"].to_numpy()[known]
    return known[(of_two_domains(user, _domain(events)[known], len(held)) & ~held)[user]]


def of_two_domains(user: np.ndarray, domain: np.ndarray, n_users: int) -> np.ndarray:
    """Whether each user has events of two domains or more, bool [users]; rows sorted by (user, domain)."""
    bounds = run_bounds(user)
    mixed = np.zeros(n_users, dtype=bool)
    mixed[user[bounds[:-1]]] = domain[bounds[:-1]] != domain[bounds[1:] - 1]
    return mixed


def _by_bucket(table: pa.Table, first: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """The rows for each bucket that has some, users numbered through all buckets."""
    bucket = np.searchsorted(first, table["user"].to_numpy(), side="right") - 1
    order = np.argsort(bucket, kind="stable")
    table, bounds = table.take(pa.array(order)), run_bounds(bucket[order])
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield int(bucket[order[begin]]), table.slice(begin, end - begin)
