"""The audit's checks on the fine-tuning and evaluation rows of one domain (see `audit.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cprec_hf.corpus.audit_batches import (
    Batch,
    Items,
    different,
    each_piece,
    one_each,
    sampled_tokens,
    sums,
)  # fmt: skip
from cprec_hf.corpus.audit_candidates import Asked, candidate_sets, check_candidates, memoriser_row
from cprec_hf.corpus.audit_figures import Figures
from cprec_hf.corpus.audit_held import HeldOut
from cprec_hf.corpus.audit_report import AuditRow, Tally
from cprec_hf.corpus.audit_rows import COLUMNS, NAMES, Rows
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.files import SPLITS
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.template import load_template


@dataclass
class Found:
    """What a piece of a split showed."""

    tally: Tally
    figures: Figures
    seen: list[np.ndarray] = field(default_factory=list)
    """Of train: what users with held-out events did, as in `HeldOut.keys`, sorted."""
    last: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Of train: users with held-out events, and the times of their rows."""
    asked: dict[str, Asked] = field(default_factory=lambda: defaultdict(Asked))
    """Of what is held out: what the memoriser learns or is asked, by column."""


@dataclass(frozen=True)
class ExampleAudit:
    """All checks of one `sft-*` config."""

    facts: Mapping[str, Any]
    items: Items
    domain: str
    held: HeldOut
    encoder: Encoder

    def check(self, files: Mapping[str, list[Path]], tally: Tally, figures: Figures) -> list[AuditRow]:
        """Count into `tally` and `figures`; returns how the memoriser did."""
        sets = candidate_sets(self.facts)
        seen, found = np.zeros(0, dtype=np.int64), {split: Found(Tally(), figures) for split in SPLITS}
        for split in SPLITS:
            where = f"sft-{self.facts['domains'][self.domain]['slug']}/{split}"
            work = self._work(split, seen)
            columns = (*COLUMNS, *sets)
            for piece in each_piece(files[split], work, columns, (*NAMES, *sets), where):
                tally.join(piece.tally)
                figures.join(piece.figures)
                found[split].seen.extend(piece.seen)
                found[split].last.extend(piece.last)
                for column, rows in piece.asked.items():
                    found[split].asked[column].candidates.extend(rows.candidates)
                    found[split].asked[column].targets.extend(rows.targets)
            if split == "train":
                seen = np.unique(np.concatenate([seen, *found["train"].seen]))
                found["train"].seen.clear()
        self._check_order(found["train"].last, tally)
        known, asked = (found[split].asked for split in ("validation", "test"))
        return [memoriser_row(self.domain, sets[column], known[column], asked[column]) for column in sets]

    def _work(self, split: str, seen: np.ndarray) -> Callable[[Iterator[Batch]], Found]:
        sets = list(candidate_sets(self.facts))
        shown = ["candidates"] if self.facts["template"]["candidate_list_in_prompt"] else []

        def work(batches: Iterator[Batch]) -> Found:
            found = Found(Tally(), Figures(self.items.domains))
            for batch in batches:
                rows = Rows.read(batch, self.domain, self.items, self.held, sets, found.figures)
                self._check_texts(rows, found.tally)
                self._check_leaks(rows, split, found.tally)
                for column in sets if split != "train" else shown:
                    check_candidates(rows, column, split, seen, self.facts["candidates"]["count"], found.tally)
                if split == "train":
                    self._keep_train(rows, found)
                    continue
                for column in sets:
                    found.asked[column].candidates.append(rows.lists[column])
                    found.asked[column].targets.append(rows.target)
            return found

        return work

    def _check_texts(self, rows: Rows, tally: Tally) -> None:
        items, batch, sizes = self.items, rows.batch, self.facts["template"]
        template = load_template(sizes["version"])
        header = template.header(self.domain)
        fixed = int(self.encoder.documents([header]).lengths[0])
        prompt = one_each(np.full(len(rows), items.header(1 + items.domains.index(self.domain))))
        prompt = prompt.join(_known(rows.history, items))
        unknown = sums(rows.history.values < 0, rows.history.offsets)
        tokens = sums(items.tokens[rows.history.values], rows.history.offsets) + items.tokens[rows.target]
        if sizes["candidate_list_in_prompt"]:
            opening = template.block([])
            fixed += int(self.encoder.documents([opening], start=False).lengths[0])
            block = one_each(np.full(len(rows), items.header(1 + len(items.domains))))
            prompt = block.join(_known(rows.lists["candidates"], items)).join(prompt)
            tokens += sums(items.tokens[rows.lists["candidates"].values], rows.lists["candidates"].offsets)
            unknown += sums(rows.lists["candidates"].values < 0, rows.lists["candidates"].offsets)
        wrong = different(batch.rows["prompt"], items.texts(prompt)) | (unknown > 0) | (rows.target < 0)
        wrong |= different(batch.rows["completion"], items.texts(_known(one_each(rows.target), items)))
        tally.mark(
            "prompts and completions read as their items",
            wrong,
            lambda n: batch.shown(n, "user_id", "prompt", "completion"),
        )
        counted = tokens + fixed
        sample, encoded = sampled_tokens(batch, self.encoder, "prompt", "completion")
        tally.mark(
            "token counts of prompts and completions encoded whole",
            encoded != counted[sample],
            lambda n: batch.shown(int(sample[n]), "user_id", counted=int(counted[sample[n]]), encoded=int(encoded[n])),
        )
        tally.mark(
            "prompts and completions within window_tokens",
            counted > sizes["window_tokens"],
            lambda n: batch.shown(n, "user_id", counted=int(counted[n])),
        )
        length = rows.history.lengths
        tally.mark(
            "histories of 1 to history_length items",
            (length < 1) | (length > sizes["history_length"]),
            lambda n: batch.shown(n, "user_id", length=int(length[n])),
        )

    def _check_leaks(self, rows: Rows, split: str, tally: Tally) -> None:
        batch, (owner, past) = rows.batch, rows.item("history")

        def target(n: int) -> dict[str, Any]:
            return batch.shown(n, "user_id", "target", "timestamp")

        if split == "train":
            leaked = self.held.holds(rows.users, rows.target)
            tally.mark("no held-out event among train targets", leaked, target)
            leaked = self.held.holds(rows.users[owner], rows.history.values)
            tally.mark("no held-out event in train histories", leaked, past)
        else:
            leaked = self.held.holds(rows.users[owner], rows.history.values, SPLITS.index("test"))
            tally.mark("no test event in held-out histories", leaked, past)
            again = (rows.history.values == rows.target[owner]) & (rows.history.values >= 0)
            again = np.bincount(owner, weights=again, minlength=len(rows)) > 0
            tally.mark("held-out targets are new to their users", again, lambda n: batch.shown(n, "user_id", "target"))
        if self.facts["split"]["policy"] == "time":
            cuts, times = self.facts["split"]["cuts"], batch.rows["timestamp"].to_numpy(zero_copy_only=False)
            begin = {"train": None, "validation": cuts["validation"], "test": cuts["test"]}[split]
            end = {"train": cuts["validation"], "validation": cuts["test"], "test": None}[split]
            outside = np.zeros(len(rows), dtype=bool)
            outside |= False if begin is None else times < begin
            outside |= False if end is None else times >= end
            tally.mark("targets on their side of the cuts", outside, target)

    def _keep_train(self, rows: Rows, found: Found) -> None:
        known = rows.users >= 0
        found.last.append((rows.users[known], rows.batch.rows["timestamp"].to_numpy(zero_copy_only=False)[known]))
        owner = np.repeat(np.arange(len(rows)), rows.history.lengths)
        users = np.concatenate([rows.users[owner], rows.users])
        items = np.concatenate([rows.history.values, rows.target]).astype(np.int64)
        inside = (users >= 0) & (items >= 0)
        found.seen.append(np.unique(users[inside] * len(self.items) + items[inside]))

    def _check_order(self, last: Sequence[tuple[np.ndarray, np.ndarray]], tally: Tally) -> None:
        """Per user: train before validation before test, one of each held out."""
        held, n_users = self.held, len(self.held.users.names)
        never, always = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        times = {}
        for number, split in enumerate(SPLITS[1:], 1):
            at = np.flatnonzero(held.split == number)
            _, first = np.unique(held.user[at], return_index=True)
            again = np.ones(len(at), dtype=bool)
            again[first] = False

            def event(n: int, at: np.ndarray = at, split: str = split) -> dict[str, Any]:
                item = int(held.item[at[n]])
                name = self.items.frame["item_id"][item] if item >= 0 else None
                return {
                    "user_id": held.user_name(held.user[at[n]]),
                    "domain": self.domain,
                    "item_id": name,
                    "split": split,
                }

            tally.mark("one held-out event per user and split", again, event)
            times[split] = np.full(n_users, never)
            times[split][held.user[at[first]]] = held.timestamp[at[first]]
        train = np.full(n_users, always)
        for users, when in last:
            np.maximum.at(train, users, when)
        validation, test = times["validation"], times["test"]
        late = (train > np.minimum(validation, test)) | ((validation > test) & (validation != never))

        def told(n: int) -> dict[str, Any]:
            when = {"train": train[n], "validation": validation[n], "test": test[n]}
            known = {name: int(t) for name, t in when.items() if t not in (never, always)}
            return {"domain": self.domain, "user_id": held.user_name(n), **known}

        tally.mark("train before validation before test, for every user", late, told)


def _known(rows: Ragged, items: Items) -> Ragged:
    """Rows of the catalogue as lines: what is not in it is an empty one."""
    return Ragged(np.where(rows.values >= 0, rows.values, items.unknown).astype(np.int32), rows.offsets)
