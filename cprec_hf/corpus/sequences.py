"""Behaviour as text for continual pre-training: a pure function, Arrow table in, Arrow table out.

`cpt_sequences` needs only the rows of its users, so any engine may run it on any partition of the users: Polars runs it
here, shard by shard (`write.py`); Spark runs the very same function in `groupBy(bucket).applyInArrow`.

A document is the template's header and one line per item. Its windows are counted in tokens: every segment is encoded
alone (`encoder.py`), so a document's length is exactly the sum of its segments' lengths, and greedy windows follow from
cumulative sums. Events name their items by row of the catalogue, and texts are gathered once, header and lines in a
row: the documents' characters are the very bytes that gathering writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.controls import CONTROLS, KINDS, SHUFFLED_TIME, SHUFFLED_USERS, shuffled_lines
from cprec_hf.corpus.ragged import offsets_of, ranges
from cprec_hf.corpus.template import DELIMITER, load_template
from cprec_hf.corpus.windows import greedy_windows, row_order, run_bounds

EVENTS = pa.schema(
    [
        ("user_id", pa.string()), ("item", pa.int32()),  # row of the catalogue
        ("timestamp", pa.int64()),  # order within (user, domain)
        ("clock", pa.int64()),  # order across domains; null where unknown
    ]
)  # fmt: skip
HANDED = "handed"
"""One more column of events, where there are documents of shuffled users: whether the event is another user's, handed
over (`handover.py`). Those are the events of these documents, and of no others."""
CATALOGUE = pa.schema(
    [("domain", pa.string()), ("item_id", pa.string()), ("title", pa.string()), ("tokens", pa.int32())]
)
SEQUENCES = pa.schema(
    [
        ("text", pa.string()), ("kind", pa.string()), ("domain", pa.string()), ("user_id", pa.string()),
        ("item_ids", pa.list_(pa.string())), ("item_domains", pa.list_(pa.string())), ("n_tokens", pa.int32()),
        ("last_timestamp", pa.int64()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class SequencePlan:
    """What `cpt_sequences` must know besides the events."""

    template_version: str
    kinds: tuple[str, ...]
    """Of `controls.KINDS`."""
    window_tokens: int
    header_tokens: Mapping[str | None, int]
    """Tokens before the first item line, the tokenizer's start ids included: by domain, and None for all domains."""
    times_known: bool
    """Whether timestamps are times; if not, `last_timestamp` is null."""
    catalogue: pa.Table
    """`CATALOGUE`, sorted by (domain, item_id): titles cleaned and cut, tokens those of title + delimiter. It may be a
    part of the whole catalogue, if the events name its rows."""
    seed: int = 0
    """Draws the order of shuffled lines."""

    @cached_property
    def items(self) -> CatalogueArrays:
        """The catalogue as the arrays that documents are gathered from."""
        return CatalogueArrays.of(self)


@dataclass(frozen=True)
class CatalogueArrays:
    """A catalogue's columns, made once a plan.

    Attributes:
        domains: names, ascending [domains].
        domain: number of each item's domain, int64 [items].
        tokens: of each item's line, int64 [items].
        item_ids: [items].
        names: the name of each item's domain [items].
        pieces: what texts are gathered from: the items' lines, then a header per domain, then the one across domains.
        overhead: tokens of those headers, int64 [domains + 1].
    """

    domains: list[str]
    domain: np.ndarray
    tokens: np.ndarray
    item_ids: pa.StringArray
    names: pa.StringArray
    pieces: pa.StringArray
    overhead: np.ndarray

    @classmethod
    def of(cls, plan: SequencePlan) -> CatalogueArrays:
        """The arrays of a plan's catalogue."""
        table, template = plan.catalogue.select(CATALOGUE.names).cast(CATALOGUE).combine_chunks(), plan.template_version
        names = table["domain"].combine_chunks()
        domains = names.unique().to_pylist()
        headers = [load_template(template).header(domain) for domain in [*domains, None]]
        lines = pc.binary_join_element_wise(table["title"].combine_chunks(), "", DELIMITER)
        return cls(
            domains, pc.index_in(names, pa.array(domains, pa.string())).to_numpy().astype(np.int64),
            table["tokens"].to_numpy().astype(np.int64), table["item_id"].combine_chunks(), names,
            pa.concat_arrays([lines, pa.array(headers, pa.string())]),
            np.array([plan.header_tokens[domain] for domain in [*domains, None]], dtype=np.int64),
        )  # fmt: skip


@dataclass(frozen=True)
class _Events:
    """Events as arrays [events], in the order documents of one kind take them."""

    user: np.ndarray
    """Number of the user, ascending as the ids do."""
    item: np.ndarray
    timestamp: np.ndarray
    clock: np.ndarray
    known: np.ndarray
    """Whether there is a clock."""

    def take(self, rows: np.ndarray) -> _Events:
        return _Events(*(getattr(self, name)[rows] for name in ("user", "item", "timestamp", "clock", "known")))


def cpt_sequences(events: pa.Table, plan: SequencePlan, kinds: Sequence[str] | None = None) -> pa.Table:
    """The pre-training documents of these users, sorted by (user_id, kind, domain, order of events).

    `domain` documents: a user's events in one domain by (timestamp, item_id). `all_domain` documents: the events of
    users active in at least two domains, across domains by (clock, domain, item_id); events whose clock is unknown
    take no part. Each history is cut greedily into windows of at most `window_tokens` tokens that neither overlap nor
    split an item; a last window of a single item is left out (nothing can be learnt of what follows what). Controls
    are made as the kind that they are one of, see `controls.py`.

    Args:
        events: `EVENTS`, and `HANDED` for documents of shuffled users; user_id as text or a dictionary of it; rows in
            any order, all rows of every user in it.
        plan: sizes, kinds and the catalogue.
        kinds: of document, if not all of the plan's.

    Returns:
        `SEQUENCES`, one row per document.

    Raises:
        InputError: an item line that does not fit beside its header.
        ValueError: documents of shuffled users, and no column that says what was handed over.
    """
    kinds = sorted(plan.kinds if kinds is None else kinds, key=KINDS.index)
    if SHUFFLED_USERS in kinds and HANDED not in events.column_names:
        raise ValueError(f"{SHUFFLED_USERS} are made of events handed over, which a column `{HANDED}` marks")
    users, rows, handed = _read(events)
    received = rows.take(np.flatnonzero(handed))
    own = rows.take(np.flatnonzero(~handed)) if len(received.user) else rows
    parts = []
    for number, kind in enumerate(kinds):
        in_order = _by_domain if CONTROLS.get(kind, kind) == "domain" else _across_domains
        ordered, bounds, header = in_order(received if kind == SHUFFLED_USERS else own, plan.items)
        parts.append(_windows(ordered, bounds, header, number, kind, users, plan))
    return _gathered(_Windows.by_user(parts), kinds, users, plan)


def _read(events: pa.Table) -> tuple[pa.StringArray, _Events, np.ndarray]:
    """The user ids, ascending, the events as arrays, and which were handed over."""
    none = np.zeros(events.num_rows, dtype=bool)
    handed = events[HANDED].to_numpy() if HANDED in events.column_names else none
    events = events.select(EVENTS.names).combine_chunks()
    ids = events["user_id"].combine_chunks() if events.num_rows else pa.array([], pa.string())
    encoded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    clock = events["clock"]
    rows = _Events(
        rank[encoded.indices.to_numpy()],
        events["item"].to_numpy().astype(np.int64),
        events["timestamp"].to_numpy(),
        clock.fill_null(0).to_numpy(),
        clock.is_valid().to_numpy(),
    )
    return encoded.dictionary.take(pa.array(order)).cast(pa.string()), rows, handed


def _by_domain(events: _Events, items: CatalogueArrays) -> tuple[_Events, np.ndarray, np.ndarray]:
    """The events by user, domain and time, where each of these histories begins, and the header of each."""
    events = events.take(row_order(events.user, items.domain[events.item], events.timestamp, events.item))
    domain = items.domain[events.item]
    bounds = run_bounds(events.user, domain)
    return events, bounds, domain[bounds[:-1]]


def _across_domains(events: _Events, items: CatalogueArrays) -> tuple[_Events, np.ndarray, np.ndarray]:
    """The same for histories across domains, of the users who have two."""
    if not events.known.all():
        events = events.take(np.flatnonzero(events.known))
    order = row_order(events.user, events.clock, events.item)
    domain, bounds = items.domain[events.item[order]], run_bounds(events.user[order])
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    mixed = np.bincount(owner[domain != domain[bounds[owner]]], minlength=len(bounds) - 1) > 0
    lengths = np.diff(bounds)[mixed]
    return events.take(order[mixed[owner]]), offsets_of(lengths), np.full(len(lengths), len(items.domains))


@dataclass(frozen=True)
class _Windows:
    """Documents before they are written [documents]; `item` holds the lines of all, one's after the other's [lines]."""

    item: np.ndarray
    lengths: np.ndarray
    kind: np.ndarray
    header: np.ndarray
    user: np.ndarray
    tokens: np.ndarray
    last: np.ndarray
    """Time of the last event."""

    @classmethod
    def by_user(cls, parts: list[_Windows]) -> _Windows:
        """All windows of several kinds, by user; those of one user in the order of the parts."""
        names = [field.name for field in fields(cls)]
        both = cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        order = np.argsort(both.user, kind="stable")
        offsets = offsets_of(both.lengths)
        lines = ranges(offsets[:-1][order], offsets[1:][order])
        return cls(both.item[lines], *(getattr(both, name)[order] for name in names[1:]))


def _windows(
    events: _Events, bounds: np.ndarray, header: np.ndarray, number: int, kind: str, users: pa.StringArray,
    plan: SequencePlan,
) -> _Windows:  # fmt: skip
    """The documents of the histories between `bounds` [histories + 1].

    Args:
        events: in the order the documents tell them.
        bounds: where each history begins.
        header: the number of the header of each history [histories].
        number: of the kind.
        kind: of document.
        users: ids by number.
        plan: sizes and catalogue.
    """
    tokens = plan.items.tokens[events.item]
    starts, ends = greedy_windows(tokens, bounds, plan.window_tokens - plan.items.overhead[header])
    starts, ends = starts[ends - starts >= 2], ends[ends - starts >= 2]
    headers = header[np.searchsorted(bounds, starts, side="right") - 1]
    running = offsets_of(tokens)
    told = ranges(starts, ends)
    if kind in SHUFFLED_TIME:
        told = shuffled_lines(starts, ends, events.user, users, kind, plan.seed)
    return _Windows(
        events.item[told], ends - starts, np.full(len(starts), number), headers, events.user[starts],
        running[ends] - running[starts] + plan.items.overhead[headers], events.timestamp[ends - 1],
    )  # fmt: skip


def _gathered(windows: _Windows, kinds: list[str], users: pa.StringArray, plan: SequencePlan) -> pa.Table:
    """The rows of these documents."""
    items = plan.items
    codes, offsets = pa.array(windows.item), pa.array(offsets_of(windows.lengths).astype(np.int32))
    names = pa.array([*items.domains, None], pa.string())
    columns = {
        "text": _texts(items, windows.item, windows.lengths, windows.header),
        "kind": pa.array(kinds, pa.string()).take(pa.array(windows.kind)),
        "domain": names.take(pa.array(windows.header)),
        "user_id": users.take(pa.array(windows.user)),
        "item_ids": pa.ListArray.from_arrays(offsets, items.item_ids.take(codes)),
        "item_domains": pa.ListArray.from_arrays(offsets, items.names.take(codes)),
        "n_tokens": pa.array(windows.tokens),
        "last_timestamp": pa.array(windows.last) if plan.times_known else pa.nulls(len(windows.last), pa.int64()),
    }
    return pa.table(columns).cast(SEQUENCES)


def _texts(items: CatalogueArrays, item: np.ndarray, lengths: np.ndarray, headers: np.ndarray) -> pa.Array:
    """Header and lines of each document, as one text. Gathered pieces lie one after another: so do the texts.

    Args:
        items: what is gathered.
        item: the items of all documents, one document's after the other's.
        lengths: items of each [documents].
        headers: number of each one's header [documents].
    """
    offsets = offsets_of(lengths + 1)
    pieces = np.empty(int(offsets[-1]), dtype=np.int64)
    opens = np.zeros(len(pieces), dtype=bool)
    opens[offsets[:-1]] = True
    pieces[opens] = len(items.item_ids) + headers
    pieces[~opens] = item
    gathered = items.pieces.take(pa.array(pieces)) if len(pieces) else items.pieces.slice(0, 0)
    _, ends_of, characters = gathered.buffers()
    bounds = np.frombuffer(ends_of, np.int32)[gathered.offset : gathered.offset + len(gathered) + 1][offsets]
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(np.ascontiguousarray(bounds)), characters)
