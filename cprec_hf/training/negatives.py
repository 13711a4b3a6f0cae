"""What a user did not choose: negatives for training rows, drawn from what training rows know and nothing else.

Where the corpus froze candidates for its training rows (its prompts show them), negatives are the first of those.
Elsewhere they are drawn as the corpus draws candidates (`corpus/candidates.py`: uniform, by a stream that each row owns
and that never sees the target), outside all that the user did in training rows. Validation and test rows, and their
candidates, are not read. Our choice: the paper's public text names preference learning as future work.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.candidates import draw_candidates, row_keys
from cprec_hf.corpus.ragged import Ragged, offsets_of, ranges
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue

COLUMNS = ["user_id", "history", "target", "candidates"]


def negatives_of(rows: pa.Table, catalogue: Catalogue, count: int, key: str) -> np.ndarray:
    """Negatives of each row: its frozen candidates other than the target, or drawn ones where it has none.

    Args:
        rows: `COLUMNS`, all rows of every user in it.
        catalogue: of the rows' domain.
        count: negatives a row.
        key: of the draws, `DATASET/SEED/DOMAIN` or the like.

    Returns:
        Rows of the catalogue, int64 [n_rows, count], no item twice in a row.

    Raises:
        InputError: `count` is below 1, or more than there are frozen candidates or items to draw from.
    """
    if count < 1:
        raise InputError(f"`negatives` is {count}; give at least 1")
    targets = catalogue.rows([rows["target"].to_pylist()], "targets").values.astype(np.int64)
    frozen = pc.fill_null(pc.list_value_length(rows["candidates"]), 0).to_numpy()
    if not len(frozen) or not frozen.min():
        return _drawn(rows, catalogue, targets, count, key)
    if frozen.min() <= count:
        raise InputError(
            f"`negatives` is {count} and rows of {catalogue.domain!r} have {frozen.min()} candidates, one of them the "
            f"target; give at most {frozen.min() - 1}"
        )
    offered = catalogue.rows(rows["candidates"].to_pylist(), "candidates")
    others = offered.values != np.repeat(targets, offered.lengths)
    first = offsets_of(np.bincount(np.repeat(np.arange(len(targets)), offered.lengths)[others]))[:-1]
    return offered.values[others].astype(np.int64)[first[:, None] + np.arange(count)]


def _drawn(rows: pa.Table, catalogue: Catalogue, targets: np.ndarray, count: int, key: str) -> np.ndarray:
    histories = catalogue.rows(rows["history"].to_pylist(), "histories")
    names = rows["user_id"].combine_chunks()
    users = np.asarray(names.dictionary_encode().indices, dtype=np.int64)
    # All a user did in training rows, a row a user, then a row for each of the user's rows.
    owner = np.concatenate([np.repeat(users, histories.lengths), users])
    items = np.concatenate([histories.values, targets])
    order = np.argsort(owner, kind="stable")
    seen = Ragged(items[order].astype(np.int32), offsets_of(np.bincount(owner)))
    # The place of a row among its user's.
    order, counts = np.argsort(users, kind="stable"), np.bincount(users)
    index = np.empty(len(users), dtype=np.int64)
    index[order] = ranges(np.zeros(len(counts), dtype=np.int64), counts)
    try:
        drawn = draw_candidates(
            len(catalogue), seen.take(users), targets, row_keys(key, "train", names, index), count + 1,
            groups=catalogue.code_of,
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"`negatives` {count}, domain {catalogue.domain!r}: {error}") from None
    return drawn[drawn != targets[:, None]].reshape(len(targets), count)
