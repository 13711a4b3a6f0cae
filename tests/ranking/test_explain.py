"""Explanations against brute force: one forward pass a text, items left out by hand."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cprec_hf import cli
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import Template
from cprec_hf.errors import InputError
from cprec_hf.ranking.explain import explain
from cprec_hf.ranking.recommender import Recommender

HISTORY = ["Ga9", "Ga1", "Ga4", "Ga9", "Ga8", "Ga0"]  # the record keeps the last four


def token_log_probs(recommender: Recommender, history: Sequence[str], item: str) -> np.ndarray:
    """The log-probability of each token of the item's line after the history, read alone."""
    title = {row["item_id"]: row["title"] for row in recommender.items.to_pylist() if row["domain"] == "Garden"}
    encoder = Encoder(recommender.tokenizer)
    prefix = encoder.documents([Template().prompt("Garden", [title[i] for i in history])]).row(0)
    line = encoder.segments([f"{title[item]}\n"]).row(0)
    ids = torch.tensor(np.concatenate([prefix, line]).astype(np.int64))
    with torch.no_grad():
        logits = recommender.model(ids[None, :-1], use_cache=False).logits[0].double()
    return logits.log_softmax(-1)[len(prefix) - 1 :].gather(1, ids[len(prefix) :, None])[:, 0].numpy()


def without(history: Sequence[str], place: int) -> list[str]:
    return [item for i, item in enumerate(history) if i != place]


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt_neo"])
@pytest.mark.parametrize("item", ["Ga4", "Ga8", "Ga1"])
def test_tokens_and_contributions_are_those_of_brute_force(
    kind: str, item: str, any_tokenizer: Any, make_recommender: Any
) -> None:
    recommender = make_recommender(any_tokenizer, kind)
    kept = HISTORY[-4:]
    expected = token_log_probs(recommender, kept, item)
    total = expected.sum()
    left_out = np.array([total - token_log_probs(recommender, without(kept, i), item).sum() for i in range(4)])
    prior = token_log_probs(recommender, [], item)
    titles = recommender.titles(kept)
    cases = {"sum": (expected, left_out), "mean": (expected / len(expected), left_out / len(expected))}
    for score, (tokens, contributions) in {**cases, "pmi": (expected - prior, left_out)}.items():
        found = explain(recommender, HISTORY, item, score=score)
        np.testing.assert_allclose(found.token_scores, tokens, atol=1e-4)
        np.testing.assert_allclose(found.contributions, contributions, atol=2e-4)
        assert found.score == pytest.approx(recommender.rank([HISTORY], [[item]], score=score)[0, 0], abs=1e-4)
        assert found.token_scores.sum() == pytest.approx(found.score, abs=1e-4)
        assert (found.item, found.history, found.titles) == (item, kept, titles)
    assert np.abs(left_out).max() > 0.01


def test_the_tokens_texts_are_the_titles_line(any_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(any_tokenizer)
    encoder = Encoder(any_tokenizer)
    for row in recommender.items.to_pylist():
        if row["domain"] != "Garden":
            continue
        found = explain(recommender, [], row["item_id"])
        ids = encoder.segments([f"{row['title']}\n"]).row(0)
        assert "".join(found.tokens) == f"{row['title']}\n" and len(found.tokens) == len(ids)
        whole = [(text, encoder.decode([token])) for text, token in zip(found.tokens, ids, strict=True)]
        assert all(text == alone for text, alone in whole if "\N{REPLACEMENT CHARACTER}" not in alone)


def test_only_what_fits_the_prompt_is_explained(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    made = make_recommender(byte_level_tokenizer, "gpt_neo", max_position_embeddings=90)
    record = dataclasses.replace(made.record, history_length=20)
    recommender = Recommender(made.model, byte_level_tokenizer, record, made.items)
    history = ["Ga1", "Ga4", "Ga9", "Ga6", "Ga2", "Ga8", "Ga11"]
    found = explain(recommender, history, "Ga10")
    assert 0 < len(found.history) < len(history) and history[-len(found.history) :] == found.history
    expected = token_log_probs(recommender, found.history, "Ga10")
    np.testing.assert_allclose(found.token_scores, expected, atol=1e-4)
    assert found.score == pytest.approx(recommender.rank([history], [["Ga10"]])[0, 0], abs=1e-4)
    first = token_log_probs(recommender, found.history[1:], "Ga10")
    assert found.contributions[0] == pytest.approx((expected - first).sum(), abs=2e-4)  # no older item moves up


def test_an_empty_history_contributes_nothing(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    found = explain(recommender, [], "Ga5")
    np.testing.assert_allclose(found.token_scores, token_log_probs(recommender, [], "Ga5"), atol=1e-4)
    assert found.history == [] and found.contributions.shape == (0,)
    assert explain(recommender, [], "Ga5", score="pmi").score == pytest.approx(0, abs=1e-5)
    assert "no item of the history" in found.describe()


def test_the_description_names_what_raised_the_score_most(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    found = explain(make_recommender(byte_level_tokenizer), HISTORY, "Ga4")
    most = np.argsort(-found.contributions)
    found = dataclasses.replace(found, contributions=np.where(np.arange(4) == most[3], -1, found.contributions + 9))
    lines = found.describe(n_items=4).splitlines()
    assert lines[1:4] == [f"  {found.contributions[i]:+.2f}  {found.titles[i]}" for i in most[:3]]
    assert lines[4].startswith("Token by token")  # the one that lowered it is no reason
    assert lines[5:] == [f"  {s:+.2f}  {t!r}" for s, t in zip(found.token_scores, found.tokens, strict=True)]


def test_bad_input_is_said(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    with pytest.raises(InputError, match="score is 'max'"):
        explain(recommender, [], "Ga5", score="max")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no item 'Gb5'"):
        explain(recommender, [], "Gb5")
    listed = dataclasses.replace(recommender.record, candidate_list_in_prompt=True)
    with pytest.raises(InputError, match="candidate_list_in_prompt"):
        explain(Recommender(recommender.model, byte_level_tokenizer, listed, recommender.items), [], "Ga5")


def test_the_command_line_explains_the_best_item(
    byte_level_tokenizer: Any, make_recommender: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    folder = str(recommender.save_pretrained(tmp_path / "model"))
    best = recommender.recommend([HISTORY], k=2, score="pmi")[0][0]
    expected = explain(recommender, HISTORY, best.item_id, score="pmi")
    command = ["recommend", folder, "--history", *HISTORY, "--score", "pmi", "-k", "2", "--explain"]
    assert cli.main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["explanation"]
    assert said["item"] == best.item_id and said["history"] == HISTORY[-4:] and said["tokens"] == expected.tokens
    np.testing.assert_allclose(said["contributions"], expected.contributions, atol=1e-4)
    np.testing.assert_allclose(said["token_scores"], expected.token_scores, atol=1e-4)
    assert said["score"] == pytest.approx(best.score, abs=1e-3)
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert f"Why {best.title}:\nRaised most by" in out and out.splitlines()[-1] == expected.describe().splitlines()[-1]
    assert cli.main(["recommend", folder, "--history", *[f"Ga{n}" for n in range(12)], "--explain"]) == 0
    assert "Why" not in capsys.readouterr().out  # nothing is left to recommend
