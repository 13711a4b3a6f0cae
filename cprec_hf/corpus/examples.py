"""Fine-tuning and evaluation rows of one downstream domain: a pure function, Arrow table in, Arrow table out.

Like `cpt_sequences` it needs only the rows of its users (and the domain's catalogue, which is the same for all shards),
so any partition of the users gives the same rows. A row's prompt + completion reads as a document of the corpus and
takes at most `window_tokens` tokens: the oldest items of the history give way first, the target never does. Where a row
has candidates, there is room for the longest of them, so that a prompt's length says nothing of the target, and whoever
ranks the candidates trims the history alike (`ranking.catalogue`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import draw_candidates, row_keys
from cprec_hf.corpus.ragged import Ragged, offsets_of
from cprec_hf.corpus.template import DELIMITER, load_template
from cprec_hf.corpus.windows import greedy_windows, group_bounds, lines, slices, sort_table
from cprec_hf.errors import InputError

EVENTS = pa.schema(
    [
        ("user_id", pa.string()), ("item", pa.int32()),  # row of the catalogue
        ("timestamp", pa.int64()), ("split", pa.string()),  # train, validation, test, or null: only in histories
    ]
)  # fmt: skip
CATALOGUE = pa.schema([("item_id", pa.string()), ("title", pa.string()), ("tokens", pa.int32())])
EXAMPLES = pa.schema(
    [
        ("prompt", pa.string()), ("completion", pa.string()), ("user_id", pa.string()),
        ("history", pa.list_(pa.string())), ("target", pa.string()), ("candidates", pa.list_(pa.string())),
        ("timestamp", pa.int64()),
    ]
)  # fmt: skip
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
    candidates: int
    candidate_list_in_prompt: bool


def sft_examples(events: pa.Table, plan: ExamplePlan) -> dict[str, pa.Table]:
    """The rows of these users in each split, sorted by user and time.

    Validation and test: one row per event marked so; its history is the last `history_length` items before it. Train:
    one row per training event from the user's second on (`every`), or rows that do not overlap and hold each training
    event once, the last item of each being its target (`window`; a row of one item is left out). Candidates are drawn
    outside everything the user did before the target; train rows have them only if the prompt shows them.

    Args:
        events: `EVENTS`; rows in any order, all rows of every user in it.
        plan: catalogue and sizes.

    Returns:
        `EXAMPLES` by split, splits without rows included.

    Raises:
        InputError: a user's history leaves too few items to draw candidates from.
    """
    events = sort_table(events.select(EVENTS.names).cast(EVENTS), "user_id", "timestamp", "item")
    bounds = group_bounds(events, "user_id")
    group_start = np.repeat(bounds[:-1], np.diff(bounds))
    split = events["split"].combine_chunks()
    rows = {name: np.flatnonzero(pc.fill_null(pc.equal(split, name), False)) for name in SPLITS}
    tables = {}
    for name, targets in rows.items():
        if name == "train" and plan.train_targets == "window":
            starts, targets = _training_windows(events, targets, plan)
        else:
            targets = targets[targets > group_start[targets]]
            starts = np.maximum(group_start[targets], targets - plan.history_length)
        tables[name] = _rows(events, name, starts, targets, group_start[targets], plan)
    return tables


def _training_windows(events: pa.Table, trained: np.ndarray, plan: ExamplePlan) -> tuple[np.ndarray, np.ndarray]:
    """First item and target of each window over the training events, which come first in every user's history."""
    users = events.select(["user_id"]).take(pa.array(trained))
    tokens = plan.catalogue["tokens"].to_numpy()[events["item"].to_numpy()[trained]]
    bounds = group_bounds(users, "user_id")
    widest = int(plan.catalogue["tokens"].to_numpy().max(initial=0))
    block = plan.block_tokens + plan.candidates * widest if plan.candidate_list_in_prompt else 0
    budgets = np.full(len(bounds) - 1, plan.window_tokens - plan.header_tokens - block)
    starts, ends = greedy_windows(tokens, bounds, budgets, max_items=plan.history_length + 1)
    keep = ends - starts >= 2
    return trained[starts[keep]], trained[ends[keep] - 1]


def _rows(
    events: pa.Table, split: str, starts: np.ndarray, targets: np.ndarray, begin: np.ndarray, plan: ExamplePlan
) -> pa.Table:
    """Rows of histories events[starts : targets], cut from the left to fit; all a user did begins at `begin`."""
    template, catalogue = load_template(plan.template_version), plan.catalogue
    items = events["item"].to_numpy().astype(np.int64)
    lengths = catalogue["tokens"].to_numpy().astype(np.int64)
    users = events["user_id"].take(pa.array(targets))
    room = np.full(len(targets), plan.window_tokens - plan.header_tokens)
    longest = lengths[items[targets]]  # line that may follow the prompt
    prompts = pa.array(np.full(len(targets), template.header(plan.domain), dtype=object), pa.string())
    candidates = pa.array([[]], pa.list_(pa.string())).take(pa.array(np.zeros(len(targets), dtype=np.int64)))
    if split != "train" or plan.candidate_list_in_prompt:
        drawn = _draw(items, begin, targets, split, users, plan)
        longest = lengths[drawn].max(axis=1)
        flat, edges = pa.array(drawn.ravel()), np.arange(len(targets)) * plan.candidates
        candidates = slices(catalogue["item_id"].take(flat), edges, edges + plan.candidates)
        if plan.candidate_list_in_prompt:
            room = room - plan.block_tokens - lengths[drawn].sum(axis=1)
            block = lines(catalogue["title"].take(flat), edges, edges + plan.candidates)
            prompts = pc.binary_join_element_wise(template.block([]), block, prompts, "")
    running = np.concatenate([[0], np.cumsum(lengths[items])])
    starts = np.maximum(starts, np.searchsorted(running, running[targets] - (room - longest), side="left"))
    titles, ids = catalogue["title"].take(events["item"]), catalogue["item_id"].take(events["item"])
    columns = {
        "prompt": pc.binary_join_element_wise(prompts, lines(titles, starts, targets), ""),
        "completion": pc.binary_join_element_wise(titles.take(pa.array(targets)), "", DELIMITER),
        "user_id": users,
        "history": slices(ids, starts, targets),
        "target": ids.take(pa.array(targets)),
        "candidates": candidates,
        "timestamp": events["timestamp"].take(pa.array(targets)),
    }
    return pa.table(columns).cast(EXAMPLES)


def _draw(
    items: np.ndarray, begin: np.ndarray, targets: np.ndarray, split: str, users: pa.ChunkedArray, plan: ExamplePlan
) -> np.ndarray:
    """Candidates as rows of the catalogue, int64 [rows, candidates]: outside all that the user did before."""
    past = targets - begin
    offsets = offsets_of(past)
    earlier = items[np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], past)]
    titles = plan.catalogue["title"].combine_chunks().dictionary_encode().indices.to_numpy()
    try:
        return draw_candidates(
            plan.catalogue.num_rows, Ragged(earlier.astype(np.int32), offsets), items[targets],
            row_keys(plan.dataset, split, users.combine_chunks(), past), plan.candidates, groups=titles,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"domain {plan.domain!r}, {split}, {error}") from None
