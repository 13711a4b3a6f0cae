"""Controls: further kinds of document that destroy one thing and keep the rest, to be trained on in its kind's place.

    domain_shuffled_time      the `domain` documents, the lines of each in random order
    all_domain_shuffled_time  the `all_domain` documents, the lines of each in random order
    all_domain_shuffled_users `all_domain` documents of users who do not exist: each domain's histories, in their order,
                              are handed to other users before they are mixed

The first two keep every document's items, text lines, length and time, and destroy the order. The last keeps every
event and every domain's histories, times and order, and destroys what links a user's domains. Either way a document
reads as its kind's do. Controls are of training users only: validation measures the loss on what people did, whatever
was trained on, and no history of a validation user is handed to a training user. What is drawn is a function of the
seed and of ids alone: not of shards, buckets, the order of rows or the engine.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cprec_hf.corpus.candidates import row_keys
from cprec_hf.corpus.ragged import ranges

SHUFFLED_USERS = "all_domain_shuffled_users"
SHUFFLED_TIME = ("domain_shuffled_time", "all_domain_shuffled_time")
KINDS = ("domain", "all_domain", *SHUFFLED_TIME, SHUFFLED_USERS)
"""Of behaviour documents, in the order in which a user's lie."""
CONTROLS = {"domain_shuffled_time": "domain", "all_domain_shuffled_time": "all_domain", SHUFFLED_USERS: "all_domain"}
"""The kind that each control is one of."""


def shuffled_lines(
    starts: np.ndarray, ends: np.ndarray, owner: np.ndarray, users: pa.StringArray, kind: str, seed: int
) -> np.ndarray:
    """The events of each document in random order, drawn by (seed, kind, user, place in the user's history).

    Args:
        starts: first event of each document [documents].
        ends: one behind its last.
        owner: number of the user of each event [events], in runs: a user's events lie together.
        users: ids by number.
        kind: of document.
        seed: of the corpus.

    Returns:
        Numbers of events, document after document, int64 [sum of the documents' lengths].
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    place = np.arange(len(owner)) - np.repeat(begins, np.diff(np.append(begins, len(owner))))
    rows = ranges(starts, ends)
    ids = users.take(pa.array(owner[rows]))
    keys = row_keys(f"{seed}", kind, ids, place[rows])
    return rows[np.lexsort((keys, np.repeat(np.arange(len(starts)), ends - starts)))]
