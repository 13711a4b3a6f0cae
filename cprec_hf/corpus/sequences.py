"""Behaviour as text for continual pre-training: a pure function, Arrow table in, Arrow table out.

`cpt_sequences` needs only the rows of its users, so any engine may run it on any partition of the users: Polars runs it
here, shard by shard (`build.py`); Spark can run the very same function in `groupBy(bucket).applyInArrow`.

A document is the template's header and one line per item. Its windows are counted in tokens: every segment is encoded
alone (`encoder.py`), so a document's length is exactly the sum of its segments' lengths, and greedy windows follow from
cumulative sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.template import DELIMITER, load_template
from cprec_hf.errors import InputError

EVENTS = pa.schema(
    [
        ("user_id", pa.string()), ("domain", pa.string()), ("item_id", pa.string()),
        ("title", pa.string()),  # cleaned and cut
        ("tokens", pa.int32()),  # of title + delimiter
        ("timestamp", pa.int64()),  # order within (user, domain)
        ("clock", pa.int64()),  # order across domains; null where unknown
    ]
)  # fmt: skip
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
    """Of "domain" and "all_domain"."""
    window_tokens: int
    header_tokens: Mapping[str | None, int]
    """Tokens before the first item line, the tokenizer's start ids included: by domain, and None for all domains."""
    times_known: bool
    """Whether timestamps are times; if not, `last_timestamp` is null."""


def cpt_sequences(events: pa.Table, plan: SequencePlan) -> pa.Table:
    """The pre-training documents of these users, sorted by (user_id, kind, domain, order of events).

    `domain` documents: a user's events in one domain by (timestamp, item_id). `all_domain` documents: the events of
    users active in at least two domains, across domains by (clock, domain, item_id); events whose clock is unknown
    take no part. Each history is cut greedily into windows of at most `window_tokens` tokens that neither overlap nor
    split an item; a last window of a single item is left out (nothing can be learnt of what follows what).

    Args:
        events: `EVENTS`; rows in any order, all rows of every user in it.
        plan: sizes and kinds.

    Returns:
        `SEQUENCES`, one row per document.

    Raises:
        InputError: an item line that does not fit beside its header.
    """
    events = events.select(EVENTS.names).cast(EVENTS)
    parts = [_domain_documents(events, plan)] if "domain" in plan.kinds else []
    parts += [_all_domain_documents(events, plan)] if "all_domain" in plan.kinds else []
    return sort_table(pa.concat_tables(parts), "user_id")


def _domain_documents(events: pa.Table, plan: SequencePlan) -> pa.Table:
    events = sort_table(events, "user_id", "domain", "timestamp", "item_id")
    bounds = group_bounds(events, "user_id", "domain")
    domains = events["domain"].take(pa.array(bounds[:-1]))
    return _documents(events, bounds, domains, "domain", plan)


def _all_domain_documents(events: pa.Table, plan: SequencePlan) -> pa.Table:
    events = sort_table(events.filter(pc.is_valid(events["clock"])), "user_id", "clock", "domain", "item_id")
    bounds = group_bounds(events, "user_id")
    domains = events["domain"].combine_chunks().dictionary_encode().indices.to_numpy()
    owner = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    elsewhere = domains != domains[bounds[owner]] if len(domains) else np.zeros(0, dtype=bool)
    mixed = np.bincount(owner[elsewhere], minlength=len(bounds) - 1) > 0
    events = events.filter(pa.array(mixed[owner], type=pa.bool_()))
    bounds = np.concatenate([[0], np.cumsum(np.diff(bounds)[mixed])]).astype(np.int64)
    return _documents(events, bounds, pa.nulls(len(bounds) - 1, pa.string()), "all_domain", plan)


def _documents(
    events: pa.Table, bounds: np.ndarray, domains: pa.Array | pa.ChunkedArray, kind: str, plan: SequencePlan
) -> pa.Table:
    """Documents of the groups of events between `bounds` [groups + 1], whose headers name `domains` [groups]."""
    template = load_template(plan.template_version)
    header_of = domains.dictionary_encode(null_encoding="encode")
    header_of = header_of.combine_chunks() if isinstance(header_of, pa.ChunkedArray) else header_of
    names = header_of.dictionary.to_pylist()
    codes = header_of.indices.to_numpy().astype(np.int64)
    overhead = np.array([plan.header_tokens[name] for name in names], dtype=np.int64)[codes]
    tokens = events["tokens"].to_numpy().astype(np.int64)
    starts, ends = greedy_windows(tokens, bounds, plan.window_tokens - overhead)
    starts, ends = starts[ends - starts >= 2], ends[ends - starts >= 2]
    group = np.searchsorted(bounds, starts, side="right") - 1
    headers = pa.array([template.header(name) for name in names], pa.string()).take(pa.array(codes[group]))
    running = np.concatenate([[0], np.cumsum(tokens)])
    last = events["timestamp"].take(pa.array(ends - 1)) if plan.times_known else pa.nulls(len(ends), pa.int64())
    columns = {
        "text": pc.binary_join_element_wise(headers, lines(events["title"], starts, ends), ""),
        "kind": pa.array(np.full(len(starts), kind, dtype=object), pa.string()),
        "domain": domains.take(pa.array(group)),
        "user_id": events["user_id"].take(pa.array(starts)),
        "item_ids": slices(events["item_id"], starts, ends),
        "item_domains": slices(events["domain"], starts, ends),
        "n_tokens": pa.array(running[ends] - running[starts] + overhead[group]),
        "last_timestamp": last,
    }
    return pa.table(columns).cast(SEQUENCES)


def greedy_windows(
    tokens: np.ndarray, bounds: np.ndarray, budgets: np.ndarray, max_items: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each group of consecutive items into the fewest windows that keep order and fit a budget of tokens.

    A window's end decides where the next begins, so the loop runs over window numbers: all groups take their next
    window at once, by one search in the cumulative sums.

    Args:
        tokens: of each item [items].
        bounds: group g holds the items bounds[g] to bounds[g + 1] - 1 [groups + 1].
        budgets: most tokens in a window of each group [groups].
        max_items: most items in a window.

    Returns:
        starts and ends (exclusive) of the windows in item order, each [windows]; together they cover every item once.

    Raises:
        InputError: an item of more tokens than its group's budget.
    """
    running = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])
    filled = np.diff(bounds) > 0
    at, stop, budget = bounds[:-1][filled], bounds[1:][filled], np.asarray(budgets)[filled]
    starts, ends = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    while len(at):
        end = np.minimum(np.searchsorted(running, running[at] + budget, side="right") - 1, stop)
        end = end if max_items is None else np.minimum(end, at + max_items)
        if (end <= at).any():
            worst = int(np.argmin(end - at))
            raise InputError(
                f"an item line of {int(tokens[at[worst]])} tokens does not fit a window with room for "
                f"{int(budget[worst])} beside its header; raise `window_tokens` or lower `max_title_tokens`"
            )
        starts.append(at)
        ends.append(end)
        more = end < stop
        at, stop, budget = end[more], stop[more], budget[more]
    order = np.argsort(np.concatenate(starts))
    return np.concatenate(starts)[order], np.concatenate(ends)[order]


def sort_table(table: pa.Table, *keys: str) -> pa.Table:
    """The table sorted ascending by these columns, ties in their order, one chunk per column."""
    order = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])  # a stable sort
    return table.take(order).combine_chunks()


def group_bounds(table: pa.Table, *keys: str) -> np.ndarray:
    """Where runs of equal `keys` begin in a sorted table, and its length. Shape: [groups + 1] int64."""
    n = table.num_rows
    new = np.zeros(max(n - 1, 0), dtype=bool)
    for key in keys:
        column = table[key].combine_chunks()
        if n > 1:
            new |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    first = np.flatnonzero(np.concatenate([[n > 0], new]))
    return np.concatenate([first, [n]]).astype(np.int64)


def slices(values: pa.ChunkedArray, starts: np.ndarray, ends: np.ndarray) -> pa.ListArray:
    """List r holds values[starts[r] : ends[r]]. Slices may overlap."""
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    taken = values.take(pa.array(indices))
    taken = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), taken)


def lines(titles: pa.ChunkedArray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """The item lines of titles[starts[r] : ends[r]] as one text per row; no row may be empty."""
    return pc.binary_join_element_wise(pc.binary_join(slices(titles, starts, ends), DELIMITER), "", DELIMITER)
