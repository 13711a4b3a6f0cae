"""Models as methods of an evaluation: checked before any scoring, opened when their turn comes.

A folder or repo with a record and items is one of ours, and ranks as it was trained to. One with neither is a plain
language model: it ranks zero-shot, with the template, the sizes and the items of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cprec_hf.corpus.record import FILENAME, ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.baselines import choose
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.kept import Kept
from cprec_hf.evaluation.rows import Rows, Score
from cprec_hf.hub.files import local_path

if TYPE_CHECKING:
    from cprec_hf.ranking.generate import Answers
    from cprec_hf.ranking.recommender import Recommender


def check_model(method: MethodConfig, config: EvaluateConfig, wanted: pa.Array) -> None:
    """Check that a model is there, whole, and knows the items it will rank; of a repo, this downloads it.

    Args:
        method: of kind model, generate or pointwise.
        config: the evaluation.
        wanted: ids of the domain's items in histories and candidates, string [n].

    Raises:
        InputError: it is not; the message names the method.
    """
    from cprec_hf.ranking.catalogue import ITEMS_FILE, read_items
    from cprec_hf.ranking.loading import check_weights

    assert method.model is not None
    try:
        if not is_plain(method.model, method.revision):
            ModelRecord.load(method.model, method.revision)
            items = read_items(local_path(method.model, ITEMS_FILE, method.revision))
            ids = items.filter(pc.equal(items["domain"], config.domain))["item_id"].combine_chunks()
            unknown = wanted.filter(pc.invert(pc.is_in(wanted, value_set=ids.cast(wanted.type))))
            if len(unknown):
                raise InputError(
                    f"{method.model} lacks {len(unknown):,} of the {len(wanted):,} items of {config.domain!r} that are "
                    f"ranked, {unknown[0].as_py()!r} first; it was made with another corpus than {config.corpus}"
                )
        check_weights(method.model, method.revision)
    except InputError as error:
        raise InputError(f"method {method.name!r}: {error}") from None


def check_embedder(method: MethodConfig) -> None:
    """Check that a language model or encoder is there, whole; of a repo, this downloads it.

    Raises:
        InputError: it is not; the message names the method.
    """
    from cprec_hf.ranking.loading import check_weights

    assert method.model is not None
    try:
        check_weights(method.model, method.revision)
    except InputError as error:
        raise InputError(f"method {method.name!r}: {error}") from None


@dataclass(frozen=True)
class TitleScore:
    """The setting that `score: validation` chooses."""

    score: Literal["sum", "mean", "pmi"]
    """See `Recommender.rank`."""


SCORE_GRID = [TitleScore("sum"), TitleScore("mean"), TitleScore("pmi")]


def model_scorer(
    method: MethodConfig, config: EvaluateConfig, validation: Callable[[], Rows]
) -> tuple[Score, dict[str, Any]]:
    """What scores rows by a model (of kind pointwise: yes against no), and the model's record.

    Args:
        method: of kind model or pointwise.
        config: the evaluation.
        validation: gives the rows on which `score: validation` chooses, by ndcg at the last cut-off.

    Raises:
        InputError: it cannot be loaded; and when it scores, that it cannot rank the rows.
    """
    recommender = _open(method, config)
    record = {"record": asdict(recommender.record)}
    if method.kind == "pointwise":
        from cprec_hf.ranking.pointwise import pointwise_scores

        def asked(rows: Rows) -> np.ndarray:
            histories = rows.table["history"].to_pylist()
            return pointwise_scores(recommender, histories, rows.candidate_ids, domain=config.domain)

        return asked, record
    if method.score != "validation":
        return _ranker(recommender, config.domain, method.score), record
    rows = validation()
    kept = _by_every_score(recommender, config.domain, rows)
    setting, choice = choose(SCORE_GRID, lambda s, part: kept[s.score](part), rows, max(config.k))
    chosen = _ranker(recommender, config.domain, setting.score)
    known = kept[setting.score]
    return lambda part: known(part) if part.split == rows.split else chosen(part), {**record, **choice}


def _ranker(recommender: Recommender, domain: str, by: Literal["sum", "mean", "pmi"]) -> Score:
    def score(rows: Rows) -> np.ndarray:
        histories = rows.table["history"].to_pylist()
        if not rows.whole:
            return recommender.rank(histories, rows.candidate_ids, domain=domain, score=by)
        return recommender.rank(histories, None, domain=domain, score=by)[:, _places(recommender, domain, rows)]

    return score


def _by_every_score(recommender: Recommender, domain: str, rows: Rows) -> dict[str, Kept]:
    """The rows' scores by sum, mean and pmi, of one reading."""
    from cprec_hf.ranking.by_score import SCORES, rank_by_scores

    found: dict[str, list[np.ndarray]] = {by: [] for by in SCORES}
    for block in rows.blocks():
        offered = None if rows.whole else block.candidate_ids
        scores = rank_by_scores(recommender, block.table["history"].to_pylist(), offered, domain)
        place = _places(recommender, domain, rows) if rows.whole else slice(None)
        for by in SCORES:
            found[by].append(scores[by][:, place])
    return {by: Kept.of({rows.split: (rows, np.concatenate(parts))}) for by, parts in found.items()}


def _places(recommender: Recommender, domain: str, rows: Rows) -> np.ndarray:
    """Where each item of a whole catalogue stands among the recommender's items of the domain."""
    known = recommender.items.filter(pc.equal(recommender.items["domain"], domain))["item_id"]
    wanted = pa.array(rows.candidate_ids[0])
    return pc.index_in(wanted, value_set=known.combine_chunks().cast(wanted.type)).to_numpy()


def answers_of_model(method: MethodConfig, config: EvaluateConfig, rows: Rows) -> tuple[Answers, dict[str, Any]]:
    """What a model writes for each row, matched with its candidates, and the model's record.

    Raises:
        InputError: it cannot be loaded, or cannot read these rows.
    """
    from cprec_hf.ranking.generate import generate_and_match

    recommender = _open(method, config)
    histories = rows.table["history"].to_pylist()
    answers = generate_and_match(recommender, histories, rows.candidate_ids, domain=config.domain)
    return answers, {"record": asdict(recommender.record)}


def _open(method: MethodConfig, config: EvaluateConfig) -> Recommender:
    from cprec_hf.ranking.recommender import Recommender

    assert method.model is not None
    if is_plain(method.model, method.revision):
        return Recommender.zero_shot(method.model, config.corpus, method.revision, config.corpus_revision)
    return Recommender.from_pretrained(method.model, revision=method.revision)


def is_plain(model: str, revision: str | None) -> bool:
    """Whether a folder or repo has neither the record nor the items of a model of ours. Raises nothing."""
    from cprec_hf.ranking.catalogue import ITEMS_FILE

    for name in (FILENAME, ITEMS_FILE):
        try:
            local_path(model, name, revision)
        except InputError:
            continue
        return False
    return True
