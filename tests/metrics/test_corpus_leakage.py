"""corpus_leakage against its card's definitions row by row, and against our audit on a corpus with planted leaks."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.files import config_files
from cprec_hf.corpus.load import load_facts
from cprec_hf.metrics.corpus_leakage import corpus_leakage as module
from cprec_hf.metrics.corpus_leakage.corpus_leakage import (
    EVENTS,
    EXAMPLES,
    corpus_leakage,
    read_events,
    read_examples,
)  # fmt: skip
from cprec_hf.recipes import from_mapping

FOLDER = Path(module.__file__).parent
Rows = list[dict[str, Any]]
ANN = {
    "split": "test", "user_id": "ann", "domain": "Music", "target": "m2", "history": ["m1"],
    "candidates": ["m2", "m3"], "timestamp": 12,
}  # fmt: skip
BOUGHT = {"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 9}


def by_definition(events: Rows, examples: Rows, cut: int | None) -> dict[str, Any]:
    """Each line of the card's table as a loop over rows."""
    held = [x for x in examples if x["split"] != "train"]
    train = [x for x in examples if x["split"] == "train"]

    def item(x: dict[str, Any], name: str = "target") -> tuple[str, str]:
        return (x["domain"], x[name])

    asked = {(x["user_id"], item(x)) for x in held}
    tested = {(x["user_id"], item(x)) for x in held if x["split"] == "test"}
    first: dict[str, int] = {}
    for x in held:
        if x["timestamp"] is not None:
            first[x["user_id"]] = min(first.get(x["user_id"], x["timestamp"]), x["timestamp"])
    timed = [e for e in events if e["timestamp"] is not None]
    trained = {(x["user_id"], x["domain"], i) for x in train for i in [x["target"], *x["history"]]}

    def past(rows: Rows, among: set) -> int:
        return sum((x["user_id"], (x["domain"], i)) in among for x in rows for i in x["history"])

    def late(user: str, domain: str) -> bool:
        times = {s: [x["timestamp"] for x in examples if (x["user_id"], x["domain"], x["split"]) == (user, domain, s)
                     and x["timestamp"] is not None] for s in ("train", "validation", "test")}  # fmt: skip
        after = [*times["validation"], *times["test"]]
        return (max(times["train"], default=-math.inf) > min(after, default=math.inf)) or (
            max(times["validation"], default=-math.inf) > min(times["test"], default=math.inf)
        )

    repeats = Counter((x["user_id"], x["domain"], x["split"]) for x in held)
    counts = {
        "downstream_domain_in_pretraining": sum(e["domain"] in {x["domain"] for x in examples} for e in events),
        "held_out_event_in_pretraining": sum((e["user_id"], item(e, "item_id")) in asked for e in events),
        "pretraining_after_cut": sum(cut is not None and e["timestamp"] >= cut for e in timed),
        "pretraining_after_held_out_event": sum(
            e["user_id"] in first and e["timestamp"] >= first[e["user_id"]] for e in timed
        ),
        "held_out_event_as_train_target": sum((x["user_id"], item(x)) in asked for x in train),
        "held_out_event_in_train_history": past(train, asked),
        "test_event_in_held_out_history": past(held, tested),
        "target_in_its_history": sum(x["target"] in x["history"] for x in held),
        "train_after_cut": sum(cut is not None and x["timestamp"] is not None and x["timestamp"] >= cut for x in train),
        "held_out_before_cut": sum(
            cut is not None and x["timestamp"] is not None and x["timestamp"] < cut for x in held
        ),
        "held_out_twice_of_one_user": sum(n - 1 for n in repeats.values()),
        "users_out_of_order": sum(late(*who) for who in {(x["user_id"], x["domain"]) for x in examples}),
        "target_not_once_in_candidates": sum(
            bool(x["candidates"]) and x["candidates"].count(x["target"]) != 1 for x in examples
        ),
        "candidate_twice": sum(len(set(x["candidates"])) < len(x["candidates"]) for x in examples),
        "candidate_in_history": sum(bool({*x["candidates"]} & {*x["history"]}) for x in held),
        "candidate_among_training_items": sum(
            any((x["user_id"], x["domain"], i) in trained for i in x["candidates"]) for x in held
        ),
    }
    learnt: dict[Any, Counter] = {}
    for x in examples:
        if x["split"] == "validation" and x["candidates"]:
            learnt.setdefault((x["domain"], *sorted(x["candidates"])), Counter())[x["target"]] += 1
    hits, chances, seen_chances, seen_hits = [], [], [], 0.0
    for x in examples:
        if x["split"] != "test" or not x["candidates"]:
            continue
        chances.append(1 / len(x["candidates"]))
        known = learnt.get((x["domain"], *sorted(x["candidates"])))
        if known is None:
            hits.append(chances[-1])
            continue
        best = [t for t, n in known.items() if n == max(known.values())]
        hits.append((x["target"] in best) / len(best))
        seen_hits += hits[-1]
        seen_chances.append(chances[-1])
    n, p = len(seen_chances), sum(seen_chances) / max(len(seen_chances), 1)
    tail = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(math.ceil(seen_hits), n + 1)) if n else 1.0
    everything = [(e["user_id"], e["domain"], [e["item_id"]]) for e in events]
    everything += [(x["user_id"], x["domain"], [x["target"], *x["history"], *x["candidates"]]) for x in examples]
    domains = {domain for _, domain, _ in everything}
    users = {d: {u for u, domain, _ in everything if domain == d} for d in domains}
    ids = {d: {i for _, domain, items in everything if domain == d for i in items} for d in domains}
    return {
        "rules_broken": sum(n > 0 for n in counts.values()) + (tail < 1e-6),
        **counts,
        "memoriser_hr@1": sum(hits) / max(len(hits), 1),
        "memoriser_chance": sum(chances) / max(len(chances), 1),
        "memoriser_recognised": n,
        "memoriser_p": tail,
        "shared_users": {d: {e: len(users[d] & users[e]) for e in domains} for d in domains},
        "shared_item_ids": {d: {e: len(ids[d] & ids[e]) for e in domains} for d in domains},
    }


user, domain, name = st.sampled_from("uv"), st.sampled_from(["A", "B"]), st.sampled_from(["1", "2", "3"])
time = st.none() | st.integers(0, 6)
event = st.fixed_dictionaries({"user_id": user, "domain": domain, "item_id": name, "timestamp": time})
example = st.fixed_dictionaries(
    {
        "split": st.sampled_from(["train", "validation", "test"]), "user_id": user, "domain": domain, "target": name,
        "history": st.lists(name, max_size=3), "candidates": st.lists(name, max_size=3), "timestamp": time,
    }
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(event, max_size=5), st.lists(example, max_size=6), st.none() | st.integers(0, 6))
def test_equals_the_definitions_row_by_row(events: Rows, examples: Rows, cut: int | None) -> None:
    got = corpus_leakage(pa.Table.from_pylist(events, EVENTS), pa.Table.from_pylist(examples, EXAMPLES), cut)
    expected = by_definition(events, examples, cut)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name] == (pytest.approx(value, abs=1e-12) if name.startswith("memoriser") else value), name


def test_columns_and_files_read_alike(tmp_path: Path) -> None:
    events, examples = pa.Table.from_pylist([BOUGHT], EVENTS), pa.Table.from_pylist([ANN], EXAMPLES)
    expected = corpus_leakage(events, examples, 8)
    assert corpus_leakage(events.to_pydict(), examples.to_pydict(), 8) == expected
    pq.write_table(events, tmp_path / "events.parquet")
    document = {"user_id": "ann", "item_ids": ["b1"], "item_domains": ["Books"], "last_timestamp": 9, "text": "a book"}
    pq.write_table(pa.Table.from_pylist([document]), tmp_path / "documents.parquet")
    pq.write_table(examples.drop_columns(["split", "domain"]), tmp_path / "test-00000-of-00001.parquet")
    paths = {"Music": [str(tmp_path / "test-00000-of-00001.parquet")]}
    audit = evaluate.load(str(FOLDER))
    for data in ("events", "documents"):
        assert audit.compute(data=[str(tmp_path / f"{data}.parquet")], examples=paths, cut=8) == expected


BAD = {
    "no column": (lambda e, x: (e.drop_columns(["domain"]), x), r"data: no column domain; it needs user_id, domain"),
    "no user": (lambda e, x: (e.set_column(0, "user_id", pa.array([None], pa.string())), x), "1 rows without user_id"),
    "text as time": (lambda e, x: (e.set_column(3, "timestamp", pa.array(["soon"])), x), r"data: .*soon"),
    "another split": (
        lambda e, x: (e, x.set_column(0, "split", pa.array(["dev"]))),
        "split dev; each is one of",
    ),
    "no item in a list": (lambda e, x: (e, x.set_column(4, "history", pa.array([[None]]))), "item ids in lists"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case: str) -> None:
    spoil, message = BAD[case]
    tables = spoil(pa.Table.from_pylist([BOUGHT], EVENTS), pa.Table.from_pylist([ANN], EXAMPLES))
    with pytest.raises(ValueError, match=message):
        corpus_leakage(*tables)


def test_a_file_without_a_split_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ANN], EXAMPLES).drop_columns(["split"]), tmp_path / "dev.parquet")
    with pytest.raises(ValueError, match=r"dev\.parquet: no column `split`, and its name begins with none of train"):
        read_examples({"Music": [tmp_path / "dev.parquet"]})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = {
        "kind": "marketplace", "domains": ["Books", "Games"], "unseen": ["Music"], "users": 40, "events_per_user": 16,
        "unseen_users": 80, "unseen_events_per_user": 8, "items_per_domain": 80,
    }  # fmt: skip
    recipe = {
        "source": source, "output": str(tmp_path_factory.mktemp("leaks") / "corpus"), "name": "small",
        "tokenizer": {"vocab_size": 300}, "downstream": ["Music"], "window_tokens": 128, "candidates": 10,
        "history_length": 5, "split": {"validation_share": 0.25, "test_share": 0.25}, "cpt_validation_share": 0.1,
    }  # fmt: skip
    return build_corpus(from_mapping(recipe, CorpusConfig, "small"))


def measured(folder: Path) -> dict[str, Any]:
    files = config_files(folder)
    events = read_events([path for paths in files["cpt"].values() for path in paths])
    examples = read_examples({"Music": [path for paths in files["sft-music"].values() for path in paths]})
    return corpus_leakage(events, examples, load_facts(folder)["split"]["cuts"]["validation"])


def test_a_corpus_as_built_breaks_no_rule_and_shares_what_the_audit_says(corpus: Path) -> None:
    found, report = measured(corpus), audit_corpus(corpus)
    assert report.passed and found["rules_broken"] == 0
    overlap = report.figures["overlap"]
    names = overlap["domains"]
    assert overlap["users"] == [[found["shared_users"][a][b] for b in names] for a in names]


LEAKS: dict[str, tuple[str, str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]]] = {
    # rule -> file, the audit's check, and what becomes of row 3 (a row of the test file is at hand)
    "downstream_domain_in_pretraining": (
        "cpt/train", "no downstream domain in pre-training",
        lambda row, held: {"item_domains": ["Music", *row["item_domains"][1:]]},
    ),
    "held_out_event_in_pretraining": (
        "cpt/train", "no held-out event in pre-training",
        lambda row, held: {"user_id": held["user_id"], "item_domains": ["Music", *row["item_domains"][1:]],
                           "item_ids": [held["target"], *row["item_ids"][1:]]},
    ),
    "pretraining_after_cut": (
        "cpt/train", "pre-training ends before the validation cut",
        lambda row, held: {"last_timestamp": held["timestamp"]},
    ),
    "held_out_event_as_train_target": (
        "sft-music/train", "no held-out event among train targets",
        lambda row, held: {"user_id": held["user_id"], "target": held["target"]},
    ),
    "held_out_event_in_train_history": (
        "sft-music/train", "no held-out event in train histories",
        lambda row, held: {"user_id": held["user_id"], "history": [held["target"]]},
    ),
    "test_event_in_held_out_history": (
        "sft-music/test", "no test event in held-out histories",
        lambda row, held: {"history": [*row["history"][1:], row["target"]]},
    ),
    "target_in_its_history": (
        "sft-music/validation", "held-out targets are new to their users",
        lambda row, held: {"history": [*row["history"][1:], row["target"]]},
    ),
    "train_after_cut": (
        "sft-music/train", "targets on their side of the cuts", lambda row, held: {"timestamp": held["timestamp"]},
    ),
    "held_out_before_cut": (
        "sft-music/test", "targets on their side of the cuts", lambda row, held: {"timestamp": 0},
    ),
    "users_out_of_order": (
        "sft-music/test", "train before validation before test, for every user", lambda row, held: {"timestamp": 0},
    ),
    "target_not_once_in_candidates": (
        "sft-music/test", "candidates hold the target once",
        lambda row, held: {"candidates": [i for i in row["candidates"] if i != row["target"]]},
    ),
    "candidate_twice": (
        "sft-music/test", "candidates are distinct",
        lambda row, held: {"candidates": [row["target"], row["target"], *row["candidates"][2:]]},
    ),
    "candidate_in_history": (
        "sft-music/test", "no candidate in the history",
        lambda row, held: {"candidates": [row["history"][0], *row["candidates"][1:]]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", LEAKS)
def test_a_planted_leak_is_counted_as_the_audit_counts_it(corpus: Path, tmp_path: Path, rule: str) -> None:
    name, check, change = LEAKS[rule]
    folder = shutil.copytree(corpus, tmp_path / "copy")
    held = pl.read_parquet(folder / "sft-music" / "test.parquet").row(3, named=True)
    rows = pl.read_parquet(folder / f"{name}.parquet")
    spoilt = rows.to_dicts()
    spoilt[3] |= change(spoilt[3], held)
    pl.DataFrame(spoilt, schema=rows.schema).write_parquet(folder / f"{name}.parquet")
    found = measured(folder)
    audited = {row.check: row for row in audit_corpus(folder).rows}[check]
    assert not audited.passed and found[rule] > 0 and found["rules_broken"] > 0
    n_items = len(spoilt[3]["item_ids"]) if rule == "pretraining_after_cut" else 1  # a document, and its events
    assert found[rule] == int(audited.detail.split(" rows")[0]) * n_items


def test_the_card_defines_all_that_is_measured() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(name in card for name in by_definition([], [], None))
