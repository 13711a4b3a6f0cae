"""Few-shot subsets of a domain's training rows: some of the users, with all their rows, the same for everybody.

A keyed hash of the published user id puts the domain's training users in line. `user_rank`, the share of them that
stand before a user, is frozen in the corpus: `user_rank < 0.1` is the first tenth of the users, rounded up, exactly,
and a smaller share's users are among a larger one's. The split `train_10pct` holds just those rows, for whoever loads
no more than that: a tenth of `train` written twice costs less than rows out of the corpus' order. Our choice: the sizes
and draws of the paper's limited fine-tuning are not public.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import row_keys

RANK = "user_rank"


def split_name(share: float) -> str:
    """What the split of a share of the users is called: 0.1 is `train_10pct`."""
    return f"train_{share * 100:g}pct"


def user_keys(dataset: str, user_ids: pa.Array) -> np.ndarray:
    """The place of each user in the line as a hash, uint64 [users].

    Args:
        dataset: key of the corpus' draws: name, seed and domain.
        user_ids: as they are published, string [users].
    """
    return row_keys(dataset, "few-shot", user_ids, np.zeros(len(user_ids), dtype=np.int64))


def user_ranks(line: np.ndarray, keys: np.ndarray) -> pa.Array:
    """The share of the training users that stand before each user, float64; null for who has no training row.

    Args:
        line: the keys of all the domain's users with a training row, uint64, sorted.
        keys: of the users asked about, uint64 [users].
    """
    place = np.searchsorted(line, keys)
    absent = np.append(line, np.uint64(0))[place] != keys
    absent |= place == len(line)
    return pa.array(place / max(len(line), 1), pa.float64(), mask=absent)


def few_rows(train: pa.Table, share: float) -> pa.Table:
    """The training rows of the first `share` of the users, in their order; `train` has a column `user_rank`."""
    return train.filter(pc.less(train[RANK], share))
