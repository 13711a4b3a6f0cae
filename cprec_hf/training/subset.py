"""Few-shot subsets of a domain's training rows: some of the users, with all their rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import row_keys
from cprec_hf.corpus.few_shot import RANK, few_rows
from cprec_hf.errors import InputError


def few_users(rows: pa.Table, share: float | None, seed: int | None) -> pa.Table:
    """The rows of a share of their users, in their order.

    A keyed hash of the user's id puts the users in line, and the first ones are taken: so a smaller share's users are
    among a larger one's, and nothing else (model, batch, seed of the run, order of the rows) has a say. Our choice.
    The line is the one that the corpus froze (`corpus/few_shot.py`), which everybody shares, unless a seed asks for
    another; corpora of older releases froze none, and get that of seed 0.

    Args:
        rows: with a column `user_id`, as they are published, and `user_rank` where the corpus has it.
        share: of the users, above 0 and at most 1, rounded up; None keeps all.
        seed: of the hash, to draw other users than the corpus did; None for the corpus' own.

    Raises:
        InputError: the share is out of range.
    """
    if share is None:
        return rows
    if not 0 < share <= 1:
        raise InputError(f"`train_share` is {share}; give a share of the users, above 0 and at most 1")
    if seed is None and RANK in rows.column_names:
        return few_rows(rows, share)
    users = pc.unique(rows["user_id"].combine_chunks())
    line = np.argsort(row_keys("few-shot", str(seed or 0), users, np.zeros(len(users))), kind="stable")
    kept = line[: math.ceil(round(share * len(users), 6))]  # 0.1 x 30 is a little more than 3 in binary
    return rows.filter(pc.is_in(rows["user_id"], value_set=users.take(pa.array(kept))))


def subset_of(arguments: Any) -> dict[str, Any]:
    """What a record says of a few-shot run's subset (seed null: the corpus' own); nothing where all users are kept.

    Args:
        arguments: of a stage that has `train_share` and `subset_seed`.
    """
    if arguments.train_share is None:
        return {}
    return {"train_share": arguments.train_share, "subset_seed": arguments.subset_seed}
