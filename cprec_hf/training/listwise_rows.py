"""Rows of list-wise training: each history once, with places at which its next item is compared with others.

A row of the corpus is a trunk: its header and all its items, the target the last. With `train_targets: window` rows do
not overlap; of a corpus with `every`, which has a row for each event, those are taken that lie end to end, so that each
event is still a target once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.training.listwise_negatives import stream_keys

COLUMNS = ["user_id", "history", "target"]
POSITIONS = ("every", "last")


@dataclass(frozen=True, eq=False)
class Trunks:
    """Histories of one domain with the places of their targets.

    Attributes:
        ids: the tokens of each trunk.
        lists: which lists are each trunk's: lists.row(i) are their numbers.
        begin: tokens of the trunk before a list's target, int64 [n_lists].
        place: how many items of the trunk come before it, int64 [n_lists].
        target: its title, a row of `catalogue.codes`, int64 [n_lists].
        titles: the titles of each trunk's items.
        seen: the titles that each trunk's user took in training rows.
        keys: of each trunk's streams, uint64 [n_trunks].
        skipped: how many rows of the corpus were left out, by reason.
    """

    ids: Ragged
    lists: Ragged
    begin: np.ndarray
    place: np.ndarray
    target: np.ndarray
    titles: Ragged
    seen: Ragged
    keys: np.ndarray
    skipped: dict[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def largest_tree(self, branches: int) -> int:
        """Most tokens that a trunk and its lists' branches can have, each list's together of `branches` tokens."""
        return int((self.ids.lengths + self.lists.lengths * branches).max(initial=0))


def trunks_of(
    rows: pa.Table, catalogue: Catalogue, key: str, *, length: int, positions: str, min_history: int, negatives: int,
    every: bool = False,
) -> Trunks:  # fmt: skip
    """The trunks of a split's rows.

    Args:
        rows: `COLUMNS`, all rows of every user in it, each user's in time.
        catalogue: of their domain.
        key: of the draws, see `stream_keys`.
        length: most tokens of a history with one title after it; what does not fit gives way, the oldest items first.
        positions: "every", or "last" for each row's target alone.
        min_history: items of the trunk that a list's target has before it, at least.
        negatives: how many a list will be given: users whose histories leave fewer titles are skipped.
        every: whether the rows overlap, one for each event.

    Raises:
        InputError: an option out of range, a title that does not fit, or nothing to train on.
    """
    if positions not in POSITIONS:
        raise InputError(f"`positions` is {positions!r}; choose one of {', '.join(POSITIONS)}")
    if min_history < 0:
        raise InputError(f"`min_history` is {min_history}; give 0 or more")
    histories = catalogue.rows(rows["history"].to_pylist(), "histories")
    targets = catalogue.rows([rows["target"].to_pylist()], "targets").values
    items = histories.join(Ragged(targets, np.arange(len(targets) + 1)))
    user = rows["user_id"].combine_chunks().dictionary_encode()
    user_of = np.asarray(user.indices, dtype=np.int64)
    seen = _taken(user_of, Ragged(catalogue.code_of[items.values].astype(np.int32), items.offsets))
    index = _place_of(user_of)

    openings = catalogue.openings(len(items), None)
    longest = catalogue.codes.lengths.argmax()
    catalogue.check_fits(openings[:1], np.array([[longest]]), length)
    last = catalogue.codes.lengths[catalogue.code_of[targets]]
    room = length - catalogue.codes.lengths[longest] + last  # the longest title must fit in place of the last
    most = int(items.lengths.max(initial=0))
    titles = catalogue.trimmed(openings, items, most, room)

    kept = _end_to_end(user_of, index, items.lengths) if every else np.ones(len(items), dtype=bool)
    free = (len(catalogue.codes) - seen.lengths >= negatives)[user_of]
    long_enough = titles.lengths > min_history
    skipped = {
        f"histories of {min_history} items or fewer": int((kept & ~long_enough).sum()),
        f"users who leave fewer than {negatives} titles": int((kept & long_enough & ~free).sum()),
    }
    if not (chosen := np.flatnonzero(kept & long_enough & free)).size:
        why = "; ".join(f"{n} {what}" for what, n in skipped.items() if n)
        raise InputError(f"no rows of {catalogue.domain!r} to train on{': ' + why if why else ''}")
    user_of, index, titles = user_of[chosen], index[chosen], titles.take(chosen)
    ids = catalogue.prompts(openings[chosen], items.take(chosen), most, room[chosen])

    n_items, sizes = titles.lengths, catalogue.codes.lengths[titles.values]
    ends = offsets_of(sizes)
    header = catalogue.opening_tokens(openings[chosen])
    trunk = np.repeat(np.arange(len(ids)), n_items)
    begin = header[trunk] + ends[:-1] - ends[titles.offsets[:-1]][trunk]
    place = ranges(np.zeros(len(ids), dtype=np.int64), n_items)
    wanted = place >= min_history if positions == "every" else place == n_items[trunk] - 1
    n_lists = np.bincount(trunk[wanted], minlength=len(ids))
    return Trunks(
        ids, Ragged(np.arange(int(n_lists.sum()), dtype=np.int32), offsets_of(n_lists)), begin[wanted], place[wanted],
        titles.values[wanted].astype(np.int64), titles, seen.take(user_of),
        stream_keys(key, user.dictionary.take(pa.array(user_of)), index), skipped,
    )  # fmt: skip


def item_events(rows: pa.Table, catalogue: Catalogue, *, every: bool) -> np.ndarray:
    """Training events of each item as the rows show them, int64 [n_items]; of overlapping rows, the targets' alone."""
    targets = pc.index_in(rows["target"].combine_chunks().cast(pa.large_string()), value_set=catalogue.ids)
    found = [np.asarray(targets.drop_null())]
    if not every:
        flat = pc.list_flatten(rows["history"].combine_chunks()).cast(pa.large_string())
        found.append(np.asarray(pc.index_in(flat, value_set=catalogue.ids).drop_null()))
    return np.bincount(np.concatenate(found), minlength=len(catalogue))


def refuse_empty_titles(items: pa.Table, domain: str) -> None:
    """Raise `InputError` for an item of a domain that has no title, of columns item_id, domain, title."""
    title = pc.fill_null(pc.utf8_trim_whitespace(items["title"]), "")
    blank = items.filter(pc.and_(pc.equal(items["domain"], domain), pc.equal(title, "")))
    if blank.num_rows:
        raise InputError(
            f"item {blank['item_id'][0].as_py()!r} of {domain!r} has no title after the cut (of {blank.num_rows} such "
            "items the first), so no text tells it from others; give it one, or leave it out of the corpus"
        )


def _taken(user_of: np.ndarray, titles: Ragged) -> Ragged:
    """The titles in each user's rows, each once, a row a user."""
    pairs = np.unique(np.repeat(user_of, titles.lengths) << 32 | titles.values)
    return Ragged((pairs & 0xFFFFFFFF).astype(np.int32), offsets_of(np.bincount(pairs >> 32)))


def _place_of(user_of: np.ndarray) -> np.ndarray:
    """The place of each row among its user's, int64 [n_rows]."""
    order, counts = np.argsort(user_of, kind="stable"), np.bincount(user_of)
    place = np.empty(len(user_of), dtype=np.int64)
    place[order] = ranges(np.zeros(len(counts), dtype=np.int64), counts)
    return place


def _end_to_end(user_of: np.ndarray, index: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which rows, one for each event from a user's second on, lie end to end, the user's last among them; bool [n]."""
    order = np.argsort(user_of, kind="stable")
    kept, first = np.zeros(len(user_of), dtype=bool), offsets_of(np.bincount(user_of))
    at = np.bincount(user_of) - 1  # a place among each user's rows, whose row covers `sizes` events up to its target
    users = np.arange(len(at))
    while len(users):
        rows = order[first[users] + at]
        kept[rows] = True
        at = at - sizes[rows]
        users, at = users[at >= 0], at[at >= 0]
    return kept
