"""`recipes/paper/`, end to end: raw files in the published layouts, corpus, audit, and every stage for a few steps.

The source section of the recipe is used as it is; only sizes and steps are smaller.
"""

import gzip
import json
import random
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml

from cprec_hf import cli
from cprec_hf.recipes import read_yaml, shipped

CATEGORIES = read_yaml(shipped("recipes") / "paper" / "corpus.yaml")["source"]["sources"][0]["categories"]
UNSEEN = ["Arts", "Scientific", "Instruments", "Food", "Cartoon"]
WORDS = ["red", "blue", "steel", "oak", "tiny", "loud", "soft", "old", "new", "round", "café", "&amp; co"]
USERS, ITEMS = 60, 12
STEPS = {"max_steps": 4, "warmup_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
SMALLER = {
    "corpus": {"tokenizer": {"vocab_size": 400}, "window_tokens": 96, "max_title_tokens": 10, "candidates": 7}
    | {"filters": {"min_user_interactions": 3}},
    "base": {"max_steps": 4, "warmup_steps": 1, "hidden_size": 32, "intermediate_size": 64},
    "cpt": {**STEPS, "save_steps": 2},
    "anneal": {"anneal_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
    "sft": {**STEPS, "eval_steps": 2, "probe_users": 8},
    "evaluate": {"k": [1, 5]},
}


def write_amazon(folder: Path, draw: random.Random) -> None:
    folder.mkdir()
    for number, category in enumerate(CATEGORIES):
        items = [f"B{number}{i:03d}" for i in range(ITEMS)]
        meta = [
            {
                "main_category": category, "title": " ".join([*draw.sample(WORDS, 3), str(i)]), "description": [],
                "categories": [category], "store": None, "parent_asin": item, "details": {"title": "no"},
            }
            for i, item in enumerate(items)
        ]  # fmt: skip
        reviews = [
            {
                "rating": 5.0, "title": "t", "text": 'so \"user_id\": loud', "asin": "x", "parent_asin": item,
                "user_id": f"A{user}", "timestamp": 1_500_000_000_000 + draw.randrange(10**11), "helpful_vote": 0,
            }
            for user in range(USERS)
            for item in draw.sample(items, 5 if (user + number) % 2 else 0)
        ]  # fmt: skip
        for name, rows in {category: reviews, f"meta_{category}": [*meta, {**meta[0], "title": ""}]}.items():
            content = "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows) + json.dumps(rows[0])[:20]
            (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(content.encode()))


def write_bilibili(folder: Path, draw: random.Random) -> None:
    for name in ("Bili_Food", "Bili_Cartoon"):
        (folder / name).mkdir(parents=True)
        items = [f"v{i}" for i in range(ITEMS)]
        lines = [f'{item},标题{i},"{" ".join(draw.sample(WORDS, 3))}, {i}"' for i, item in enumerate(items)]
        (folder / name / f"{name}_item.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        users = [f"{user}\t{' '.join(draw.sample(items, 5))}" for user in range(20)]
        (folder / name / f"{name}_behaviour.tsv").write_text("\n".join(users) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    draw = random.Random(0)
    write_amazon(folder / "amazon", draw)
    write_bilibili(folder / "ninerec", draw)
    recipes = {path.stem: read_yaml(path) for path in (shipped("recipes") / "paper").glob("*.yaml")}
    base = read_yaml(shipped("recipes") / "tiny" / "base.yaml") | SMALLER["base"]
    recipes["base"] = base | {"corpus": "outputs/paper/corpus", "output_dir": "outputs/paper/base"}
    for stem, values in recipes.items():
        values |= SMALLER.get(stem.split("-")[0], {})
        values.pop("attn_implementation", None)  # of GPUs
        text = yaml.safe_dump(values, allow_unicode=True).replace("Qwen/Qwen3-0.6B-Base", "outputs/paper/base")
        (folder / f"{stem}.yaml").write_text(text, encoding="utf-8")
    some = [f"{stage}-{domain}" for domain in ("scientific", "food") for stage in ("sft", "sft-only", "evaluate")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CPREC_AMAZON_2023", str(folder / "amazon"))
        patch.setenv("CPREC_NINEREC", str(folder / "ninerec"))
        assert cli.main(["corpus", "build", "corpus.yaml"]) == 0
        assert cli.main(["corpus", "audit", "outputs/paper/corpus"]) == 0
        for stem in ["base", "cpt", "anneal", *some]:
            stage = stem.split("-")[0]
            verb = [stage] if stage in ("anneal", "evaluate") else ["train", stage]
            assert cli.main([*verb, "--config", f"{stem}.yaml"]) == 0, stem
    return folder


def test_the_corpus_holds_the_seven_domains_and_the_five(finished: Path) -> None:
    corpus = finished / "outputs/paper/corpus"
    documents = pl.concat([pl.read_parquet(path) for path in sorted((corpus / "cpt").glob("*.parquet"))])
    seven = {domain for domain in CATEGORIES.values() if domain not in UNSEEN}
    assert len(seven) == 7 and set(documents["domain"].drop_nulls()) == seven
    assert set(documents["kind"]) == {"domain", "all_domain"}, "users are shared across the categories of Amazon"
    assert documents["last_timestamp"].null_count() == len(documents), "positions are not times"
    assert {path.name for path in corpus.glob("sft-*")} == {f"sft-{domain.lower()}" for domain in UNSEEN}
    facts = json.loads(next(corpus.glob("cprec-corpus.json")).read_text(encoding="utf-8"))
    assert facts["about"]["order"] == "position" and facts["split"]["policy"] == "leave_one_out"
    refused = {step["name"]: step["refused"] for step in facts["account"]}
    assert refused["Amazon Reviews 2023: interactions: read"] == {"truncated last line": 10}
    assert refused["Amazon Reviews 2023: items: read"] == {"truncated last line": 10, "no title": 10}


def test_what_a_held_out_user_did_later_is_in_no_text(finished: Path) -> None:
    """From the raw files alone: which events of Amazon may stand in a document, by each user's own held-out events."""
    events = []
    for category, domain in CATEGORIES.items():
        lines = gzip.decompress((finished / "amazon" / f"{category}.jsonl.gz").read_bytes()).decode("utf-8-sig")
        rows = [json.loads(line) for line in lines.splitlines()[:-1]]
        events += [(r["user_id"], domain, r["timestamp"] // 1000, r["parent_asin"]) for r in rows]
    cuts: dict[str, int] = {}
    for domain in UNSEEN[:3]:
        for user in {u for u, d, *_ in events if d == domain}:
            held = sorted(t for u, d, t, _ in events if (u, d) == (user, domain))[-2]
            cuts[user] = min(held, cuts.get(user, held))
    allowed = {item for u, d, t, item in events if d not in UNSEEN and t < cuts.get(u, 10**12)}
    counts = sum(1 for u, d, t, _ in events if d not in UNSEEN and t < cuts.get(u, 10**12))
    corpus = finished / "outputs/paper/corpus"
    documents = pl.concat([pl.read_parquet(path) for path in sorted((corpus / "cpt").glob("*.parquet"))])
    in_texts = documents.filter(kind="domain")["item_ids"].explode()
    assert set(in_texts) <= allowed and 0.8 * counts < len(in_texts) <= counts


def test_models_of_both_platforms_are_ranked_against_the_controls(finished: Path) -> None:
    for domain in ("scientific", "food"):
        results = json.loads((finished / f"outputs/paper/report-{domain}/results.json").read_text(encoding="utf-8"))
        recipe = read_yaml(shipped("recipes") / "paper" / f"evaluate-{domain}.yaml")
        assert [m["name"] for m in results["methods"]] == [m["name"] for m in recipe["methods"]]
        tested = list((finished / f"outputs/paper/corpus/sft-{domain}").glob("test*.parquet"))
        users = sum(pq.read_metadata(path).num_rows for path in tested)
        per_user = pq.read_table(finished / f"outputs/paper/report-{domain}/per_user.parquet")
        assert per_user.num_rows == users > 5
