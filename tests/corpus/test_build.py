"""From logs to an audited folder: the rows against the logs, the bytes, the bad input, the interrupt."""

import _thread
import dataclasses
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.behaviors.marketplace import MarketplaceConfig, simulate
from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.behaviors.sources import read_source
from cprec_hf.corpus import examples
from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.build import build_corpus, build_from, estimate_bytes
from cprec_hf.corpus.config import CorpusConfig, domain_slugs
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import corpus_tokenizer, load_corpus, load_facts
from cprec_hf.corpus.prepare import DomainFigures
from cprec_hf.corpus.pseudonyms import pseudonymise
from cprec_hf.corpus.template import load_template
from cprec_hf.corpus.write import user_shards
from cprec_hf.errors import InputError
from cprec_hf.recipes import from_mapping

Make = Callable[..., CorpusConfig]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _world(make_config: Make) -> Behaviors:
    return read_source(make_config(Path("unused")).source, "test")


def _rows(folder: Path, config: str, split: str) -> list[dict[str, Any]]:
    return pl.read_parquet(folder / config / f"{split}.parquet").to_dicts()


def test_the_same_recipe_twice_gives_the_same_bytes(corpus: Path, make_config: Make, tmp_path: Path) -> None:
    again = _files(build_corpus(make_config(tmp_path / "again")))
    assert set(again) == {
        "README.md", "cprec-corpus.json", "cpt/train.parquet", "cpt/validation.parquet", "items/train.parquet",
        "sft-music/train.parquet", "sft-music/validation.parquet", "sft-music/test.parquet",
        "sft-music/train_1pct.parquet", "sft-music/train_10pct.parquet",
        "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "figures/lengths.png", "figures/overlap.png",
    }  # fmt: skip
    assert again == _files(corpus)


def test_another_seed_draws_other_candidates_for_the_same_targets(
    corpus: Path, make_config: Make, tmp_path: Path
) -> None:
    other = build_corpus(make_config(tmp_path / "other", seed=1))
    ours, theirs = _rows(corpus, "sft-music", "test"), _rows(other, "sft-music", "test")
    assert [row["target"] for row in ours] == [row["target"] for row in theirs]
    assert [row["candidates"] for row in ours] != [row["candidates"] for row in theirs]
    assert load_facts(corpus)["candidates"]["sha256"] != load_facts(other)["candidates"]["sha256"]


def test_held_out_rows_are_those_of_the_logs(corpus: Path, make_config: Make) -> None:
    events = _world(make_config).interactions.filter(pl.col("domain") == "Music").collect()
    times = sorted(events["timestamp"])
    v, t = times[len(times) // 2], times[3 * len(times) // 4]
    assert load_facts(corpus)["split"]["cuts"] == {"validation": v, "test": t}
    users = defaultdict(list)
    for row in events.sort("timestamp", "item_id").iter_rows(named=True):
        users[row["user_id"]].append((row["timestamp"], row["item_id"]))
    expected: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
    for user, history in users.items():
        name = pseudonymise([user])[0]
        for split, begin, end in (("validation", v, t), ("test", t, times[-1] + 1)):
            at = next((i for i, (time, _) in enumerate(history) if i and begin <= time < end), None)
            if at is not None:
                past = [item for _, item in history[:at]]
                expected[split][name] = (past[-5:], history[at][1], history[at][0], set(past))
    encoder = Encoder(corpus_tokenizer(corpus))
    titles = dict(pl.read_parquet(corpus / "items" / "train.parquet").select("item_id", "title").iter_rows())
    for split, by_user in expected.items():
        rows = {row["user_id"]: row for row in _rows(corpus, "sft-music", split)}
        assert rows.keys() == by_user.keys()
        for user, (history, target, time, past) in by_user.items():
            row, shown = rows[user], rows[user]["history"]
            assert (row["target"], row["timestamp"]) == (target, time)
            assert shown == history[-len(shown) :] and not past & set(row["candidates"])
            if len(shown) < len(history):  # one more item would not fit the window
                lines = [titles[item] for item in history[-len(shown) - 1 :]]
                longer = [load_template("1").prompt("Music", [*lines, titles[item]]) for item in row["candidates"]]
                assert encoder.documents(longer).lengths.max() > 128


def test_documents_are_those_of_the_logs_before_the_cut(corpus: Path, make_config: Make) -> None:
    cut = load_facts(corpus)["split"]["cuts"]["validation"]
    seen = (pl.col("domain") != "Music") & (pl.col("timestamp") < cut)
    events = _world(make_config).interactions.filter(seen).sort("user_id", "timestamp", "item_id").collect()
    by_user = {pseudonymise([user])[0]: list(zip(rows["domain"], rows["item_id"], strict=True))
               for (user,), rows in events.group_by("user_id")}  # fmt: skip
    rows = _rows(corpus, "cpt", "train") + _rows(corpus, "cpt", "validation")
    mixed = defaultdict(list)
    for row in rows:
        if row["kind"] == "all_domain":
            mixed[row["user_id"]] += zip(row["item_domains"], row["item_ids"], strict=True)
    assert len(mixed) > 50
    for user, history in mixed.items():  # the windows of a user, joined, are the whole history but a lone last event
        assert history in (by_user[user], by_user[user][:-1])
    assert sum(row["n_tokens"] for row in rows if row["kind"] == "domain") == load_facts(corpus)["tokens"]["domain"]
    assert {row["kind"] for row in rows} == {"domain", "all_domain"}
    kinds = Counter(row["kind"] for row in rows)
    assert load_facts(corpus)["documents"] == {**kinds, "items": len(_rows(corpus, "items", "train"))}
    shown = next(line for line in (corpus / "README.md").read_text().splitlines() if line.startswith("| all\\_domain"))
    assert f"| {kinds['all_domain']:,} |" in shown


def test_accounts_add_up_with_the_files(corpus: Path) -> None:
    facts = load_facts(corpus)
    steps = {step["name"]: step for step in facts["account"]}
    rows = _rows(corpus, "cpt", "train") + _rows(corpus, "cpt", "validation")
    for kind in ("domain", "all_domain"):
        in_files = sum(len(row["item_ids"]) for row in rows if row["kind"] == kind)
        assert steps[f"events in {kind} documents"]["rows_out"] == in_files
    train = _rows(corpus, "sft-music", "train")
    lines = sum(len(row["history"]) + 1 for row in train)
    assert steps["training events as lines of Music"]["rows_out"] == lines
    assert steps["test users of Music"]["rows_out"] == facts["counts"]["sft-music"]["test"]
    assert facts["domains"]["Music"] == {
        "users": 150, "items": 120, "interactions": 1200, "slug": "music", "role": "downstream",
        "lengths": {"median": 8, "p90": 8, "max": 8},
    }  # fmt: skip


def test_it_is_a_dataset_repo(corpus: Path) -> None:
    from datasets import load_dataset

    facts = load_facts(corpus)
    for config, splits in facts["counts"].items():
        loaded = load_dataset(str(corpus), config)
        assert {name: len(rows) for name, rows in loaded.items()} == splits
        assert {name: len(rows) for name, rows in load_corpus(corpus, config).items()} == splits
    assert len(corpus_tokenizer(corpus)) == 400


def test_no_user_id_of_the_logs_is_in_the_files(corpus: Path, make_config: Make, tmp_path: Path) -> None:
    raw = set(_world(make_config).interactions.select("user_id").collect()["user_id"])
    published = {row["user_id"] for row in _rows(corpus, "cpt", "train") + _rows(corpus, "sft-music", "test")}
    assert not raw & published and load_facts(corpus)["pseudonymised"]
    open_ = build_corpus(make_config(tmp_path / "open", pseudonymise=False))
    assert {row["user_id"] for row in _rows(open_, "cpt", "train")} <= raw


@pytest.mark.parametrize(
    "keys",
    [
        {"split": {"policy": "leave_one_out"}, "max_test_users": 20},
        {"train_targets": "every", "sequences": ["all_domain"], "cpt_validation_share": 0.0},
        {"candidate_list_in_prompt": True, "window_tokens": 330, "downstream": ["Music", "Games"]},
        {"max_title_tokens": 5, "candidates": 3, "filters": {"min_item_interactions": 3}},
    ],
    ids=["leave-one-out", "every", "list-in-prompt", "cut-titles"],
)
def test_other_recipes_pass_the_audit_too(make_config: Make, tmp_path: Path, keys: dict[str, Any]) -> None:
    folder = build_corpus(make_config(tmp_path / "out", **keys))
    facts = load_facts(folder)
    assert audit_corpus(folder).passed
    for domain in facts["domains"].values():
        if domain["role"] == "downstream":
            rows = _rows(folder, f"sft-{domain['slug']}", "test")
            assert len(rows) == min(keys.get("max_test_users", len(rows)), len(rows)) > 10
            assert all(len(row["candidates"]) == facts["candidates"]["count"] for row in rows)
            assert all(
                row["prompt"].startswith("Candidates:\n") == ("candidate_list_in_prompt" in keys) for row in rows
            )
    assert ("validation" in facts["counts"]["cpt"]) == (keys.get("cpt_validation_share") != 0.0)
    if "max_title_tokens" in keys:
        items = pl.read_parquet(folder / "items" / "train.parquet")
        assert facts["titles"]["cut"] == (items["title"] != items["full_title"]).sum() > 0
        assert items["title"].n_unique() < len(items) == sum(d["items"] for d in facts["domains"].values())


def _positions(world: Behaviors) -> Behaviors:
    """The same logs from a source with an order but no times; half the users' order across domains is known."""
    place = pl.int_range(pl.len())
    rows = world.interactions.sort("user_id", "timestamp").with_columns(
        all_domain_position=pl.when(pl.col("user_id").str.ends_with("1").not_()).then(place.over("user_id")),
        timestamp=place.over("user_id", "domain"),
    )
    return Behaviors(rows, world.items, About("positions", "none", "none", "position"), world.account)


def test_a_source_without_times(make_config: Make, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out", split={"policy": "leave_one_out"}, downstream=["Games", "Music"],
                         source=make_config(Path("x")).source | {"domains": ["Books", "Games", "Home"]})  # fmt: skip
    world = _positions(read_source(config.source, "test"))
    folder = build_from(world, config)
    events = world.interactions.collect()
    rows = _rows(folder, "cpt", "train") + _rows(folder, "cpt", "validation")
    assert {row["last_timestamp"] for row in rows} == {None}
    unknown = {p for u in events["user_id"].unique() if u.endswith("1") for p in pseudonymise([u])}
    assert not unknown & {row["user_id"] for row in rows if row["kind"] == "all_domain"}
    assert unknown & {row["user_id"] for row in rows if row["kind"] == "domain"}
    # Where the order across domains is known, nothing at or after a user's validation event is pre-trained on.
    held = {row["user_id"]: row["target"] for row in _rows(folder, "sft-games", "validation")}
    place = {(pseudonymise([u])[0], d, i): p for u, d, i, p in
             events.select("user_id", "domain", "item_id", "all_domain_position").iter_rows()}  # fmt: skip
    known = [row for row in rows if row["user_id"] in held and row["user_id"] not in unknown]
    assert len(known) > 20
    for row in known:
        cut = place[row["user_id"], "Games", held[row["user_id"]]]
        keys = zip(row["item_domains"], row["item_ids"], strict=True)
        assert all(place[row["user_id"], domain, item] < cut for domain, item in keys)
    with pytest.raises(InputError, match="choose `policy: leave_one_out`"):
        build_from(world, make_config(tmp_path / "time"))


def test_a_source_of_downstream_domains_alone_has_no_pretraining_documents(
    corpus: Path, make_config: Make, tmp_path: Path
) -> None:
    world = _world(make_config)
    only = {"interactions": world.interactions.filter(domain="Music"), "items": world.items.filter(domain="Music")}
    folder = build_from(dataclasses.replace(world, **only), make_config(tmp_path / "out"))
    facts = load_facts(folder)
    assert set(facts["counts"]) == {"items", "sft-music"} and not (folder / "cpt").exists()
    for split in ("validation", "test"):  # Music's cuts, users and candidates are what they were beside other domains
        ours, theirs = (_rows(built, "sft-music", split) for built in (folder, corpus))
        keys = ("user_id", "target", "timestamp", "candidates")
        assert [[row[key] for key in keys] for row in ours] == [[row[key] for key in keys] for row in theirs]
    assert all(step["rows_in"] for step in facts["account"]) and audit_corpus(folder).passed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert '"cpt"' not in card and "`cpt`:" not in card and "config_name: cpt" not in card
    with pytest.raises(InputError, match="no config 'cpt'; it has items, sft-music"):
        load_corpus(folder, "cpt")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"downstream": ["Musik"]}, r"names 'Musik', which is no domain of this source; it has Books, Games, Music"),
        ({"candidates": 121}, r"`candidates` is 121 and domain 'Music' has 120 items"),
        ({"window_tokens": 30}, r"`window_tokens` is 30; the header of .* raise `window_tokens` to \d+"),
        ({"candidate_list_in_prompt": True}, r"10 candidates up to \d+ and two titles"),
        ({"split": {"policy": "random"}}, "random order is refused"),
        ({"tokenizer": "./no/such-folder"}, r"`tokenizer`: \./no/such-folder: cannot load its tokenizer"),
        ({"candidates": 1}, "`candidates` is 1; give at least 2"),
        ({"windowtokens": 1}, "did you mean `window_tokens`"),
        ({"sequences": []}, "name at least one"),
    ],
)
def test_bad_recipes_end_in_one_message_and_leave_nothing(
    make_config: Make, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_corpus(make_config(tmp_path / "out", **keys))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_kept_unless_told_otherwise(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        build_corpus(make_config(tmp_path / "out"))
    with pytest.raises(InputError, match="is no domain"):
        build_corpus(make_config(tmp_path / "out", downstream=["?"]), overwrite=True)
    assert _files(tmp_path) == {"out/mine": b"mine"}
    build_corpus(make_config(tmp_path / "out"), overwrite=True)
    assert not (tmp_path / "out" / "mine").exists()


def test_a_build_that_leaks_fails_and_leaves_nothing(
    make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak: candidates drawn from a generator that is seeded with the target."""

    def seeded(size: int, history: Any, targets: np.ndarray, keys: np.ndarray, count: int, **_: Any) -> np.ndarray:
        negatives = [np.random.default_rng(t).choice(np.delete(np.arange(size), t), count - 1, False) for t in targets]
        return np.concatenate([targets[:, None], np.stack(negatives)], axis=1)

    monkeypatch.setattr(examples, "draw_candidates", seeded)
    with pytest.raises(
        InputError, match=r"the audit of .* failed: .*candidate memoriser at chance in Music: hr@1 0\.\d"
    ):
        build_corpus(make_config(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(make_config: Make, tmp_path: Path) -> None:
    config = make_config(tmp_path / "out")
    world = read_source(config.source, "test")

    def interrupt() -> None:
        while not list(tmp_path.glob(".out.*.tmp")):  # the work in the temporary folder has begun
            pass
        _thread.interrupt_main()

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        build_from(world, config)
    watcher.join()
    assert not list(tmp_path.iterdir())


def test_the_estimate_of_the_space_needed_is_an_upper_one(corpus: Path, make_config: Make) -> None:
    world, size = _world(make_config), sum(map(len, _files(corpus).values()))
    lengths = world.interactions.group_by("domain", "user_id").len().group_by("domain").agg("len").collect()
    figures = {domain: DomainFigures(len(sizes), sum(sizes), Counter(sizes)) for domain, sizes in lengths.iter_rows()}
    estimate = estimate_bytes(figures, world.items.collect(), make_config(Path("x")))
    assert size < estimate < 5 * size + (2 << 20)


@given(st.lists(st.sampled_from("abcdefg"), max_size=40), st.integers(1, 12))
def test_shards_hold_whole_users_in_order(users: list[str], rows: int) -> None:
    events = pl.DataFrame({"user_id": sorted(users)}, schema={"user_id": pl.String}).with_row_index("n")
    shards = user_shards(events, rows)
    assert [n for shard in shards for n in shard["n"]] == list(range(len(users)))
    owners = [set(shard["user_id"]) for shard in shards]
    assert sum(map(len, owners)) == len(set(users))
    assert all(len(shard) - (shard["user_id"] == shard["user_id"][-1]).sum() < rows for shard in shards)


def test_slugs_and_their_collisions() -> None:
    assert domain_slugs(["Arts & Crafts", "CDs", "Pet  Food!"]) == {
        "Arts & Crafts": "arts-crafts", "CDs": "cds", "Pet  Food!": "pet-food",
    }  # fmt: skip
    with pytest.raises(InputError, match="'A B' and 'a-b' would both be named 'a-b'"):
        domain_slugs(["A B", "a-b"])
    with pytest.raises(InputError, match="'食品' has no letter"):
        domain_slugs(["食品"])


def test_the_facts_hold_what_the_card_and_the_stages_read(corpus: Path) -> None:
    facts = json.loads((corpus / "cprec-corpus.json").read_text(encoding="utf-8"))
    assert {
        "format", "name", "template", "tokenizer", "about", "source", "domains", "split", "candidates",
        "content_sha256", "account", "audit", "counts", "tokens", "titles", "seed", "cprec_hf",
    } <= facts.keys()  # fmt: skip
    assert facts["template"] == {
        "version": "1", "max_title_tokens": 24, "history_length": 5, "window_tokens": 128,
        "candidate_list_in_prompt": False,
    }  # fmt: skip
    assert facts["tokenizer"] == "tokenizer"
    assert (
        simulate(MarketplaceConfig(**{k: v for k, v in facts["source"].items() if k != "kind"})).about.order == "time"
    )


def _table(folder: Path, users: int, cpt_events: int, later_events: int) -> dict[str, Any]:
    """A source of two domains, A and M, in which every user does so much; M's events a day apart, after A's."""
    items = [(f"{d}{i}", d, f"title {d} {i}") for d in "AM" for i in range(12)]
    pl.DataFrame(items, ["item_id", "domain", "title"], orient="row").write_parquet(folder / "items.parquet")
    rows = [
        (f"u{user}", f"{domain}{(3 * user + at) % 12}", domain, 1_600_000_000 + 86_400 * (at + 20 * (domain == "M")))
        for user in range(users)
        for domain, n in (("A", cpt_events), ("M", later_events))
        for at in range(n)
    ]
    names = ["user_id", "item_id", "domain", "timestamp"]
    pl.DataFrame(rows, names, orient="row").write_parquet(folder / "events.parquet")
    source = {"kind": "table", "name": "t", "licence": "l", "citation": "c"}
    return source | {"interactions": str(folder / "events.parquet"), "items": str(folder / "items.parquet")}


@pytest.mark.parametrize(
    ("sizes", "keys", "message"),
    [
        ((3, 3, 0), {}, "domain 'M' of `downstream` has items and not one event"),
        ((1, 1, 8), {}, "not one pre-training document is left for train"),
        ((1, 3, 8), {"cpt_validation_share": 0.5}, "not one pre-training document is left for train"),
        ((2, 4, 3), {"split": {"policy": "leave_one_out"}}, "not one row of M is left for train"),
        ((1, 4, 2), {"split": {"policy": "leave_one_out"}}, "the split leaves no train event|no validation event"),
    ],
)
def test_too_little_to_build_from_is_said(
    make_config: Make, tmp_path: Path, sizes: tuple[int, int, int], keys: dict[str, Any], message: str
) -> None:
    values = {
        "source": _table(tmp_path, *sizes),
        "downstream": ["M"],
        "candidates": 3,
        "tokenizer": {"vocab_size": 300},
    }
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        build_corpus(make_config(tmp_path / "out", **values | {"cpt_validation_share": 0.0} | keys))
    assert sorted(tmp_path.iterdir()) == before


def test_the_facts_hold_the_recipe_that_builds_the_corpus_again(corpus: Path, tmp_path: Path) -> None:
    facts = load_facts(corpus)
    recipe = from_mapping(facts["recipe"] | {"output": str(tmp_path / "again")}, CorpusConfig, "recipe")
    assert "kind" in facts["recipe"]["source"] and "train_targets" not in facts["recipe"]  # no defaults
    assert load_facts(build_corpus(recipe))["content_sha256"] == facts["content_sha256"]


def test_lengths_of_histories_are_recorded(corpus: Path) -> None:
    for domain in load_facts(corpus)["domains"].values():
        lengths, mean = domain["lengths"], domain["interactions"] / domain["users"]
        assert 1 <= lengths["median"] <= lengths["p90"] <= lengths["max"] and mean <= lengths["max"]
