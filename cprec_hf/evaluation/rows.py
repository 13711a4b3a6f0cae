"""The rows of a corpus' fine-tuning config as arrays of item codes: what baselines and metrics work on.

Items of the domain are numbered 0 .. items-1 in the order of the corpus' `items` config; everything is columnar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError
from cprec_hf.metrics.ranking_at_k.ranking_at_k import ranking_at_k

METRICS = ("hr", "ndcg", "mrr", "recall")
"""Of `ranking_at_k`; with one target a row, its precision is hr / k and its map is mrr."""
_CELLS = 1 << 24  # scores held at once: 128 MB


@dataclass(frozen=True)
class Catalogue:
    """The items of one domain: ids and titles, both string arrays [items]."""

    item_ids: pa.Array
    titles: pa.Array

    @classmethod
    def from_items(cls, items: pa.Table, domain: str) -> Catalogue:
        """The domain's rows of the corpus' `items` config (columns item_id, domain, title)."""
        mine = items.filter(pc.equal(items["domain"], domain))
        return cls(_flat(mine["item_id"]), _flat(mine["title"]))

    def __len__(self) -> int:
        return len(self.item_ids)

    def codes(self, item_ids: pa.Array, where: str) -> np.ndarray:
        """Item numbers int64 of item ids; raises `InputError` for an id that is not of this catalogue."""
        codes = pc.index_in(_flat(item_ids), value_set=self.item_ids)
        if codes.null_count:
            row = int(np.argmax(codes.is_null().to_numpy(zero_copy_only=False)))
            raise InputError(f"{where}: item {item_ids[row].as_py()!r} is not in the corpus' items; build it again")
        return codes.to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Rows:
    """Evaluation rows: numbers of items, and the columns models and oracles take as they stand in the corpus."""

    table: pa.Table
    """The rows themselves: user_id, history, target, candidates, timestamp and whatever else the corpus has."""
    histories: Ragged
    """Item codes, oldest first [rows][any]."""
    targets: np.ndarray
    """Item codes int64 [rows]."""
    candidates: np.ndarray
    """Item codes int64 [rows, candidates]; of a whole catalogue, the same in every row."""
    users: np.ndarray
    """Number of each row's user int64 [rows], counted in order of first appearance."""
    user_ids: list[str]
    """The users' ids [users]."""
    candidate_ids: list[list[str]]
    """The candidates' item ids [rows][candidates]."""
    whole: bool
    """Whether each row ranks the whole catalogue."""
    split: str = ""
    """The split they are of, where that matters: scores are kept by split and place."""
    first: int = 0
    """Which row of the split the first one is."""

    @classmethod
    def from_table(
        cls, table: pa.Table, catalogue: Catalogue, where: str, column: str | None = "candidates", split: str = ""
    ) -> Rows:
        """Read rows of an `sft-<domain>` split.

        Args:
            table: columns user_id, history, target, and the one with the candidates.
            catalogue: the domain's items.
            where: names the corpus and split in error messages.
            column: with the candidates; None for the whole catalogue.
            split: see `Rows.split`.

        Raises:
            InputError: no rows, an item without a catalogue entry, rows with different numbers of candidates, or a
                target that is not exactly once among its candidates.
        """
        if not len(table):
            raise InputError(f"{where} has no rows; nothing can be evaluated on it")
        n, targets = len(table), catalogue.codes(table["target"].combine_chunks(), where)
        if column is None:
            candidates = np.broadcast_to(np.arange(len(catalogue)), (n, len(catalogue)))
            candidate_ids = [catalogue.item_ids.to_pylist()] * n
        else:
            offered = table[column].combine_chunks()
            counts = pc.list_value_length(offered).fill_null(0).to_numpy()
            if counts.min() != counts.max() or counts.min() < 2:
                raise InputError(
                    f"{where}: rows have {counts.min()} to {counts.max()} candidates; all need the same number"
                )
            candidates = catalogue.codes(_flat(offered.flatten()), where).reshape(n, -1)
            candidate_ids = offered.to_pylist()
        once = (candidates == targets[:, None]).sum(axis=1) == 1
        if not once.all():
            row = int(np.argmin(once))
            raise InputError(f"{where}, row {row}: the target must be among the candidates exactly once")
        users = table["user_id"].combine_chunks().dictionary_encode()
        return cls(
            table=table,
            histories=_codes_of_lists(table["history"], catalogue, where),
            targets=targets,
            candidates=candidates,
            users=users.indices.to_numpy().astype(np.int64),
            user_ids=users.dictionary.to_pylist(),
            candidate_ids=candidate_ids,
            whole=column is None,
            split=split,
        )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def relevance(self) -> np.ndarray:
        """1.0 for the target, 0.0 for the others. Shape: [rows, candidates]."""
        return (self.candidates == self.targets[:, None]).astype(np.float64)

    @property
    def target_places(self) -> np.ndarray:
        """Where among its candidates each row's target stands, int64 [rows]."""
        return (self.candidates == self.targets[:, None]).argmax(axis=1)

    @property
    def user_weights(self) -> np.ndarray:
        """How much each row counts where every user counts once: 1 / the rows of its user [rows]."""
        return 1.0 / np.bincount(self.users)[self.users]

    def candidate_lines(self, catalogue: Catalogue) -> memoryview:
        """The candidates' item ids, row by row, each with a line break after it: what a hash of them is taken of.

        Of a whole catalogue, which is the same for every row, one row.
        """
        codes = self.candidates[:1] if self.whole else self.candidates
        ids = catalogue.item_ids.cast(pa.large_string()).take(pa.array(codes.ravel()))
        lines = pc.binary_join_element_wise(ids, pa.scalar("", pa.large_string()), pa.scalar("\n", pa.large_string()))
        ends = np.frombuffer(lines.buffers()[1], np.int64)
        return memoryview(lines.buffers()[2])[ends[lines.offset] : ends[lines.offset + len(lines)]]

    @property
    def ranked(self) -> np.ndarray:
        """Which candidates are ranked, bool [rows, candidates]: of a whole catalogue not those of the history."""
        ranked = np.ones(self.candidates.shape, dtype=bool)
        if self.whole:
            ranked[np.repeat(np.arange(len(self)), self.histories.lengths), self.histories.values] = False
        return ranked

    def blocks(self) -> Iterator[Rows]:
        """The rows in portions of so many scores as are held at once. Users keep their numbers."""
        size = max(1, _CELLS // self.candidates.shape[1])
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            part = slice(start, start + size)
            yield replace(
                self,
                table=self.table.slice(start, size),
                histories=self.histories.take(rows),
                targets=self.targets[part],
                candidates=self.candidates[part],
                users=self.users[part],
                candidate_ids=self.candidate_ids[part],
                first=self.first + start,
            )

    def scored(self, score: Score) -> Iterator[tuple[Rows, np.ndarray]]:
        """The rows block by block, with their scores float64 [rows, candidates].

        Of a whole catalogue, what stands in the history comes last: it has minus infinity, whatever its score.
        """
        for rows in self.blocks():
            scores = np.asarray(score(rows), dtype=np.float64)
            yield rows, np.where(rows.ranked, scores, -np.inf) if rows.whole else scores

    def metrics(self, score: Score, ks: Sequence[int]) -> dict[str, np.ndarray]:
        """`ranking_at_k`'s values [rows] by name.

        Args:
            score: rows -> scores [rows, candidates], called as `scored` says.
            ks: cut-offs.
        """
        found = [ranking_at_k(scores, rows.relevance, ks, METRICS) for rows, scores in self.scored(score)]
        return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

    def history_matrix(self, n_items: int, last: int) -> sparse.csr_array:
        """1.0 for each distinct item among the last `last` of a row's history. Shape: [rows, items]."""
        ends = np.repeat(self.histories.offsets[1:], self.histories.lengths)
        recent = ends - np.arange(len(self.histories.values)) <= last
        row = np.repeat(np.arange(len(self)), self.histories.lengths)[recent]
        return _ones(row, self.histories.values[recent], (len(self), n_items))

    def per_user(self, per_row: np.ndarray) -> np.ndarray:
        """Means over each user's rows. Shapes: [rows] -> [users]."""
        return np.bincount(self.users, weights=per_row) / np.bincount(self.users)


Score = Callable[[Rows], np.ndarray]
"""Rows to their scores [rows, candidates], higher is better."""


def training_interactions(train: pa.Table, catalogue: Catalogue, where: str) -> sparse.csr_array:
    """What users did before the cut, from the training rows: distinct (user, item) pairs of histories and targets.

    Rows may overlap (`train_targets: every`) or not (`window`); a pair counts once either way.

    Args:
        train: columns user_id, history, target.
        catalogue: the domain's items.
        where: names the corpus and split in error messages.

    Returns:
        1.0 for each pair. Shape: [training users, items].
    """
    users = train["user_id"].combine_chunks().dictionary_encode()
    codes = users.indices.to_numpy()
    histories = _codes_of_lists(train["history"], catalogue, where)
    targets = catalogue.codes(train["target"].combine_chunks(), where)
    row = np.concatenate([np.repeat(codes, histories.lengths), codes])
    column = np.concatenate([histories.values, targets])
    return _ones(row, column, (len(users.dictionary), len(catalogue)))


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    matrix = sparse.coo_array((np.ones(len(row)), (row, column)), shape=shape).tocsr()  # sums duplicates
    matrix.data[:] = 1.0
    return matrix


def _codes_of_lists(lists: pa.ChunkedArray, catalogue: Catalogue, where: str) -> Ragged:
    whole = lists.combine_chunks()
    lengths = pc.list_value_length(whole).fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(catalogue.codes(_flat(whole.flatten()), where).astype(np.int32), offsets)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One string array, whatever string type and chunks it came in."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.cast(pa.string())
