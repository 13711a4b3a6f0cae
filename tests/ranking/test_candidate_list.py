"""A model of a corpus whose prompts list their candidates is asked with the very prompts of the corpus."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cprec_hf.behaviors.sources import read_source
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.pseudonyms import pseudonymise
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import Template
from cprec_hf.errors import InputError
from cprec_hf.ranking import scorer as module
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.recipes import from_mapping

Corpora = dict[bool, Path]
SOURCE = {
    "kind": "marketplace", "domains": ["Books"], "unseen": ["Music"], "users": 20, "events_per_user": 6,
    "unseen_users": 60, "unseen_events_per_user": 9, "items_per_domain": 60,
}  # fmt: skip
WINDOWS = {True: 190, False: 110}  # by whether the list is shown: some histories fit whole, others do not


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Corpora:
    """Two small corpora, whose prompts list 4 candidates or do not."""
    folder = tmp_path_factory.mktemp("corpora")
    made = {}
    for shown, window in WINDOWS.items():
        recipe = {
            "source": SOURCE, "output": str(folder / str(shown)), "name": "small", "tokenizer": str(tokenizer_folder),
            "downstream": ["Music"], "window_tokens": window, "max_title_tokens": 24, "history_length": 6,
            "candidates": 4, "candidate_list_in_prompt": shown, "cpt_validation_share": 0.1,
            "split": {"validation_share": 0.2, "test_share": 0.4},
        }  # fmt: skip
        made[shown] = build_corpus(from_mapping(recipe, CorpusConfig, "small"))
    return made


@pytest.fixture(scope="module")
def tokenizer_folder(llama3_style_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer that puts an id before every text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    llama3_style_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(corpora: Corpora, llama3_style_tokenizer: Any, make_recommender: Any) -> Any:
    """`make(shown, **model)`: a recommender over that corpus, its record as a stage would fill it."""

    def recommender(shown: bool, **config: Any) -> Recommender:
        template = load_facts(corpora[shown])["template"]
        model = make_recommender(llama3_style_tokenizer, **config)
        record = dataclasses.replace(
            model.record, domain="Music", history_length=template["history_length"],
            window_tokens=template["window_tokens"], candidate_list_in_prompt=template["candidate_list_in_prompt"],
        )  # fmt: skip
        items = pq.read_table(corpora[shown] / "items" / "train.parquet")
        return Recommender(model.model, llama3_style_tokenizer, record, items)

    return recommender


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Ragged]:
    """The prompts that were scored, call by call."""
    seen, score = [], module.score_candidates

    def noting(model: Any, prefixes: Ragged, *args: Any, **options: Any) -> np.ndarray:
        seen.append(prefixes)
        return score(model, prefixes, *args, **options)

    monkeypatch.setattr(module, "score_candidates", noting)
    return seen


def rows_of(corpus: Path) -> list[dict[str, Any]]:
    return pq.read_table(corpus / "sft-music" / "test.parquet").to_pylist()


def pasts(rows: list[dict[str, Any]]) -> list[list[str]]:
    """All that each row's user had done in Music before, from the logs."""
    events = read_source(SOURCE, "test").interactions.sort("timestamp", "item_id").collect().to_dicts()
    names = sorted({event["user_id"] for event in events})
    pseudonym = dict(zip(names, pseudonymise(names), strict=True))
    mine: dict[str, list[tuple[int, str]]] = {}
    for event in events:
        if event["domain"] == "Music":
            mine.setdefault(pseudonym[event["user_id"]], []).append((event["timestamp"], event["item_id"]))
    return [
        [item for _, item in mine[row["user_id"]][: mine[row["user_id"]].index((row["timestamp"], row["target"]))]]
        for row in rows
    ]


@pytest.mark.parametrize("whole", [False, True], ids=["history of the row", "whole history"])
@pytest.mark.parametrize("shown", [True, False], ids=["list", "no list"])
def test_prompts_are_those_of_the_corpus(
    shown: bool, whole: bool, corpora: Corpora, make: Any, asked: list[Ragged]
) -> None:
    """To the last id, whether the history comes trimmed, as in the row, or as long as the user's log is."""
    recommender, rows = make(shown), rows_of(corpora[shown])
    trimmed, past = [row["history"] for row in rows], pasts(rows)
    assert all(long[-len(short) :] == short for long, short in zip(past, trimmed, strict=True))
    by_window = sum(len(short) < min(6, len(long)) for long, short in zip(past, trimmed, strict=True))
    assert 5 < by_window < len(rows), "the window must trim some histories and leave others whole"
    assert all(row["prompt"].startswith("Candidates:\n") == shown for row in rows)
    recommender.rank(past if whole else trimmed, [row["candidates"] for row in rows])
    expected = Encoder(recommender.tokenizer).documents([row["prompt"] for row in rows])
    assert [asked[0].row(i).tolist() for i in range(len(rows))] == [expected.row(i).tolist() for i in range(len(rows))]


def test_scores_are_those_after_the_prompt_s_text(corpora: Corpora, make: Any) -> None:
    recommender, rows = make(True), rows_of(corpora[True])[:4]
    titles = {row["item_id"]: row["title"] for row in recommender.items.to_pylist() if row["domain"] == "Music"}
    histories, candidates = [row["history"] for row in rows], [row["candidates"] for row in rows]
    total = [[log_probability(recommender, r["prompt"], titles[c]) for c in r["candidates"]] for r in rows]
    np.testing.assert_allclose(recommender.rank(histories, candidates), total, atol=1e-4)
    nothing = [Template().prompt("Music", [], [titles[c] for c in row["candidates"]]) for row in rows]
    prior = [
        [log_probability(recommender, text, titles[c]) for c in r["candidates"]]
        for text, r in zip(nothing, rows, strict=True)
    ]
    pmi = recommender.rank(histories, candidates, score="pmi")
    np.testing.assert_allclose(pmi, np.subtract(total, prior), atol=2e-4)
    assert np.abs(pmi).max() > 0.1

    turned = recommender.rank(histories, [row[::-1] for row in candidates])  # the list is read in the order given
    assert np.abs(turned[:, ::-1] - total).max() > 0.01


def test_a_whole_catalogue_is_no_list(make: Any) -> None:
    with pytest.raises(InputError, match=r"this model needs candidates: .* use `rank`"):
        make(True).recommend([[]])
    assert len(make(False).recommend([[]], k=3)[0]) == 3


def test_a_list_that_leaves_no_room_is_said(corpora: Corpora, make: Any) -> None:
    items = pq.read_table(corpora[True] / "items" / "train.parquet").to_pylist()
    music = [row["item_id"] for row in items if row["domain"] == "Music"]
    with pytest.raises(InputError, match=r"list of 40 candidates with the header \d+, more than the 190 .*give fewer"):
        make(True).rank([[]], [music[:40]])
    with pytest.raises(InputError, match=r"list of 4 candidates with the header \d+, more than the 51 "):
        make(True, max_position_embeddings=50).rank([[]], [music[:4]])
    assert make(False).rank([[]], [music[:40]]).shape == (1, 40)


def test_a_record_that_does_not_know_the_window_trims_by_the_model_alone(
    corpora: Corpora, make: Any, asked: list[Ragged]
) -> None:
    known, row = make(False), max(rows_of(corpora[False]), key=lambda row: len(row["prompt"]))
    record: ModelRecord = dataclasses.replace(known.record, window_tokens=None)
    music = [r["item_id"] for r in known.items.to_pylist() if r["domain"] == "Music"]
    history = [item for item in music if item not in row["candidates"]][:6]
    for recommender in (known, Recommender(known.model, known.tokenizer, record, known.items)):
        recommender.rank([history], [row["candidates"]])
    assert asked[0].lengths[0] < WINDOWS[False] < asked[1].lengths[0]


def log_probability(recommender: Recommender, prompt: str, title: str) -> float:
    """Of the title's line after the prompt, from text, in a forward pass of its own."""
    encoder = Encoder(recommender.tokenizer)
    before, line = encoder.documents([prompt]).row(0), encoder.segments([title + "\n"]).row(0)
    ids = torch.tensor(np.concatenate([before, line]).astype(np.int64))
    with torch.no_grad():
        predicted = recommender.model(ids[None, :-1], use_cache=False).logits[0].double().log_softmax(-1)
    return predicted[len(before) - 1 :].gather(1, ids[len(before) :, None]).sum().item()
