"""The recipe key `mixture`: what share of the tokens is of which kind of document, in all phases or phase by phase.

    mixture: {domain: 1, all_domain: 2, items: 0.3}
    mixture: {stable: {domain: 1, all_domain: 1}, anneal: {all_domain: 3, items: 1}}

The numbers are weights, in any scale. Kinds are those of the corpus' documents, and `items` for its item documents. A
phase that is not named has the stable phase's weights. Rows are packed kind by kind, so that each row is of one kind,
and drawn by `MixedOrder`. Without the key, a run reads what the corpus holds as it lies (`data.mixture`); that default,
and that weights count tokens, is our choice: the paper's text fixes neither.

With `domain_temperature: T` a kind's weight is divided among the domains of its documents, as n^(1/T) of their n
tokens: as the corpus has them at T = 1, more and more even above. It is the sampling of multilingual pre-training
(XLM-R, arXiv 1911.02116, and mT5, arXiv 2010.11934, sample languages by n^alpha with alpha = 0.3, T = 3.3; T5, arXiv
1910.10683, calls it temperature-scaled mixing). A domain's documents are then a kind of their own, `domain/books`,
packed alone.
`replay` (`replay.py`) is general text as one more kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.training.arguments import MixtureArguments
from cprec_hf.training.data import document_kinds
from cprec_hf.training.mixed_order import Draws, Weights
from cprec_hf.training.replay import REPLAY, read_replay
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

    def spread(self, parts: Mapping[str, Mapping[str, int]], temperature: float) -> Mixture:
        """The mixture with the weight of some kinds divided among their parts, as n^(1/temperature) of their n tokens.

        Args:
            parts: of those kinds, by name, with their tokens.
            temperature: above 0; may be infinite.
        """

        def divided(kind: str, weight: float) -> dict[str, float]:
            if kind not in parts:
                return {kind: weight}
            most = max(parts[kind].values())  # powers of shares, which neither overflow nor vanish
            sizes = {name: (n / most) ** (1 / temperature) for name, n in parts[kind].items()}
            return {name: weight * size / sum(sizes.values()) for name, size in sizes.items()}

        return Mixture(
            {
                phase: {name: w for kind, weight in weights.items() for name, w in divided(kind, weight).items()}
                for phase, weights in self.weights.items()
            }
        )

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
        InputError: see `read_mixture`; `kinds` or `item_share` beside it; `domain_temperature` or `replay` without it;
            a temperature that is not above 0; `replay` of which the mixture says nothing, or the other way round.
    """
    temperature, replay = arguments.domain_temperature, read_replay(arguments.replay)
    if arguments.mixture is None:
        for key, given in (("domain_temperature", temperature), (REPLAY, replay)):
            if given is not None:
                raise InputError(f"`{key}` has no place without `mixture`, which gives the kinds their weights")
        return None
    if temperature is not None and not temperature > 0:
        raise InputError(f"`domain_temperature` is {temperature}; give a number above 0: 1 leaves domains as they are")
    for key, idle in (("kinds", arguments.kinds is None), ("item_share", not arguments.item_share)):
        if not idle:
            raise InputError(f"`{key}` and `mixture` say the same thing twice; give the weights in `mixture` alone")
    kinds = document_kinds(arguments.corpus, arguments.corpus_revision)
    mixture = read_mixture(arguments.mixture, [*kinds, ITEMS, REPLAY], stage=stage)
    if (REPLAY in mixture.kinds) != (replay is not None):
        missing = "no weight in `mixture`" if replay else "a weight in `mixture` and no key that says what to read"
        raise InputError(f"`replay` has {missing}; give both, or none")
    return mixture


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
    kept = {key: value for key, value in order.items() if key != REPLAY or REPLAY in kinds}
    return {**kept, "mixture": weights, "rows": {kind: order["rows"].get(kind) for kind in kinds}}


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
