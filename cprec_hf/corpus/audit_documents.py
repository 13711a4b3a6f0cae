"""The audit's checks on pre-training documents (see `audit.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.corpus.audit_batches import (
    Batch,
    Index,
    Items,
    different,
    each_piece,
    hashes_of,
    lists_of,
    names_of,
    one_each,
    sampled_tokens,
    sums,
)  # fmt: skip
from cprec_hf.corpus.audit_figures import Figures
from cprec_hf.corpus.audit_held import HeldOut
from cprec_hf.corpus.audit_report import Tally
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged

COLUMNS = ("text", "kind", "domain", "user_id", "item_ids", "item_domains", "n_tokens", "last_timestamp")
NAMES = ("kind", "domain", "user_id", "item_ids", "item_domains")


@dataclass(frozen=True)
class DocumentAudit:
    """What the checks of documents need to know.

    Attributes:
        facts: of the corpus.
        items: the catalogue, its headers those of `[None, *items.domains]`.
        opening: tokens of each header.
        held: all held-out events, by downstream domain.
        cuts: under leave-one-out, users and the time of their first validation event; else None.
    """

    facts: Mapping[str, Any]
    items: Items
    opening: np.ndarray
    held: Mapping[str, HeldOut]
    cuts: tuple[Index, np.ndarray] | None
    encoder: Encoder

    def check(self, paths: Mapping[str, list[Path]], tally: Tally, figures: Figures) -> None:
        """All checks of config `cpt`: `paths` are the files of each split."""
        validation = Index(_users(paths.get("validation", [])))
        for split, files in paths.items():

            def work(batches: Iterator[Batch], split: str = split) -> tuple[Tally, Figures]:
                found, seen = Tally(), Figures(self.items.domains)
                for batch in batches:
                    self._check(batch, validation if split == "train" else None, found, seen)
                return found, seen

            for found, seen in each_piece(files, work, COLUMNS, NAMES, f"cpt/{split}"):
                tally.join(found)
                figures.join(seen)

    def _check(self, batch: Batch, validation: Index | None, tally: Tally, figures: Figures) -> None:
        items, domains = self.items, list(self.items.domains)
        users, user_names = names_of(batch.rows["user_id"])
        bounds, item_codes, ids = lists_of(batch.rows["item_ids"])
        domain_bounds, domain_codes, domain_names = lists_of(batch.rows["item_domains"])
        if not np.array_equal(bounds, domain_bounds):
            raise ValueError(f"{batch.file}: item_ids and item_domains of different lengths")
        owner = np.repeat(np.arange(len(batch)), np.diff(bounds))
        # Names of domains as numbers: those of the corpus by their place, any other behind them.
        numbers = {name: n for n, name in enumerate(domains)}
        number = np.array([numbers.setdefault(name, len(numbers)) for name in domain_names.to_pylist()], dtype=np.int64)
        of_event = number[domain_codes] if len(number) else domain_codes
        kind_codes, kinds = names_of(batch.rows["domain"])
        number = np.array([numbers.setdefault(name, len(numbers)) for name in kinds.to_pylist()] + [-1], dtype=np.int64)
        of_document = number[kind_codes]  # -1: all domains
        known = {n: n for n in range(len(domains))}
        rows = items.find_pairs(of_event, known, item_codes, ids)

        def event(n: int) -> dict[str, Any]:
            row = int(owner[n])
            item = batch.rows["item_ids"][row][n - int(bounds[row])].as_py()
            domain = batch.rows["item_domains"][row][n - int(bounds[row])].as_py()
            return batch.shown(row, "user_id", domain=domain, item_id=item)

        downstream = np.isin(of_event, [n for n, name in enumerate(domains) if name in self.held])
        tally.mark("no downstream domain in pre-training", downstream, event)
        held = self._held_out(of_event, rows, users[owner], user_names)
        tally.mark("no held-out event in pre-training", held, event)
        self._check_times(batch, tally)
        mixed = (of_document[owner] >= 0) & (of_document[owner] != of_event)
        tally.mark("domain documents hold one domain", mixed, event)

        headed = of_document < len(domains)
        header = np.where(headed, of_document + 1, 0)
        lines = np.where(rows >= 0, rows, items.unknown)
        made = items.texts(one_each(items.header(0) + header).join(Ragged(lines.astype(np.int32), bounds)))
        other = different(batch.rows["text"], made) | ~headed
        other |= np.bincount(owner, weights=rows < 0, minlength=len(batch)) > 0
        tally.mark("documents read as their items", other, lambda n: batch.shown(n, "user_id", "text"))
        counted = self.opening[header] + sums(items.tokens[rows], bounds)
        written = batch.rows["n_tokens"].to_numpy(zero_copy_only=False)

        def told(n: int) -> dict[str, Any]:
            return batch.shown(n, "user_id", "n_tokens", counted=int(counted[n]))

        tally.mark("token counts", counted != written, told)
        sample, encoded = sampled_tokens(batch, self.encoder, "text")
        tally.mark(
            "token counts of texts encoded whole",
            encoded != written[sample],
            lambda n: batch.shown(int(sample[n]), "user_id", "n_tokens", encoded=int(encoded[n])),
        )
        most = self.facts["template"]["window_tokens"]
        tally.mark("documents within window_tokens", counted > most, told)
        tally.mark("documents of two items or more", np.diff(bounds) < 2, lambda n: batch.shown(n, "user_id"))
        if validation is not None:
            again = np.append(validation.find(user_names) >= 0, False)[users]
            tally.mark("no user in both parts of cpt", again, lambda n: batch.shown(n, "user_id"))

        codes, kinds = names_of(batch.rows["kind"])
        figures.add_documents(codes, kinds.to_pylist(), written)
        inside = (of_event < len(domains)) & (users[owner] >= 0)
        figures.add_users(hashes_of(user_names), users[owner][inside], of_event[inside])

    def _held_out(self, numbers: np.ndarray, rows: np.ndarray, users: np.ndarray, names: pa.Array) -> np.ndarray:
        """Which events are held-out ones; only those of downstream domains can be.

        `numbers`, `rows`, `users`: of each event its domain, its row in the catalogue, and its place in `names`.
        """
        bad = np.zeros(len(rows), dtype=bool)
        for number in np.unique(numbers):
            held = self.held.get(self.items.domains[number]) if number < len(self.items.domains) else None
            if held is not None:
                at = np.flatnonzero(numbers == number)
                bad[at] = held.holds(np.append(held.users.find(names), -1)[users[at]], rows[at])
        return bad

    def _check_times(self, batch: Batch, tally: Tally) -> None:
        if self.facts["about"]["order"] != "time":
            return
        last = batch.rows["last_timestamp"]
        missing = last.is_null().to_numpy(zero_copy_only=False)
        times = last.fill_null(0).to_numpy(zero_copy_only=False)
        if self.cuts is None:
            cut = self.facts["split"]["cuts"]["validation"]
            tally.mark(
                "pre-training ends before the validation cut",
                missing | (times >= cut),
                lambda n: batch.shown(n, "user_id", "last_timestamp", cut=cut),
            )
            return
        users, cuts = self.cuts
        codes, names = names_of(batch.rows["user_id"])
        place = np.append(users.find(names), -1)[codes]
        at = np.flatnonzero(place >= 0)
        ends = cuts[place[at]]
        tally.mark(
            "pre-training ends before the user's validation event",
            missing[at] | (times[at] >= ends),
            lambda n: batch.shown(int(at[n]), "user_id", "last_timestamp", cut=int(ends[n])),
        )


def _users(paths: list[Path]) -> pa.Array:
    """The distinct users of these files, a row group at a time."""
    found = pl.Series("user_id", [], dtype=pl.String)
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["user_id"]):
                new = pl.Series(pl.from_arrow(batch["user_id"])).cast(pl.String)
                found = pl.concat([found, new.rename("user_id")]).unique(maintain_order=True)
    return found.drop_nulls().to_arrow()
