"""Sets of candidates, few-shot subsets, marks of cold users and items: in the rows, the files, the facts, the card."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from cprec_hf.behaviors.sources import read_source
from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.load import load_corpus, load_facts
from cprec_hf.errors import InputError
from cprec_hf.training.subset import few_users

Make = Callable[..., CorpusConfig]
POLICIES = ["uniform", "popularity", "category"]


@pytest.fixture(scope="module")
def several(make_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small marketplace with all sets, items with their categories."""
    keys = {"negatives": POLICIES, "few_shot": [0.05, 0.5], "pseudonymise": False, "max_test_users": 40}
    keys["source"] = make_config(Path("unused")).source | {"categories": True}
    return build_corpus(make_config(tmp_path_factory.mktemp("several") / "c", **keys, candidates=12))


def _rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return pl.read_parquet(folder / "sft-music" / f"{split}.parquet").to_dicts()


def _events(make_config: Make, *, music: bool, before: int) -> list[dict[str, Any]]:
    events = read_source(make_config(Path("unused")).source, "test").interactions
    here = (pl.col("domain") == "Music") if music else (pl.col("domain") != "Music")
    return events.filter(here & (pl.col("timestamp") < before)).collect().to_dicts()


def test_marks_are_counted_from_the_logs(several: Path, make_config: Make) -> None:
    cut = load_facts(several)["split"]["cuts"]["validation"]
    trained, read = (_events(make_config, music=music, before=cut) for music in (True, False))
    of_user, of_item = (Counter(event[key] for event in trained) for key in ("user_id", "item_id"))
    cpt = Counter(event["user_id"] for event in read)
    seen = Counter[tuple[bool, bool]]()
    for split in ("train", "validation", "test"):
        for row in _rows(several, split):
            counts = of_user[row["user_id"]], cpt[row["user_id"]], of_item[row["target"]]
            assert (row["user_events"], row["cpt_events"], row["target_events"]) == counts
            assert (row["cold_user"], row["cold_item"]) == (not counts[0] + counts[1], not counts[2])
            seen[row["cold_user"], row["cold_item"]] += split != "train"
    items = pl.read_parquet(several / "items" / "train.parquet").to_dicts()
    every = of_item + Counter(event["item_id"] for event in read)
    assert all(item["train_events"] == every[item["item_id"]] for item in items)
    cold = load_facts(several)["cold"]["Music"]
    for key, count in (("cold_item", seen[False, True] + seen[True, True]), ("rows", seen.total())):
        assert sum(cold[split][key] for split in ("validation", "test")) == count
    assert 0 < seen[False, True] < seen.total()


def test_users_of_other_domains_only_are_not_cold(make_config: Make, tmp_path: Path) -> None:
    """Three users ask in M: one trained there, one was pre-trained on, one is new; all others fill the catalogue."""
    rows = [(f"f{u}", f"m{(u + k) % 12}", "M", 10 + k) for u in range(12) for k in range(3)]
    rows += [(f"f{u}", f"b{(u + k) % 12}", "B", 10 + k) for u in range(12) for k in range(3)]
    rows += [("warm", "m0", "M", 11), ("warm", "m1", "M", 100), ("warm", "m2", "M", 200)]
    rows += [("cross", "b3", "B", 12), ("cross", "b4", "B", 13)]
    for user in ("cross", "new"):
        rows += [(user, "m5", "M", 99), (user, "m6", "M", 101), (user, "fresh", "M", 201)]
    columns = dict(zip(("user_id", "item_id", "domain", "timestamp"), zip(*rows, strict=True), strict=True))
    pl.DataFrame(columns).write_parquet(tmp_path / "log.parquet")
    items = [(f"{d.lower()}{i}", d, f"title {d} {i}") for d in "MB" for i in range(12)] + [("fresh", "M", "a new one")]
    pl.DataFrame(items, ["item_id", "domain", "title"], orient="row").write_parquet(tmp_path / "items.parquet")
    source = {
        "kind": "table", "name": "t", "licence": "x", "citation": "x", "interactions": str(tmp_path / "log.parquet"),
        "items": str(tmp_path / "items.parquet"),
    }  # fmt: skip
    config = make_config(
        tmp_path / "c", source=source, downstream=["M"], candidates=4, pseudonymise=False, cpt_validation_share=0.0,
        tokenizer={"vocab_size": 300}, few_shot=[], split={"validation_share": 0.11, "test_share": 0.06},
    )  # fmt: skip
    folder = build_corpus(config)
    cuts = load_facts(folder)["split"]["cuts"]
    assert 13 < cuts["validation"] <= 99 and 101 < cuts["test"] <= 200
    test = {row["user_id"]: row for row in pl.read_parquet(folder / "sft-m" / "test.parquet").to_dicts()}
    marks = {user: (row["user_events"], row["cpt_events"], row["cold_user"]) for user, row in test.items()}
    assert marks == {"warm": (1, 0, False), "cross": (0, 2, False), "new": (0, 0, True)}
    assert {user: row["cold_item"] for user, row in test.items()} == {"warm": False, "cross": True, "new": True}
    assert all(row["user_rank"] is None for row in test.values())  # none of them has two training events
    assert load_facts(folder)["cold"]["M"]["test"] == {"rows": 3, "cold_user": 1, "cold_item": 2, "both": 1}
    assert set(load_facts(folder)["counts"]["sft-m"]) == {"train", "validation", "test"}


def test_few_shot_users_are_nested_exact_and_the_same_wherever_they_are_read(several: Path) -> None:
    train = pq.read_table(several / "sft-music" / "train.parquet")
    users = sorted(set(train["user_id"].to_pylist()))
    rank = dict(zip(train["user_id"].to_pylist(), train["user_rank"].to_pylist(), strict=True))
    assert sorted(rank.values()) == [i / len(users) for i in range(len(users))]
    for split, share in load_facts(several)["few_shot"].items():
        subset = pq.read_table(several / "sft-music" / f"{split}.parquet")
        assert subset.equals(few_users(train, share, None))
        assert len(set(subset["user_id"].to_pylist())) == -(-int(100 * share) * len(users) // 100)
    loaded = load_corpus(several, "sft-music")
    assert set(loaded) == {"train", "validation", "test", "train_5pct", "train_50pct"}
    assert set(loaded["train_5pct"]["user_id"]) < set(loaded["train_50pct"]["user_id"]) < set(users)
    for row in _rows(several, "test"):
        assert row["user_rank"] == rank.get(row["user_id"])


def test_each_set_is_frozen_apart_and_holds_what_its_policy_says(several: Path) -> None:
    items = pl.read_parquet(several / "items" / "train.parquet").filter(pl.col("domain") == "Music").to_dicts()
    category = {item["item_id"]: item["category"] for item in items}
    sizes, events = Counter(category.values()), {item["item_id"]: item["train_events"] for item in items}
    assert min(sizes.values()) < 12 <= max(sizes.values())
    mean = defaultdict(list)
    filled = 0
    for split in ("validation", "test"):
        for row in _rows(several, split):
            sets = {policy: row[f"candidates_{policy}"] for policy in POLICIES[1:]} | {"uniform": row["candidates"]}
            for policy, offered in sets.items():
                assert len(set(offered)) == 12 and offered.count(row["target"]) == 1
                assert not set(offered) & set(row["history"])
                mean[policy] += [events[item] for item in offered if item != row["target"]]
            same = sum(category[item] == category[row["target"]] for item in sets["category"])
            assert 12 - same == row["candidates_category_filled"]
            filled += row["candidates_category_filled"]
            assert len({tuple(sorted(offered)) for offered in sets.values()}) == 3
    averages = {policy: sum(values) / len(values) for policy, values in mean.items()}
    assert averages["popularity"] > 1.3 * averages["uniform"]
    steps = {step["name"]: step for step in load_facts(several)["account"]}
    step = steps["negatives by category of Music"]
    assert step["refused"] == {"drawn uniformly instead": filled} and step["rows_in"] == len(mean["category"])
    assert all(
        row["candidates_category"] == [] and not row["candidates_category_filled"] for row in _rows(several, "train")
    )


def test_the_default_set_is_the_same_beside_others(several: Path, make_config: Make, tmp_path: Path) -> None:
    keys = {"pseudonymise": False, "max_test_users": 40, "candidates": 12, "few_shot": []}
    keys["source"] = make_config(Path("unused")).source | {"categories": True}
    alone = build_corpus(make_config(tmp_path / "alone", **keys))
    for split in ("train", "validation", "test"):
        one, other = (pl.read_parquet(folder / "sft-music" / f"{split}.parquet") for folder in (alone, several))
        assert one.equals(other.select(one.columns))
        assert set(other.columns) - set(one.columns) == {
            f"candidates_{policy}{more}" for policy in POLICIES[1:] for more in ("", "_filled")
        }
    first = build_corpus(make_config(tmp_path / "first", **keys, negatives=["category", "uniform"]))
    for split in ("validation", "test"):
        one, other = (pl.read_parquet(folder / "sft-music" / f"{split}.parquet") for folder in (first, several))
        assert one["candidates"].equals(other["candidates_category"], check_names=False)
        assert one["candidates_uniform"].equals(other["candidates"], check_names=False)


def test_the_card_says_it(several: Path, corpus: Path) -> None:
    card, plain = ((folder / "README.md").read_text(encoding="utf-8") for folder in (several, corpus))
    cold = load_facts(several)["cold"]["Music"]["test"]
    assert f"| Music | test | {cold['rows']} | {cold['cold_user']} | {cold['cold_item']} | {cold['both']} |" in card
    rows = load_facts(several)["counts"]["sft-music"]
    assert f"| `sft-music` | `train_5pct` | 5 % | {rows['train_5pct']} |" in card
    assert f"| `sft-music` | `train_50pct` | 50 % | {rows['train_50pct']} |" in card
    assert "| `candidates_category` | uniformly from the target's category" in card
    assert "drawn uniformly by a generator" in " ".join(plain.split()) and "candidates_popularity" not in plain
    assert "split: train_10pct" in plain and "path: sft-music/train_10pct.parquet" in plain


def test_rows_without_candidates_rank_the_whole_catalogue(make_config: Make, tmp_path: Path, corpus: Path) -> None:
    folder = build_corpus(make_config(tmp_path / "c", candidates=None))
    facts = load_facts(folder)
    assert facts["candidates"]["count"] is None and facts["candidates"]["sets"] == {}
    for split in ("validation", "test"):
        ours, frozen = _rows(folder, split), _rows(corpus, split)
        assert [row["target"] for row in ours] == [row["target"] for row in frozen]
        assert all(row["candidates"] == [] for row in ours)
        for one, other in zip(ours, frozen, strict=True):  # room for any title, so never more history than beside 10
            assert one["history"] == other["history"][len(other["history"]) - len(one["history"]) :]
    assert "No candidates are frozen" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"candidates": None, "candidate_list_in_prompt": True}, "a whole catalogue does not fit a prompt"),
        ({"negatives": ["category", "uniform"], "candidate_list_in_prompt": True}, "put uniform first"),
        ({"negatives": []}, "`negatives` is []; name at least one, each once"),
        ({"negatives": ["uniform", "uniform"]}, "each once"),
        ({"negatives": ["hard"]}, "choose one of uniform, popularity, category"),
        ({"few_shot": [0.1, 1.0]}, "`few_shot` names 1.0; give shares of the users, above 0 and below 1"),
        ({"few_shot": [0.1, 0.1]}, "name each share once"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(make_config: Make, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        make_config(Path("unused"), **keys)


def test_categories_that_are_missing_are_said(make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no item of domain 'Music' has text in a column `category`"):
        build_corpus(make_config(tmp_path / "c", negatives=["category"]))
    assert list(tmp_path.iterdir()) == []


def _spoilt(folder: Path, copy: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> dict[str, str]:
    """The checks that fail once a file's rows are changed, and what they say."""
    for path in folder.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    change(pl.read_parquet(folder / f"{name}.parquet")).write_parquet(copy / f"{name}.parquet")
    return {row.check: row.detail for row in audit_corpus(copy).rows if not row.passed}


def _at(column: str, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Row 3 of a file with another value, made of its old one."""
    return lambda rows: rows.with_columns(
        pl.Series(column, [value(old) if i == 3 else old for i, old in enumerate(rows[column])], rows[column].dtype)
    )


@pytest.mark.parametrize(
    ("name", "change", "check"),
    [
        ("sft-music/test", _at("user_events", lambda n: n + 2), "training events of users as the training rows show"),
        ("sft-music/test", _at("cold_user", lambda cold: not cold), "cold users are marked"),
        ("sft-music/test", _at("cold_item", lambda cold: not cold), "cold items are marked"),
        ("sft-music/test", _at("target_events", lambda n: n + 1), "training events of targets as of items"),
        ("sft-music/train", _at("user_rank", lambda rank: 1 - rank), "users in line by their keyed hash"),
        ("sft-music/train_50pct", lambda rows: rows.slice(1), "few-shot splits are the training rows of their users"),
        ("sft-music/train_50pct", _at("completion", str.upper), "few-shot splits are the training rows of their users"),
        ("sft-music/test", _at("candidates_category", lambda ids: ids[::-1]), "hash of the candidates as recorded"),
        ("sft-music/test", _at("candidates_popularity", lambda ids: ids[1:]), "12 candidates"),
        (
            "items/train",
            lambda rows: rows.with_columns(train_events=pl.lit(0, pl.Int64)),
            "training events of items no fewer than the training rows show",
        ),
        (
            "sft-music/test",
            lambda rows: rows.with_columns(candidates_category="candidates", candidates_category_filled=pl.lit(0)),
            "negatives are of the target's category, but those filled",
        ),
    ],
)
def test_the_audit_counts_it_again(several: Path, tmp_path: Path, name: str, change: Any, check: str) -> None:
    assert check in _spoilt(several, tmp_path / "copy", name, change)


def test_pretraining_marks_are_audited(make_config: Make, tmp_path: Path) -> None:
    """Users who are pre-trained on and asked in the downstream domain too: their count may not fall short."""
    source = make_config(Path("unused")).source | {"unseen": [], "domains": ["Books", "Games"]}
    config = make_config(tmp_path / "c", source=source, downstream=["Games"], candidates=8)
    folder = build_corpus(config)
    rows = pl.read_parquet(folder / "sft-games" / "test.parquet")
    assert rows["cpt_events"].min() > 0 and not rows["cold_user"].any()
    broken = _spoilt(folder, tmp_path / "copy", "sft-games/test", _at("cpt_events", lambda n: 1))
    assert "pre-training events of users no fewer than the documents show" in broken
    facts = json.loads((folder / "cprec-corpus.json").read_text())
    assert facts["cold"]["Games"]["test"]["cold_user"] == 0
