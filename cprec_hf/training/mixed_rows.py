"""The rows of a trunk or an anneal, packed, and how they are drawn: the corpus as it lies, or a mixture's kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.training.arguments import MixtureArguments
from cprec_hf.training.data import cpt_rows, document_domains, item_rows
from cprec_hf.training.data import mixture as natural_mixture
from cprec_hf.training.mixed_order import Draws
from cprec_hf.training.mixture import ITEMS, Mixture
from cprec_hf.training.packing import row_lengths
from cprec_hf.training.replay import REPLAY, read_replay, replay_rows
from cprec_hf.training.stage import data_order, prepare_rows


@dataclass(frozen=True)
class TrainingRows:
    """What a trunk or an anneal trains on."""

    rows: datasets.Dataset
    """Packed, those of a mixture's kinds one kind after another."""
    mixture: Mixture | None = None
    """With the weights of the kinds that are in `sizes`; None for the corpus as it lies."""
    sizes: Mapping[str, int] | None = None
    """Rows of each kind of the mixture."""
    replay: dict[str, Any] | None = None
    """What was read for `replay`, for the record."""

    def draws(self, phases: Any, steps: int) -> Draws | None:
        """How a mixture's rows are drawn in a run of so many steps; None without a mixture.

        Raises:
            InputError: the mixture names a phase that the run does not have.
        """
        return None if self.mixture is None else self.mixture.draws(self.sizes or {}, phases, steps)


def training_rows(
    mixture: Mixture | None,
    arguments: MixtureArguments,
    facts: Mapping[str, Any],
    encoder: Encoder,
    model: Any,
    training: Any,
) -> TrainingRows:
    """What a trunk or an anneal trains on, checked against the model and packed (`prepare_rows`).

    Args:
        mixture: whose kinds lie one after another, each packed alone; None for the corpus as it lies.
        arguments: name the corpus, and without a mixture `kinds` and `item_share`; with one maybe `domain_temperature`,
            by which kinds are divided among their domains, and `replay`.
        facts: of the corpus.
        encoder: the model's.
        model: that will read the rows.
        training: gives `max_length`, `packing` and the seed.

    Raises:
        InputError: see `prepare_rows`, `cpt_rows`, `mix_in` and `replay_rows`; or an anneal that reads on in a trunk's
            mixture and does not say what its `replay` was; or a temperature, and no kind with documents of one domain.
    """
    corpus, revision = arguments.corpus, arguments.corpus_revision
    if mixture is None:
        rows = natural_mixture(corpus, revision, encoder, arguments.kinds, arguments.item_share, training.seed)
        return TrainingRows(prepare_rows(rows, model, training, split_long=True, where=f"{corpus} cpt/train"))
    slugs = {domain: about["slug"] for domain, about in facts["domains"].items()}
    domain_of = {slug: domain for domain, slug in slugs.items()}
    replayed, parts = None, {}
    divided: dict[str, list[str]] = {}
    if arguments.domain_temperature is not None:
        for kind in {*mixture.kinds} - {ITEMS, REPLAY}:
            divided[kind] = [f"{kind}/{slugs[domain]}" for domain in document_domains(corpus, revision, kind)]
        if not any(divided.values()):
            raise InputError(
                f"`domain_temperature` has no place here: no documents of {', '.join(mixture.kinds)} are of one domain"
            )
    for name in dict.fromkeys(name for kind in mixture.kinds for name in divided.get(kind) or [kind]):
        kind, _, slug = name.partition("/")
        if name == ITEMS:
            rows, where = item_rows(corpus, revision, encoder), f"{corpus} items"
        elif name == REPLAY:
            replay = read_replay(arguments.replay)
            if replay is None:
                raise InputError("`continue_data`: the trunk read a `replay`; give the same key to read on in it")
            (rows, replayed), where = replay_rows(replay, encoder), f"`replay`: {replay.dataset}"
        else:
            rows = cpt_rows(corpus, revision, encoder, [kind], domain=domain_of.get(slug))
            where = f"{corpus} cpt/train, {name}"
        parts[name] = prepare_rows(rows, model, training, split_long=True, where=where)
    if arguments.domain_temperature is not None:
        tokens = {name: int(row_lengths(part).sum()) for name, part in parts.items()}
        shared = {kind: {name: tokens[name] for name in names} for kind, names in divided.items() if names}
        mixture = mixture.spread(shared, arguments.domain_temperature)
    sizes = {name: len(part) for name, part in parts.items()}
    return TrainingRows(datasets.concatenate_datasets([*parts.values()]), mixture, sizes, replayed)


def order_and_draws(
    data: TrainingRows, arguments: MixtureArguments, training: Any, phases: Any
) -> tuple[dict[str, Any], Draws | None]:
    """What is recorded of the order of a run's rows (`data_order`), and how a mixture's rows are drawn in it.

    Of a mixture, rows by kind and the named phases' weights are recorded in place of kinds and item share.

    Raises:
        InputError: the mixture names a phase that the run does not have.
    """
    order = data_order(training, len(data.rows), arguments.kinds, arguments.item_share)
    if data.mixture is None:
        return order, None
    rest = {key: value for key, value in order.items() if key not in ("kinds", "item_share")}
    weights = {phase: dict(by_kind) for phase, by_kind in data.mixture.weights.items()}
    rest |= {"rows": dict(data.sizes or {}), "mixture": weights} | ({REPLAY: data.replay} if data.replay else {})
    return rest, data.draws(phases, training.max_steps)
