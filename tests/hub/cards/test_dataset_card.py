"""The corpus card: metadata that loads the data, each fact in the text, a recipe that reads back; text stays text."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from markdown_it import MarkdownIt

from cards.facts import body, corpus_facts, elements, hostile, key_paths, metadata, names
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.hub.dataset_card import recipe_of, render_dataset_card
from cprec_hf.hub.markdown import one_line
from cprec_hf.recipes import from_mapping


def recipe_on(card: str) -> dict[str, Any]:
    """The block of YAML as a renderer shows it."""
    (shown,) = [token.content for token in MarkdownIt().parse(body(card)) if token.info == "yaml"]
    return yaml.safe_load(shown)


def test_the_card_offers_the_splits_that_have_rows() -> None:
    data = metadata(render_dataset_card(corpus_facts()))
    assert data["configs"] == [
        {"config_name": "cpt", "data_files": [{"split": "train", "path": "cpt/train.parquet"}], "default": True},
        {"config_name": "items", "data_files": [{"split": "train", "path": "items/train.parquet"}]},
        {
            "config_name": "sft-toys-games",
            "data_files": [
                {"split": "train", "path": "sft-toys-games/train.parquet"},
                {"split": "test", "path": "sft-toys-games/test.parquet"},
            ],
        },
    ]
    assert data["license"] == "cc-by-4.0" and data["size_categories"] == ["n<1K"]


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (10**7, "10M<n<100M")])
def test_size_categories_are_those_of_the_hub(rows: int, size: str) -> None:
    facts = {**corpus_facts(), "counts": {"cpt": {"train": rows}}}
    assert metadata(render_dataset_card(facts))["size_categories"] == [size]


def test_load_dataset_reads_a_folder_by_its_card(tmp_path: Path) -> None:
    from datasets import load_dataset

    facts = corpus_facts()
    folder = tmp_path / "corpus"
    for config, splits in facts["counts"].items():
        (folder / config).mkdir(parents=True)
        for split, rows in splits.items():
            pq.write_table(pa.table({"text": [f"{config} {split}"] * rows}), folder / config / f"{split}.parquet")
    (folder / "README.md").write_text(render_dataset_card(facts), encoding="utf-8")
    (folder / "cprec-corpus.json").write_text(json.dumps(facts))
    loaded = {config: load_dataset(str(folder), config, cache_dir=str(tmp_path / "c")) for config in facts["counts"]}
    rows = {config: {split: rows.num_rows for split, rows in splits.items()} for config, splits in loaded.items()}
    assert rows == {"cpt": {"train": 3}, "items": {"train": 2}, "sft-toys-games": {"train": 2, "test": 1}}
    assert loaded["sft-toys-games"]["test"]["text"][0] == "sft-toys-games test"


@pytest.mark.parametrize(
    "said",
    [
        "| Toys &amp; Games (unlike Arts) | downstream | 1,200 | 30 | 6,000 | 5 |",
        "| domain | what one user did in one domain | 9,876 |",
        "| items | an item's own text, without any behaviour (config `items`) | 54 |",
        "| no leak | yes | 12,345 | Toys &amp; Games |",
        "| interactions: read | 10 | 9 | Toys &amp; Games: 1 |",
        "- validation begins at 2023-11-14 22:13:20 UTC",
        "- test begins at 2024-03-09 16:00:00 UTC",
        "Each validation and test row has 20\ncandidates",
        "`" + "ab" * 32 + "`",
        "`" + "cd" * 32 + "`",
        "3 titles were cut, which made 2 items share another's title.",
        'load_dataset("path/or/repo-id", "sft-toys-games")',
        "Toys &amp; Games: CC BY 4.0.\n\n```text\nToys & Games\n```",
        "cprec corpus build corpus.yaml` (cprec_hf 0.1.0)",
    ],
)
def test_the_card_says_its_facts(said: str) -> None:
    assert said in render_dataset_card(corpus_facts())


def test_what_was_not_recorded_is_not_said() -> None:
    card = render_dataset_card(corpus_facts())
    for unknown in ("Privacy", "90 %", "documents |", "None"):
        assert unknown not in card
    assert "filters, the shares of the split and limits on users\nare not among it" in card


def test_what_was_recorded_in_addition_is_said() -> None:
    facts = {**corpus_facts(), "documents": {"domain": 77}, "pseudonymised": True}
    facts["domains"]["Arts"]["lengths"] = {"median": 4, "p90": 11, "max": 1234}
    card = render_dataset_card(facts)
    assert "| Arts | cpt | 1,200 | 30 | 6,000 | 5 | 4 | 11 | 1,234 |" in card
    assert "| domain | what one user did in one domain | 77 | 9,876 |" in card
    assert "User ids are keyed hashes" in card
    assert "User ids are those of the source" in render_dataset_card({**facts, "pseudonymised": False})


def test_positions_and_sources_that_may_not_be_redistributed() -> None:
    facts = corpus_facts()
    facts["about"] |= {"order": "position", "redistributable": False, "licence": "Research only; see the site"}
    card = render_dataset_card({**facts, "split": {"policy": "leave_one_out", "cuts": None}})
    assert "last event tests" in card and " UTC" not in card
    assert "Research only; see the site. Texts made from this source may not be redistributed." in card
    assert metadata(card)["license_name"] == "research-only-see-the-site"


def test_the_code_loads_the_repo_it_was_pushed_to() -> None:
    card = render_dataset_card(corpus_facts(), repo_id="user/corpus")
    assert card.count('load_dataset("user/corpus", ') == 3 and "path/or/repo-id" not in card
    assert "path/or/repo-id" in render_dataset_card(corpus_facts(), repo_id="../no repo")


def test_the_recipe_names_files_and_no_folders() -> None:
    facts = corpus_facts()
    facts["tokenizer"] = "/home/someone/weights/qwen"
    facts["source"]["more"] = {"path": "${DATA}/someone/x.csv", "hub": "hf://datasets/a/b/c.parquet"}
    facts["source"]["more"] |= {"dataset": "me/my-logs"}
    recipe = recipe_of(facts)
    source = recipe["source"]
    assert source["more"].pop("dataset") == "me/my-logs"
    assert (source["interactions"], source["items"]) == ("place.csv", ["a.csv", "items.csv"])
    assert source["more"] == {"path": "${DATA}/x.csv", "hub": "hf://datasets/a/b/c.parquet"}
    assert (recipe["tokenizer"], recipe["output"]) == ("qwen", "corpus")
    assert "someone" not in render_dataset_card(facts)


@given(names)
@settings(max_examples=40)
def test_the_recipe_on_the_card_reads_back_as_a_recipe(text: str) -> None:
    card = render_dataset_card(corpus_facts(text))
    assert recipe_on(card) == recipe_of(corpus_facts(text))
    config = from_mapping(recipe_on(card), CorpusConfig, "the card")
    assert (config.name, config.candidates, config.max_title_tokens, config.seed) == (text, 20, 24, 7)
    assert config.downstream == [f"{text} (unlike Arts)"] and config.split.policy == "time"


def test_a_recorded_recipe_is_shown_whole() -> None:
    whole = recipe_of(corpus_facts()) | {"filters": {"min_user_interactions": 5}, "output": "/home/someone/out"}
    card = render_dataset_card({**corpus_facts(), "recipe": whole})
    assert recipe_on(card) == {**whole, "output": "corpus"}
    assert "are not among it" not in card


def test_a_recipe_of_python_values_is_plain_yaml() -> None:
    domains = ["Music"]
    whole = recipe_of(corpus_facts()) | {"downstream": domains, "sequences": ("domain", "all_domain")}
    whole["source"] = {**whole["source"], "domains": domains}
    card = render_dataset_card({**corpus_facts(), "recipe": whole})
    assert recipe_on(card)["sequences"] == ["domain", "all_domain"] and "&id" not in card


@given(hostile)
@settings(max_examples=40)
def test_hostile_text_stays_text(text: str) -> None:
    ours = render_dataset_card(corpus_facts())
    theirs = render_dataset_card(corpus_facts(text), repo_id=text)
    assert elements(theirs) == elements(ours)
    assert key_paths(metadata(theirs)) == key_paths(metadata(ours))
    assert metadata(theirs) == {**metadata(ours), "pretty_name": one_line(text)}
