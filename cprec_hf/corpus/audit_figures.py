"""What the audit counts that is no breach: users and items that domains share, titles that repeat, documents' lengths.

AuditReport.figures == {
    "overlap": {"domains": [...], "users": [[...]], "item_ids": [[...]], "titles": [[...]]},
    "titles": {domain: {"items": 120, "repeated": 3, "shared": 7}},
    "document_tokens": {"edges": [...], "documents": {kind: [...]}},
}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

_WORD = 64


class Figures:
    """Running counts over the rows of a corpus, joined piece by piece.

    Users are told apart by a 64-bit hash of their ids: among ten million, two are taken for one with a chance of 3e-6.

    Args:
        domains: names; a domain's number is its place.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self.domains = list(domains)
        self._words = -(-len(self.domains) // _WORD)
        self._hashes: list[np.ndarray] = []
        self._masks: list[np.ndarray] = []  # which domains a user is active in, uint64 [users, words]
        self.tokens: dict[str, np.ndarray] = {}

    def add_users(self, hashes: np.ndarray, users: np.ndarray, domains: np.ndarray) -> None:
        """Count activity: `hashes` of some users; of each event its place among them and its domain's number."""
        masks = np.zeros((len(hashes), self._words), dtype=np.uint64)
        active = np.zeros(len(hashes) * len(self.domains), dtype=bool)
        active[users * len(self.domains) + domains] = True
        for domain, column in enumerate(active.reshape(len(hashes), len(self.domains)).T):
            masks[:, domain // _WORD] |= column.astype(np.uint64) << np.uint64(domain % _WORD)
        some = masks.any(axis=1)
        self._hashes.append(hashes[some])
        self._masks.append(masks[some])

    def add_documents(self, codes: np.ndarray, kinds: Sequence[str], tokens: np.ndarray) -> None:
        """Count documents by kind and length: of each its place in `kinds`, and its tokens."""
        for n, kind in enumerate(kinds):
            self._add_tokens(kind, np.bincount(tokens[codes == n].clip(min=0)))

    def join(self, other: Figures) -> None:
        """Count what another counted."""
        self._hashes += other._hashes
        self._masks += other._masks
        if len(self._hashes) > 64:  # users of many pieces are the same ones
            hashes, masks = self._users()
            self._hashes, self._masks = [hashes], [masks]
        for kind, counts in other.tokens.items():
            self._add_tokens(kind, counts)

    def shared_users(self) -> np.ndarray:
        """Users active in both domains, int64 [domains, domains]; those of a domain on the diagonal."""
        _, masks = self._users()
        shared = np.zeros((len(self.domains),) * 2)
        for begin in range(0, len(masks), 1 << 20):
            words = masks[begin : begin + (1 << 20)]
            bits = [words[:, d // _WORD] >> np.uint64(d % _WORD) & np.uint64(1) for d in range(len(self.domains))]
            active = np.stack(bits).astype(np.float32)  # sums below 2 ** 24 are exact
            shared += active @ active.T
        return shared.astype(np.int64)

    def to_dict(self, items: pl.DataFrame) -> dict[str, Any]:
        """JSON-ready; `items` are item_id, domain, title."""
        return {
            "overlap": {
                "domains": self.domains,
                "users": self.shared_users().tolist(),
                "item_ids": shared_values(items, "item_id", self.domains).tolist(),
                "titles": shared_values(items, "title", self.domains).tolist(),
            },
            "titles": repeated_titles(items, self.domains),
            "document_tokens": histogram(self.tokens),
        }

    def _add_tokens(self, kind: str, counts: np.ndarray) -> None:
        before = self.tokens.get(kind, np.zeros(0, np.int64))
        width = max(len(before), len(counts))
        self.tokens[kind] = np.pad(before, (0, width - len(before))) + np.pad(counts, (0, width - len(counts)))

    def _users(self) -> tuple[np.ndarray, np.ndarray]:
        """Each user once, with all domains."""
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        masks = np.concatenate([np.zeros((0, self._words), np.uint64), *self._masks])
        order = np.argsort(hashes, kind="stable")
        hashes, masks = hashes[order], masks[order]
        first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        return hashes[first], np.bitwise_or.reduceat(masks, first, axis=0) if len(first) else masks


def shared_values(items: pl.DataFrame, column: str, domains: Sequence[str]) -> np.ndarray:
    """Distinct values of a column that both domains have, int64 [domains, domains]; a domain's own on the diagonal."""
    values = items.select("domain", column).unique()
    both = values.join(values, on=column).group_by("domain", "domain_right").len()
    place = {name: n for n, name in enumerate(domains)}
    shared = np.zeros((len(domains),) * 2, dtype=np.int64)
    for one, other, n in both.iter_rows():
        if one in place and other in place:
            shared[place[one], place[other]] = n
    return shared


def repeated_titles(items: pl.DataFrame, domains: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of each domain: items; those whose title another of the domain has; those whose title another domain has."""
    within = pl.len().over("domain", "title") > 1
    across = pl.col("domain").n_unique().over("title") > 1
    counted = items.with_columns(within=within, across=across).group_by("domain")
    rows = counted.agg(items=pl.len(), repeated=pl.col("within").sum(), shared=pl.col("across").sum()).to_dicts()
    by_domain = {row.pop("domain"): {key: int(n) for key, n in row.items()} for row in rows}
    return {domain: by_domain.get(domain, {"items": 0, "repeated": 0, "shared": 0}) for domain in domains}


def histogram(counts: Mapping[str, np.ndarray], bins: int = 32) -> dict[str, Any]:
    """Counts of the values 0, 1, 2, ... in at most `bins` equal bins; `edges` are their first values, and the end."""
    top = max((len(c) for c in counts.values()), default=1)
    width = -(-top // bins)
    edges = np.arange(0, top + width, width)
    padded = {name: np.pad(c, (0, edges[-1] - len(c))) for name, c in sorted(counts.items())}
    documents = {name: np.add.reduceat(c, edges[:-1]).tolist() for name, c in padded.items()}
    return {"edges": edges.tolist(), "documents": documents}
