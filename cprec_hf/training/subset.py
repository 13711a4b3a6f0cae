"""Few-shot subsets of a domain's training rows: some of the users, with all their rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import row_keys
from cprec_hf.errors import InputError


def few_users(rows: pa.Table, share: float | None, seed: int) -> pa.Table:
    """The rows of a share of their users, in their order.

    A keyed hash of the user's id puts the users in line, and the first ones are taken: so a smaller share's users are
    among a larger one's, and nothing else (model, batch, seed of the run, order of the rows) has a say. Our choice.

    Args:
        rows: with a column `user_id`, as they are published.
        share: of the users, above 0 and at most 1, rounded up; None keeps all.
        seed: of the hash: another one draws others.

    Raises:
        InputError: the share is out of range.
    """
    if share is None:
        return rows
    if not 0 < share <= 1:
        raise InputError(f"`train_share` is {share}; give a share of the users, above 0 and at most 1")
    users = pc.unique(rows["user_id"].combine_chunks())
    line = np.argsort(row_keys("few-shot", str(seed), users, np.zeros(len(users))), kind="stable")
    kept = line[: math.ceil(round(share * len(users), 6))]  # 0.1 x 30 is a little more than 3 in binary
    return rows.filter(pc.is_in(rows["user_id"], value_set=users.take(pa.array(kept))))


def subset_of(arguments: Any) -> dict[str, Any]:
    """What a record says of a few-shot run's subset; nothing where all users are kept.

    Args:
        arguments: of a stage that has `train_share` and `subset_seed`.
    """
    if arguments.train_share is None:
        return {}
    return {"train_share": arguments.train_share, "subset_seed": arguments.subset_seed}
