"""Cards: metadata that parses back and loads the data, facts that stand in the text, hostile names that stay text."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cprec_hf.hub.cards import render_dataset_card, render_model_card
from cprec_hf.hub.markdown import one_line

HOSTILE = "x\n---\ny: {{ 7*7 }} {% raw %} <script>alert(1)</script> | `c` ``` [l](u) #\n- *b* \\"
names = st.one_of(st.just(HOSTILE), st.text(min_size=1, max_size=30).filter(one_line))


def corpus_facts(name: str = "tiny", domain: str = "Toys & Games", reason: str = "duplicate") -> dict[str, Any]:
    counts = {"users": 1200, "items": 30, "interactions": 6000}
    return {
        "format": 1,
        "name": name,
        "template": {
            "version": "1", "max_title_tokens": 24, "history_length": 20, "window_tokens": 256,
            "candidate_list_in_prompt": False,
        },
        "tokenizer": "tokenizer",
        "about": {
            "name": name, "licence": "CC BY 4.0", "citation": f"@misc{{x,\n  title={{{name}}}}}", "order": "time",
            "redistributable": True,
        },
        "source": {"kind": "table", "interactions": "/home/someone/secret/place.csv"},
        "domains": {
            "Arts": {**counts, "slug": "arts", "role": "cpt"},
            domain: {**counts, "slug": "toys-games", "role": "downstream"},
        },
        "split": {"policy": "time", "cuts": {"validation": 1_700_000_000, "test": 1_710_000_000}},
        "candidates": {"count": 20, "sha256": "ab" * 32},
        "content_sha256": "cd" * 32,
        "account": [{"name": "interactions: read", "rows_in": 10, "rows_out": 9, "refused": {reason: 1}}],
        "audit": [{"check": "no leak", "passed": True, "n": 12345, "detail": reason}],
        "counts": {
            "cpt": {"train": 3, "validation": 0},
            "items": {"train": 2},
            "sft-toys-games": {"train": 2, "test": 1},
        },
        "tokens": {"domain": 9876},
        "titles": {"cut": 3, "collisions": 2},
        "seed": 7,
        "cprec_hf": "0.1.0",
    }  # fmt: skip


def model_facts(name: str = "rec", domain: str | None = "Toys & Games", **more: Any) -> dict[str, Any]:
    record = {
        "format": 1, "stage": "sft", "base": "user/base", "template_version": "1", "max_title_tokens": 24,
        "history_length": 20, "domain": domain, "corpus": "user/corpus", "corpus_revision": "a" * 40,
        "corpus_hash": "cd" * 32, "schedule": {"type": "wsa", "warmup": 10}, "tokens": 123456, "seed": 0,
        "parents": ["user/base", "user/cpt"], "candidate_list_in_prompt": False, "window_tokens": 256,
    }  # fmt: skip
    return {"record": {**record, **more.pop("record", {})}, "model_name": name, **more}


def tags(card: str) -> list[str]:
    body = card.split("\n---\n", 1)[1]
    return re.findall(r"<(\w+)", MarkdownIt("commonmark", {"html": True}).enable("table").render(body))


def test_the_corpus_card_offers_the_splits_that_have_rows() -> None:
    data = DatasetCard(render_dataset_card(corpus_facts())).data.to_dict()
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


def test_the_corpus_card_says_its_facts() -> None:
    card = render_dataset_card(corpus_facts())
    for said in (
        "| Toys &amp; Games | downstream | 1,200 | 30 | 6,000 | 5 |",
        "| no leak | yes | 12,345 | duplicate |",
        "| interactions: read | 10 | 9 | duplicate: 1 |",
        "validation begins at 2023-11-14 22:13:20 UTC",
        "test begins at 2024-03-09 16:00:00 UTC",
        "`" + "ab" * 32 + "`",
        "`" + "cd" * 32 + "`",
        "3 titles were cut",
        'load_dataset("path/or/repo-id", "sft-toys-games")',
        "    title={tiny}}".removeprefix("  "),
    ):
        assert said in card, said
    assert "/home/" not in card and "Privacy" not in card
    assert "keyed hashes" in render_dataset_card({**corpus_facts(), "pseudonymised": True})
    positions = corpus_facts()
    positions["about"]["order"], positions["split"] = "position", {"policy": "leave_one_out", "cuts": None}
    assert "last event tests" in render_dataset_card(positions)
    positions["about"] |= {"redistributable": False, "licence": "Research only; see the site"}
    data = DatasetCard(card := render_dataset_card(positions)).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "research-only-see-the-site")
    assert "may not be redistributed" in card


@given(names, names, names)
def test_hostile_names_in_a_corpus_stay_text(name: str, domain: str, reason: str) -> None:
    domain = domain + " (unlike Arts)"
    hostile, plain = render_dataset_card(corpus_facts(name, domain, reason)), render_dataset_card(corpus_facts())
    assert DatasetCard(hostile).data.to_dict() == {**DatasetCard(plain).data.to_dict(), "pretty_name": one_line(name)}
    assert tags(hostile) == tags(plain)


@given(names, names)
def test_hostile_names_of_a_model_stay_text(name: str, domain: str) -> None:
    results = [{"domain": domain, "metric": name, "value": 0.5, "low": 0.4, "high": 0.6, "n": 10}]
    hostile = render_model_card(model_facts(name, domain, results=results, training={name: name}))
    plain = render_model_card(
        model_facts(results=[{"domain": "d", "metric": "hr@1", "value": 1, "n": 2}], training={"a": "b"})
    )
    assert DatasetCard(hostile).data.to_dict() == DatasetCard(plain).data.to_dict()
    assert tags(hostile) == tags(plain)


def test_the_model_card_says_its_facts() -> None:
    what = {"domain": "Toys & Games", "split": "test", "metric": "hr@1"}
    results = [{**what, "value": 0.336, "low": 0.31, "high": 0.36, "n": 1000}]
    card = render_model_card(model_facts(repo_id="user/rec", results=results, training={"steps": 60, "skipped": None}))
    for said in (
        'Recommender.from_pretrained("user/rec")',
        'domain = "Toys & Games"',
        "user/corpus at commit `" + "a" * 40 + "`",
        "| Toys &amp; Games | test | hr@1 | 0.336 | 0.31 to 0.36 | 1,000 |",
        "| warmup | 10 |",
        "| steps | 60 |",
        "123,456 tokens",
        "the base first: user/base, user/cpt",
    ):
        assert said in card, said
    assert "skipped" not in card
    data = ModelCard(card).data.to_dict()
    assert data == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "base_model": "user/base",
        "datasets": ["user/corpus"],
        "tags": ["cprec", "recommendation", "sequential-recommendation", "sft"],
    }  # fmt: skip
    assert ModelCard(render_model_card(model_facts(adapter=True))).data.library_name == "peft"
    assert "recommender.domains[0]" in render_model_card(model_facts(domain=None, record={"stage": "cpt"}))


def test_no_local_path_stands_in_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    record = {"base": "outputs/base", "corpus": str(tmp_path / "corpus"), "corpus_revision": None}
    record["parents"] = [str(tmp_path / "base"), "C:\\Users\\someone\\cpt"]
    card = render_model_card(model_facts(record=record, repo_id=str(tmp_path), training={"at": str(tmp_path / "run")}))
    assert str(tmp_path) not in card and "Users" not in card and "someone" not in card
    data = ModelCard(card).data.to_dict()
    assert "base_model" not in data and "datasets" not in data
    assert 'from_pretrained("path/to/this/folder")' in card and "Corpus: corpus, content" in card


@pytest.mark.parametrize("shown", [False, True])
def test_the_code_of_a_model_card_is_python_whatever_the_domain(shown: bool) -> None:
    for domain in (HOSTILE, 'quote " and \\', "\u2028", None):
        card = render_model_card(model_facts(domain=domain, record={"candidate_list_in_prompt": shown}))
        assert ("recommender.rank(" in card, "recommender.recommend(" in card) == (shown, not shown)
        (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.S | re.M)
        tree = compile(code, "card", "exec")
        assert domain is None or domain in tree.co_consts
