"""Fine-tuning and evaluation rows of one downstream domain: a pure function, Arrow table in, Arrow table out.

Like `cpt_sequences` it needs only the rows of its users (and the domain's catalogue, which is the same for all shards),
so any partition of the users gives the same rows. A row's prompt + completion reads as a document of the corpus and
takes at most `window_tokens` tokens: the oldest items of the history give way first, the target never does. Where a row
has candidates, there is room for the longest of them, so that a prompt's length says nothing of the target, and whoever
ranks the candidates trims the history alike (`ranking.catalogue`). Where held-out rows have none, there is room for the
longest title of the catalogue, which is then what is ranked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import draw_candidates, draw_from_pool, row_keys
from cprec_hf.corpus.few_shot import few_rows, split_name, user_keys, user_ranks
from cprec_hf.corpus.pools import Pool, category_pool, filled_column, popularity_pool, set_columns
from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.corpus.template import DELIMITER, load_template
from cprec_hf.corpus.windows import greedy_windows, group_bounds, lines, slices, sort_table
from cprec_hf.errors import InputError

EVENTS = pa.schema(
    [
        ("user_id", pa.string()), ("item", pa.int32()),  # row of the catalogue
        ("timestamp", pa.int64()), ("split", pa.string()),  # train, validation, test, or null: only in histories
        ("cpt_events", pa.int32()),  # of the user, in all domains, that pre-training may read
    ]
)  # fmt: skip
CATALOGUE = pa.schema(
    [
        ("item_id", pa.string()), ("title", pa.string()), ("tokens", pa.int32()),
        ("train_events", pa.int64()),  # of all users in split train
        ("category", pa.string()),  # null where unknown, or where no set of candidates asks
    ]
)  # fmt: skip
EXAMPLES = pa.schema(
    [
        ("prompt", pa.string()), ("completion", pa.string()), ("user_id", pa.string()),
        ("history", pa.list_(pa.string())), ("target", pa.string()), ("candidates", pa.list_(pa.string())),
        ("timestamp", pa.int64()), ("user_rank", pa.float64()), ("user_events", pa.int32()),
        ("cpt_events", pa.int32()), ("target_events", pa.int64()), ("cold_user", pa.bool_()), ("cold_item", pa.bool_()),
    ]
)  # fmt: skip
"""What every row has; more sets of candidates follow behind, see `ExamplePlan.schema`."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ExamplePlan:
    """What `sft_examples` must know besides the events. Sizes as in `CorpusConfig`."""

    template_version: str
    dataset: str
    """Key of the candidate draws: corpus, seed and domain."""
    domain: str
    catalogue: pa.Table
    """`CATALOGUE`, sorted by item_id; tokens are those of title + delimiter."""
    window_tokens: int
    header_tokens: int
    """Tokens before the first item line, the tokenizer's start ids included, without the block of candidates."""
    block_tokens: int
    """Tokens of the line that opens the block of candidates."""
    history_length: int
    train_targets: str
    candidates: int | None
    candidate_list_in_prompt: bool
    training_users: np.ndarray
    """`few_shot.user_keys` of the domain's users with two training events or more, who are those with training rows;
    uint64, sorted."""
    negatives: tuple[str, ...] = ("uniform",)
    """Policies of the sets of candidates, see `pools`."""
    few_shot: tuple[float, ...] = ()
    """Shares of the training users whose rows are splits of their own."""

    @property
    def sets(self) -> dict[str, str]:
        """The column of each set of candidates, by its policy."""
        return set_columns(self.negatives) if self.candidates else {}

    @property
    def schema(self) -> pa.Schema:
        """Of the rows: `EXAMPLES`, then the other sets of candidates, and how many of their negatives were filled."""
        schema = EXAMPLES
        for policy, column in self.sets.items():
            if column not in schema.names:
                schema = schema.append(pa.field(column, pa.list_(pa.string())))
            if policy != "uniform":
                schema = schema.append(pa.field(filled_column(column), pa.int32()))
        return schema

    @cached_property
    def titles(self) -> np.ndarray:
        """The number of each item's title, int32 [items]."""
        return self.catalogue["title"].combine_chunks().dictionary_encode().indices.to_numpy()

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """What the policies other than uniform draw from."""
        made = {}
        if "popularity" in self.sets:
            made["popularity"] = popularity_pool(self.catalogue["train_events"].to_numpy())
        if "category" in self.sets:
            codes = self.catalogue["category"].combine_chunks().dictionary_encode().indices
            made["category"] = category_pool(pc.fill_null(codes, -1).to_numpy())
        return made


def sft_examples(events: pa.Table, plan: ExamplePlan) -> dict[str, pa.Table]:
    """The rows of these users in each split, sorted by user and time.

    Validation and test: one row per event marked so; its history is the last `history_length` items before it. Train:
    one row per training event from the user's second on (`every`), or rows that do not overlap and hold each training
    event once, the last item of each being its target (`window`; a row of one item is left out). Candidates are drawn
    outside everything the user did before the target; train rows have those that the prompt shows, and no others.

    `user_events` counts the user's training events in the domain, `target_events` those of the target, of all users.
    A user without training events in the domain or any event for pre-training is a `cold_user`; a target without
    training events a `cold_item`.

    Args:
        events: `EVENTS`; rows in any order, all rows of every user in it.
        plan: catalogue and sizes.

    Returns:
        Rows of `plan.schema` by split, splits without rows included: train, validation, test, and the few-shot subsets
        of train (`few_shot.split_name`).

    Raises:
        InputError: a user's history leaves too few items to draw candidates from.
    """
    events = sort_table(events.select(EVENTS.names).cast(EVENTS), "user_id", "timestamp", "item")
    bounds = group_bounds(events, "user_id")
    group_start = np.repeat(bounds[:-1], np.diff(bounds))
    split = events["split"].combine_chunks()
    rows = {name: np.flatnonzero(pc.fill_null(pc.equal(split, name), False)) for name in SPLITS}
    before = offsets_of(pc.fill_null(pc.equal(split, "train"), False).to_numpy(zero_copy_only=False))
    of_event = np.repeat(np.diff(before[bounds]), np.diff(bounds))  # training events of the event's user
    tables = {}
    for name, targets in rows.items():
        if name == "train" and plan.train_targets == "window":
            starts, targets = _training_windows(events, targets, plan)
        else:
            targets = targets[targets > group_start[targets]]
            starts = np.maximum(group_start[targets], targets - plan.history_length)
        tables[name] = _rows(events, name, starts, targets, group_start[targets], of_event[targets], plan)
    return tables | {split_name(share): few_rows(tables["train"], share) for share in plan.few_shot}


def _training_windows(events: pa.Table, trained: np.ndarray, plan: ExamplePlan) -> tuple[np.ndarray, np.ndarray]:
    """First item and target of each window over the training events, which come first in every user's history."""
    users = events.select(["user_id"]).take(pa.array(trained))
    tokens = plan.catalogue["tokens"].to_numpy()[events["item"].to_numpy()[trained]]
    bounds = group_bounds(users, "user_id")
    widest = int(plan.catalogue["tokens"].to_numpy().max(initial=0))
    block = plan.block_tokens + (plan.candidates or 0) * widest if plan.candidate_list_in_prompt else 0
    budgets = np.full(len(bounds) - 1, plan.window_tokens - plan.header_tokens - block)
    starts, ends = greedy_windows(tokens, bounds, budgets, max_items=plan.history_length + 1)
    keep = ends - starts >= 2
    return trained[starts[keep]], trained[ends[keep] - 1]


def _rows(
    events: pa.Table, split: str, starts: np.ndarray, targets: np.ndarray, begin: np.ndarray, trained: np.ndarray,
    plan: ExamplePlan,
) -> pa.Table:  # fmt: skip
    """Rows of histories events[starts : targets], cut from the left to fit; all a user did begins at `begin`.

    `trained`: the training events of each row's user.
    """
    template, catalogue = load_template(plan.template_version), plan.catalogue
    items = events["item"].to_numpy().astype(np.int64)
    lengths = catalogue["tokens"].to_numpy().astype(np.int64)
    users = events["user_id"].take(pa.array(targets))
    room = np.full(len(targets), plan.window_tokens - plan.header_tokens)
    prompts = pa.array(np.full(len(targets), template.header(plan.domain), dtype=object), pa.string())
    sets: dict[str, pa.Array] = {}
    longest = lengths[items[targets]] if split == "train" else np.full(len(targets), lengths.max(initial=0))
    for policy, column in plan.sets.items():
        if split == "train" and not (plan.candidate_list_in_prompt and column == "candidates"):
            continue
        drawn, filled = _draw(items, begin, targets, split, users, policy, plan)
        flat, edges = pa.array(drawn.ravel()), np.arange(len(targets)) * drawn.shape[1]
        sets[column] = slices(catalogue["item_id"].take(flat), edges, edges + drawn.shape[1])
        sets[filled_column(column)] = pa.array(filled)
        if column != "candidates":
            continue
        longest = lengths[drawn].max(axis=1)  # line that may follow the prompt
        if plan.candidate_list_in_prompt:
            room = room - plan.block_tokens - lengths[drawn].sum(axis=1)
            block = lines(catalogue["title"].take(flat), edges, edges + drawn.shape[1])
            prompts = pc.binary_join_element_wise(template.block([]), block, prompts, "")
    running = np.concatenate([[0], np.cumsum(lengths[items])])
    starts = np.maximum(starts, np.searchsorted(running, running[targets] - (room - longest), side="left"))
    titles, ids = catalogue["title"].take(events["item"]), catalogue["item_id"].take(events["item"])
    cpt = events["cpt_events"].to_numpy()[targets]
    of_target = catalogue["train_events"].to_numpy()[items[targets]]
    columns = {
        "prompt": pc.binary_join_element_wise(prompts, lines(titles, starts, targets), ""),
        "completion": pc.binary_join_element_wise(titles.take(pa.array(targets)), "", DELIMITER),
        "user_id": users,
        "history": slices(ids, starts, targets),
        "target": ids.take(pa.array(targets)),
        "timestamp": events["timestamp"].take(pa.array(targets)),
        "user_rank": user_ranks(plan.training_users, user_keys(plan.dataset, users.combine_chunks())),
        "user_events": trained,
        "cpt_events": cpt,
        "target_events": of_target,
        "cold_user": (trained == 0) & (cpt == 0),
        "cold_item": of_target == 0,
    }
    no_set = pa.array([[]], pa.list_(pa.string())).take(pa.array(np.zeros(len(targets), dtype=np.int64)))
    for field in plan.schema:
        if field.name not in columns:  # a set of candidates, or how many of its negatives were filled up
            none = no_set if pa.types.is_list(field.type) else np.zeros(len(targets), dtype=np.int32)
            columns[field.name] = sets.get(field.name, none)
    return pa.table({name: columns[name] for name in plan.schema.names}).cast(plan.schema)


def _draw(
    items: np.ndarray, begin: np.ndarray, targets: np.ndarray, split: str, users: pa.ChunkedArray, policy: str,
    plan: ExamplePlan,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Candidates as rows of the catalogue [rows, candidates], outside all the user did before; negatives filled up."""
    assert plan.candidates is not None
    past = targets - begin
    offsets = offsets_of(past)
    earlier = items[np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], past)]
    history = Ragged(earlier.astype(np.int32), offsets)
    keys = row_keys(plan.dataset, split, users.combine_chunks(), past, policy)
    try:
        if policy == "uniform":
            size = plan.catalogue.num_rows
            drawn = draw_candidates(size, history, items[targets], keys, plan.candidates, groups=plan.titles)
            return drawn, np.zeros(len(targets), dtype=np.int32)
        return draw_from_pool(plan.pools[policy], history, items[targets], keys, plan.candidates, plan.titles)
    except InputError as error:
        raise InputError(f"domain {plan.domain!r}, {split}, {error}") from None
