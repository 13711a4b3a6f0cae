"""Fine-tuning and evaluation rows of a batch with their ids as numbers, as the audit looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cprec_hf.corpus.audit_batches import Batch, Items, hashes_of, lists_of, names_of
from cprec_hf.corpus.audit_figures import Figures
from cprec_hf.corpus.audit_held import HeldOut
from cprec_hf.corpus.ragged import Ragged

COLUMNS = ("prompt", "completion", "user_id", "history", "target", "timestamp")  # and the sets of candidates
NAMES = ("user_id", "history", "target")
Shown = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Rows:
    """A batch with its ids as numbers.

    Attributes:
        users: of each row, its place among the users with held-out events, -1 for others.
        lists: `history` and each column of candidates, as rows of the catalogue, -1 for no item of the domain.
        target: the same [rows].
        n_items: size of the catalogue.
    """

    batch: Batch
    users: np.ndarray
    lists: Mapping[str, Ragged]
    target: np.ndarray
    n_items: int

    @classmethod
    def read(
        cls, batch: Batch, domain: str, items: Items, held: HeldOut, candidates: Sequence[str], figures: Figures
    ) -> Rows:
        """The numbers of a batch of a domain's rows; its users are counted in `figures`."""
        number = items.domains.index(domain)
        user_codes, names = names_of(batch.rows["user_id"])
        figures.add_users(hashes_of(names), user_codes, np.full(len(user_codes), number))
        lists = {}
        for column in ("history", *candidates):
            offsets, codes, ids = lists_of(batch.rows[column])
            lists[column] = Ragged(np.append(items.find(number, ids), -1)[codes].astype(np.int32), offsets)
        codes, ids = names_of(batch.rows["target"])
        target = np.append(items.find(number, ids), -1)[codes]
        users = np.append(held.users.find(names), -1)[user_codes]
        return cls(batch, users, lists, target, len(items))

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def history(self) -> Ragged:
        """The items before the target."""
        return self.lists["history"]

    def item(self, column: str) -> tuple[np.ndarray, Shown]:
        """The row that each value of a column of lists stands in, and what a message says of a value."""
        values = self.lists[column]
        owner = np.repeat(np.arange(len(self)), values.lengths)

        def shown(n: int) -> dict[str, Any]:
            row = int(owner[n])
            item = self.batch.rows[column][row][n - int(values.offsets[row])].as_py()
            return self.batch.shown(row, "user_id", item_id=item)

        return owner, shown
