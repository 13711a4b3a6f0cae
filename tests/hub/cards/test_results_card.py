"""The card of a report: its table, metadata that loads every user's values, hostile names as text."""

from typing import Any, get_args

import pytest
from hypothesis import given, settings

from cards.facts import elements, key_paths, metadata, names, results_json
from cprec_hf.evaluation.config import Kind
from cprec_hf.hub.markdown import one_line
from cprec_hf.hub.results_card import render_results_card


@pytest.mark.parametrize(
    "said",
    [
        "# CPRec: test split of CPRec",
        "| method | what it is | hr@1 \\[95 % interval\\] | ndcg@10 \\[95 % interval\\] | n | gain in hr@1 (p) | gain",
        "| **CPRec** | language model: rec, score pmi | 0.400 \\[0.350, 0.450\\] | 0.400 \\[0.350, 0.450\\] | 1,158 | "
        "\\+0.300 (&lt; .001) |",
        "| popularity | most taken first | 0.100 \\[0.050, 0.150\\] | 0.100 \\[0.050, 0.150\\] | 1,158 | reference |",
        "| latent | ceiling: knows the simulated users' tastes |",
        "hr@1 by chance: 0.05",
        "Gains are over popularity,",
        "from 10,000 resamples",
        'load_dataset("user/results", split="test")',
        "- Corpus: user/corpus at commit `" + "a" * 40 + "`, content SHA-256 `" + "cd" * 32 + "`",
        "1,160 rows of 1,158 users; candidates out of 2,000 items",
        "](comparison.png)",
    ],
)
def test_the_card_says_its_facts(said: str) -> None:
    assert said in render_results_card(results_json(), repo_id="user/results")


@pytest.mark.parametrize("kind", get_args(Kind))
def test_the_card_says_what_each_kind_is(kind: str) -> None:
    results = results_json()
    results["methods"][1]["kind"] = kind
    (row,) = [line for line in render_results_card(results).splitlines() if line.startswith("| popularity |")]
    what = row.split("|")[2].strip()
    assert what and what != one_line(kind) and "_" not in what  # in words, not by its name in recipes


def test_the_metadata_loads_every_users_values() -> None:
    (config,) = metadata(render_results_card(results_json()))["configs"]
    assert config["data_files"] == [{"split": "test", "path": "per_user.parquet"}] and config["default"] is True


def test_what_is_not_there_is_not_said() -> None:
    results: dict[str, Any] = results_json(location="/home/someone/corpus", revision=None) | {"reference": {}}
    card = render_results_card(results)
    for absent in ("gain in", "Gains", "reference", "losses.png", "reliability.png", "someone", " at commit", "None"):
        assert absent not in card
    assert "- Corpus: corpus, content" in card and 'load_dataset("path/or/repo-id"' in card
    assert "`losses.png`" in render_results_card(results | {"curves": ["outputs/cpt"]})
    results["methods"][0]["calibration"] = {}
    assert "- `reliability.png`: how often" in render_results_card(results)


@given(names)
@settings(max_examples=40)
def test_hostile_names_stay_text(text: str) -> None:
    def card(text: str) -> str:
        results = results_json(text, location=f"/{text}/x", revision=text, content_sha256=text)
        results["methods"][0] |= {"name": f"a {text}", "model": f"/{text}/x", "revision": text}
        results["reference"] = dict.fromkeys(results["reference"], f"a {text}")
        return render_results_card(results | {"versions": {text: text}}, repo_id=text)

    assert elements(card(text)) == elements(card("plain"))
    assert key_paths(metadata(card(text))) == key_paths(metadata(card("plain")))
    assert metadata(card(text))["pretty_name"] == one_line(f"{text}, test split of {text}: results")
