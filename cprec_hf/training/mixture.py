"""The recipe key `mixture`: what share of the tokens is of which kind of document, in all phases or phase by phase.

    mixture: {domain: 1, all_domain: 2, items: 0.3}
    mixture: {stable: {domain: 1, all_domain: 1}, anneal: {all_domain: 3, items: 1}}

The numbers are weights, in any scale. Kinds are those of the corpus' documents, and `items` for its item documents. A
phase that is not named has the stable phase's weights. Rows are packed kind by kind, so that each row is of one kind,
and drawn by `MixedOrder`. Without the key, a run reads what the corpus holds as it lies (`data.mixture`); that default,
and that weights count tokens, is our choice: the paper's text fixes neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.arguments import MixtureArguments
from cprec_hf.training.data import cpt_rows, document_kinds, item_rows
from cprec_hf.training.data import mixture as natural_mixture
from cprec_hf.training.mixed_order import Draws, Weights
from cprec_hf.training.stage import data_order, prepare_rows
from cprec_hf.training.wsa import Phases

PHASES = ("warmup", "stable", "anneal")
ITEMS = "items"


@dataclass(frozen=True)
class Mixture:
    """Weights of the phases that a recipe names; a mixture for all phases names the stable one."""

    weights: Mapping[str, Weights]

    @property
    def kinds(self) -> list[str]:
        """Every kind that some phase reads, sorted."""
        return sorted({kind for weights in self.weights.values() for kind, weight in weights.items() if weight > 0})

    def by_phase(self, phases: Phases | None) -> dict[str, Weights]:
        """The weights of each phase that a run has; where the mixture names no stable phase, of those that it names.

        Args:
            phases: of the run; None under a schedule without phases, where all steps count as the stable phase.

        Raises:
            InputError: weights for a phase that the run does not have.
        """
        steps = {"stable": 1} if phases is None else {name: getattr(phases, name) for name in PHASES}
        for name in self.weights:
            if name != "stable" and not steps.get(name):
                has = "no phases: they are WSA's" if phases is None else f"{_told(steps)}"
                raise InputError(f"`mixture` names weights for the {name} phase, and this run has {has}")
        chosen = {name: self.weights.get(name, self.weights.get("stable")) for name in PHASES if steps.get(name)}
        return {name: weights for name, weights in chosen.items() if weights is not None}

    def draws(self, sizes: Mapping[str, int], phases: Phases | None, steps: int) -> Draws:
        """How rows packed kind by kind are drawn in a run.

        Args:
            sizes: rows of each kind, in their order.
            phases: of the run.
            steps: of the run.

        Raises:
            InputError: see `by_phase`.
        """
        lengths = {"stable": steps} if phases is None else {name: getattr(phases, name) for name in PHASES}
        return Draws(dict(sizes), [(lengths[name], weights) for name, weights in self.by_phase(phases).items()])


def read_mixture(given: Any, kinds: Sequence[str] | None, *, stage: str = "cpt") -> Mixture:
    """The mixture that a recipe gives, checked.

    Args:
        given: the value of the key: weights by kind, or those by phase.
        kinds: that the corpus has, `items` among them; None to take any, where the corpus is not read.
        stage: `cpt`, or `anneal`, whose one phase is the anneal.

    Raises:
        InputError: another form; an unknown phase or kind; a weight that is no number of 0 or more; weights that are
            all 0; phases, and the stable one not among them.
    """
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"`mixture` is {given!r}; give weights by kind, such as {{domain: 1, all_domain: 2}}")
    known = PHASES if stage == "cpt" else ("anneal",)
    nested = [isinstance(value, Mapping) for value in given.values()]
    if any(nested) and not all(nested):
        raise InputError(f"`mixture` is {dict(given)}: weights and phases side by side; give one or the other")
    named = dict(given) if all(nested) else {known[len(known) // 2]: given}
    for phase, weights in named.items():
        if phase not in known:
            raise InputError(f"`mixture` names a phase {phase!r}; {stage} has {' and '.join(known)}")
        _check_weights(weights, kinds, f"`mixture`, {phase}" if all(nested) else "`mixture`")
    if stage == "cpt" and "stable" not in named:
        raise InputError("`mixture` names no weights for the stable phase, which phases without weights would take")
    return Mixture({phase: {kind: float(w) for kind, w in weights.items()} for phase, weights in named.items()})


def mixture_of(arguments: MixtureArguments, *, stage: str = "cpt") -> Mixture | None:
    """The mixture of a recipe, read against its corpus; None without one.

    Raises:
        InputError: see `read_mixture`; or `kinds` or `item_share` beside it.
    """
    if arguments.mixture is None:
        return None
    for key, idle in (("kinds", arguments.kinds is None), ("item_share", not arguments.item_share)):
        if not idle:
            raise InputError(f"`{key}` and `mixture` say the same thing twice; give the weights in `mixture` alone")
    kinds = document_kinds(arguments.corpus, arguments.corpus_revision)
    return read_mixture(arguments.mixture, [*kinds, ITEMS], stage=stage)


def training_rows(
    mixture: Mixture | None, arguments: MixtureArguments, encoder: Encoder, model: Any, training: Any
) -> tuple[datasets.Dataset, dict[str, int]]:
    """What a trunk or an anneal trains on, checked against the model and packed (`prepare_rows`).

    Args:
        mixture: whose kinds lie one after another, each packed alone; None for the corpus as it lies.
        arguments: name the corpus, and without a mixture `kinds` and `item_share`.
        encoder: the model's.
        model: that will read the rows.
        training: gives `max_length`, `packing` and the seed.

    Returns:
        The rows, and how many each kind of the mixture has.

    Raises:
        InputError: see `prepare_rows`, `cpt_rows` and `mix_in`.
    """
    read = (arguments.corpus, arguments.corpus_revision, encoder)
    if mixture is None:
        rows = natural_mixture(*read, arguments.kinds, arguments.item_share, training.seed)
        return prepare_rows(rows, model, training, split_long=True, where=f"{arguments.corpus} cpt/train"), {}
    parts = {}
    for kind in mixture.kinds:
        rows = item_rows(*read) if kind == ITEMS else cpt_rows(*read, [kind])
        where = f"{arguments.corpus} {'items' if kind == ITEMS else f'cpt/train, {kind}'}"
        parts[kind] = prepare_rows(rows, model, training, split_long=True, where=where)
    return datasets.concatenate_datasets([*parts.values()]), {kind: len(rows) for kind, rows in parts.items()}


def order_and_draws(
    mixture: Mixture | None,
    rows: int,
    sizes: Mapping[str, int],
    arguments: MixtureArguments,
    training: Any,
    phases: Any,
) -> tuple[dict[str, Any], Draws | None]:
    """What is recorded of the order of a run's rows (`data_order`), and how a mixture's rows are drawn in it.

    Of a mixture, rows by kind and the named phases' weights are recorded in place of kinds and item share.

    Raises:
        InputError: the mixture names a phase that the run does not have.
    """
    order = data_order(training, rows, arguments.kinds, arguments.item_share)
    if mixture is None:
        return order, None
    rest = {key: value for key, value in order.items() if key not in ("kinds", "item_share")}
    weights = {phase: dict(by_kind) for phase, by_kind in mixture.weights.items()}
    return rest | {"rows": dict(sizes), "mixture": weights}, mixture.draws(sizes, phases, training.max_steps)


def follow_mixture(mixture: Mixture | None, trunk_data: Mapping[str, Any]) -> Mixture | None:
    """The mixture of an anneal that reads on in its trunk's data: the trunk's weights up to where it branches.

    Args:
        mixture: the anneal's own.
        trunk_data: what the trunk recorded of the order of its data.

    Raises:
        InputError: one of the two has a mixture and the other has none.
    """
    before = trunk_data.get("mixture")
    if (mixture is None) != (before is None):
        which = "has a `mixture` and this anneal none" if mixture is None else "had no `mixture`"
        raise InputError(
            f"`continue_data`: the trunk {which}, so their rows are packed otherwise and cannot be read on; "
            f"{'give one' if mixture is None else 'leave one of the two keys out'}"
        )
    if mixture is None or before is None:
        return None
    return Mixture({name: weights for name, weights in before.items() if name != "anneal"} | dict(mixture.weights))


def before_anneal(order: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded order of data without what only its anneal reads: what a branch must have alike to read on in it."""
    if "mixture" not in order:
        return dict(order)
    weights = {phase: by_kind for phase, by_kind in order["mixture"].items() if phase != "anneal"}
    kinds = Mixture(weights).kinds
    return {**order, "mixture": weights, "rows": {kind: order["rows"].get(kind) for kind in kinds}}


def _check_weights(weights: Any, kinds: Sequence[str] | None, where: str) -> None:
    for kind, weight in weights.items():
        if kinds is not None and kind not in kinds:
            raise InputError(f"{where} names a kind {kind!r}; this corpus has {', '.join(kinds)}")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight < math.inf:
            raise InputError(f"{where}: the weight of {kind} is {weight!r}; give a number, 0 or more")
    if not any(weights.values()):
        raise InputError(f"{where}: no kind has a weight above 0: {dict(weights)}")


def _told(steps: Mapping[str, int]) -> str:
    return " and ".join(f"{n:,} steps of {name}" for name, n in steps.items() if n)
