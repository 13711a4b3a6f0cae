"""What controls add to the writing of documents: the events they read, the users they leave out, and their account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.behaviors.account import Step
from cprec_hf.corpus.controls import CONTROLS, SHUFFLED_USERS
from cprec_hf.corpus.handover import hand_over, of_two_domains
from cprec_hf.corpus.sequences import HANDED, SequencePlan, cpt_sequences
from cprec_hf.corpus.splits import cpt_events

if TYPE_CHECKING:
    from cprec_hf.corpus.write import Part, Parts, PretrainingUsers


DOCUMENT_SPLITS = ("train", "validation")


def documents_by_split(events: pa.Table, plan: SequencePlan, held: pa.StringArray) -> dict[str, pa.Table]:
    """`cpt_sequences` of training users, and of validation users without controls, by `DOCUMENT_SPLITS`.

    Args:
        events: as `cpt_sequences` takes them.
        plan: of the documents.
        held: the validation users.
    """
    ids = events["user_id"].combine_chunks() if events.num_rows else pa.array([], pa.string())
    ids = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    validates = pc.is_in(ids.dictionary, held).to_numpy(zero_copy_only=False)[ids.indices.to_numpy()]
    kinds = [tuple(plan.kinds), tuple(kind for kind in plan.kinds if kind not in CONTROLS)]
    return {
        split: cpt_sequences(events.filter(pa.array(rows)), plan, of)
        for split, rows, of in zip(DOCUMENT_SPLITS, (~validates, validates), kinds, strict=True)
    }


class ControlAccount:
    """What becomes of events in documents of all kinds, controls among them.

    Args:
        kinds: of document.
        users: of the pre-training events.

    Attributes:
        kinds: the controls among them.
        held: events of validation users that a control's kind would take, by that kind; counted by whoever makes rows.
        late: events handed to a receiver whose documents end before them; likewise.
    """

    def __init__(self, kinds: Iterable[str], users: PretrainingUsers) -> None:
        self.users = users
        self.kinds = [kind for kind in kinds if kind in CONTROLS]
        self.held, self.late = Counter[str](), 0

    def step(self, kind: str, used: int) -> Step:
        """What became of the events in the documents of a kind, once all are written."""
        refused, like, users = {}, CONTROLS.get(kind, kind), self.users
        if like == "all_domain":
            refused = {
                "order across domains unknown": users.unknown,
                "user active in one domain only": users.alone,
            }
        if kind in CONTROLS:
            refused["of a validation user"] = self.held[like]
        if kind == SHUFFLED_USERS and self.late:
            refused["at or after the receiver's validation event"] = self.late
        refused["alone in a window"] = users.events - used - sum(refused.values())
        return Step(f"events in {kind} documents", users.events, used, refused)


class ControlRows:
    """The events of a corpus' controls.

    Args:
        parts: of all events; gone through twice where users are shuffled.
        plan: of the documents.
        account: to count in.
    """

    def __init__(self, parts: Parts, plan: SequencePlan, account: ControlAccount) -> None:
        self.plan, self.account, self.cuts = plan, account, parts.split.cuts
        self.handed = None
        if SHUFFLED_USERS in account.kinds:
            folder = parts.prepared.store.folder / "handed"
            self.handed = hand_over(parts, parts.prepared.domains, account.users.held, folder, plan.seed)

    def beside(self, number: int, part: Part) -> pl.DataFrame:
        """The events of a bucket for all kinds of document, sorted by user: its own, and those handed to its users.

        What comes at or after the receiver's own validation event is left out, as it is of all that stands under the
        receiver's id; where clocks are no times, those of two users cannot be compared.
        """
        own = part.pretraining
        if self.account.kinds:
            self._count_held(part)
        if self.handed is None:
            return own
        received = self.handed.of(number)
        if self.plan.times_known:
            n_before = len(received)
            received = cpt_events(received, part.downstream, self.cuts)
            self.account.late += n_before - len(received)
        columns = ["user_id", "item_id", "timestamp", "clock"]
        both = [frame.select(*columns, pl.lit(i > 0).alias(HANDED)) for i, frame in enumerate((own, received))]
        return pl.concat(both, how="vertical_relaxed").sort("user_id", maintain_order=True)

    def _count_held(self, part: Part) -> None:
        events, users = part.pretraining, part.bucket.users
        held = pc.is_in(users, self.account.users.held).to_numpy(zero_copy_only=False)
        user, domain = events["user_id"].to_numpy(), events["domain"].to_physical().to_numpy()
        known = events["clock"].is_not_null().to_numpy()
        mixed = of_two_domains(user[known], domain[known], len(users))
        self.account.held["domain"] += int(held[user].sum())
        self.account.held["all_domain"] += int((held & mixed)[user[known]].sum())
