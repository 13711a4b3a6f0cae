"""Controls: what they keep and what they destroy, event by event, on any users and any partition of them."""

import itertools
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors.sources import read_source
from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.controls import CONTROLS, KINDS, SHUFFLED_TIME, SHUFFLED_USERS
from cprec_hf.corpus.events import Bucket
from cprec_hf.corpus.handover import circle_keys, hand_over, receivers
from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.pseudonyms import pseudonymise
from cprec_hf.corpus.sequences import CATALOGUE, EVENTS, HANDED, SequencePlan, cpt_sequences
from cprec_hf.corpus.template import load_template
from cprec_hf.corpus.write import Part
from cprec_hf.errors import InputError

SOURCE = {
    "kind": "marketplace", "unseen": ["Music"], "users": 60, "events_per_user": 20, "unseen_users": 150,
    "unseen_events_per_user": 8, "items_per_domain": 120,
}  # fmt: skip
DOMAINS = ["Books", "Games", "Music"]
ITEMS = [{"domain": d, "item_id": f"i{n}", "title": f"{d} {n}", "tokens": 2 + n % 3} for d in DOMAINS for n in range(6)]
CATALOGUE_TABLE = pa.Table.from_pylist(ITEMS, schema=CATALOGUE)
HEADERS = {None: 7, "Books": 5, "Games": 4, "Music": 6}
COLUMNS = {"user_id": pl.String, "domain": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "clock": pl.Int64}


def _plan(kinds: tuple[str, ...] = KINDS, seed: int = 0) -> SequencePlan:
    return SequencePlan("1", kinds, 24, HEADERS, True, CATALOGUE_TABLE, seed)


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Events of up to nine users; each time once, and a clock that is the time or unknown."""
    row = st.tuples(st.sampled_from("abcdefghi"), st.sampled_from(DOMAINS), st.integers(0, 5), st.booleans())
    rows = draw(st.lists(row, max_size=80))
    times = draw(st.permutations(range(len(rows))))
    events = [
        (user, domain, f"i{item}", time, time if known else None)
        for (user, domain, item, known), time in zip(rows, times, strict=True)
    ]
    return pl.DataFrame(events, schema=COLUMNS, orient="row").sort("user_id", "domain", "timestamp", "item_id")


def _table(events: pl.DataFrame, handed: pl.DataFrame | None = None) -> pa.Table:
    both = [events.with_columns(pl.lit(False).alias(HANDED))]
    both += [] if handed is None else [handed.with_columns(pl.lit(True).alias(HANDED))]
    codes = pl.DataFrame([{"domain": i["domain"], "item_id": i["item_id"], "item": n} for n, i in enumerate(ITEMS)])
    rows = pl.concat(both).join(codes.cast({"item": pl.Int32}), on=["domain", "item_id"], how="left")
    return rows.select(*EVENTS.names, HANDED).to_arrow()


def _parts(events: pl.DataFrame, bounds: str = "") -> list[Part]:
    """The events in buckets of users, each beginning at one of `bounds`."""
    edges, parts = ["", *sorted(bounds), "~"], []
    numbers = {(item["domain"], item["item_id"]): n for n, item in enumerate(ITEMS)}
    for first, last in itertools.pairwise(edges):
        rows = events.filter(pl.col("user_id") >= first, pl.col("user_id") < last)
        rows = rows.sort("user_id", "domain", "timestamp", "item_id")
        users = rows["user_id"].unique().sort()
        item = np.array([numbers[key] for key in rows.select("domain", "item_id").iter_rows()], dtype=np.int32)
        user = users.search_sorted(rows["user_id"]).to_numpy().astype(np.int32)
        frame = rows.with_columns(user_id=user, item_id=item, domain=pl.col("domain").cast(pl.Enum(DOMAINS)))
        nothing = np.zeros(0)
        bucket = Bucket(users.to_arrow().cast(pa.string()), user, item, nothing, nothing, nothing)
        parts.append(Part(bucket, len(rows), frame, frame.clear()))
    return parts


def _handed(events: pl.DataFrame, held: Iterable[str] = (), seed: int = 0, bounds: str = "") -> pl.DataFrame:
    """The events with their receivers as users, sorted."""
    parts = _parts(events, bounds)
    with tempfile.TemporaryDirectory() as folder:
        handed = hand_over(parts, DOMAINS, pa.array(sorted(held), pa.string()), Path(folder) / "handed", seed)
        found = [handed.of(number) for number in range(len(parts))]
    rows = []
    for part, frame in zip(parts, found, strict=True):
        assert frame["user_id"].is_sorted()
        for user, item, time, clock in frame.iter_rows():
            row = ITEMS[item]
            rows.append((part.bucket.users[user].as_py(), row["domain"], row["item_id"], time, clock))
    assert len(rows) == handed.events
    return pl.DataFrame(rows, schema=COLUMNS, orient="row").sort("user_id", "domain", "timestamp", "item_id")


def _told(row: dict[str, Any]) -> list[tuple[str, str]]:
    return list(zip(row["item_domains"], row["item_ids"], strict=True))


@given(logs(), st.integers(0, 3))
def test_shuffled_lines_are_the_documents_lines(events: pl.DataFrame, seed: int) -> None:
    rows = cpt_sequences(_table(events), _plan(("domain", "all_domain", *SHUFFLED_TIME), seed)).to_pylist()
    template = load_template("1")
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    for control in SHUFFLED_TIME:
        assert len(of_kind[control]) == len(of_kind[CONTROLS[control]])
        for own, kept in zip(of_kind[control], of_kind[CONTROLS[control]], strict=True):
            assert sorted(_told(own)) == sorted(_told(kept))
            for column in ("user_id", "domain", "n_tokens", "last_timestamp"):
                assert own[column] == kept[column], column
            titles = [f"{domain} {item[1:]}" for domain, item in _told(own)]
            assert own["text"] == template.prompt(own["domain"], titles)
    order = {kind: i for i, kind in enumerate(KINDS)}
    keys = [(row["user_id"], order[row["kind"]]) for row in rows]
    assert keys == sorted(keys)


def test_every_order_of_the_lines_is_as_likely() -> None:
    """2,000 users of three events each: the six orders within four standard deviations of a sixth."""
    users = [f"u{i}" for i in range(2000)]
    rows = [(user, "Books", f"i{n}", n, n) for user in users for n in range(3)]
    events = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    drawn = [
        [tuple(ids) for ids in cpt_sequences(_table(events), _plan(SHUFFLED_TIME[:1], seed))["item_ids"].to_pylist()]
        for seed in (0, 1)
    ]
    for orders in drawn:
        counts = np.array([*Counter(orders).values()])
        assert len(counts) == 6 and np.abs(counts - 2000 / 6).max() < 4 * np.sqrt(2000 * 5 / 36)
    assert 0.1 < np.mean([a == b for a, b in zip(*drawn, strict=True)]) < 0.24  # a sixth, by chance


@given(logs(), st.lists(st.integers(0, 2), min_size=9, max_size=9), st.randoms())
@settings(max_examples=40)
def test_any_partition_of_the_users_gives_the_same_rows(events: pl.DataFrame, shard_of: list[int], random: Any) -> None:
    handed = _handed(events)
    whole = cpt_sequences(_table(events, handed), _plan()).to_pylist()
    shard = dict(zip("abcdefghi", shard_of, strict=True))
    parts = []
    for s in range(3):
        mine = [user for user in shard if shard[user] == s]
        table = _table(*(frame.filter(pl.col("user_id").is_in(mine)) for frame in (events, handed)))
        order = random.sample(range(table.num_rows), table.num_rows)
        parts.append(cpt_sequences(table.take(pa.array(order, pa.int64())), _plan()))
    key = lambda row: row["user_id"]  # noqa: E731  (stable: documents of one user keep their order)
    assert sorted(pa.concat_tables(parts).to_pylist(), key=key) == whole


BOUNDS = st.sampled_from(["", "c", "bdz", "abcdefghij"])


@given(logs(), st.sets(st.sampled_from("abcdefghi")), st.integers(0, 3), BOUNDS)
def test_each_domain_history_goes_whole_to_another_user(
    events: pl.DataFrame, held: set[str], seed: int, bounds: str
) -> None:
    """Against one event at a time: who gives whom what, and that nothing is lost, doubled or kept."""
    given_, taken = defaultdict(list), defaultdict(list)
    domains_of = defaultdict(set)
    for user, domain, *event in events.iter_rows():
        if event[-1] is not None:
            domains_of[user].add(domain)
    takes_part = {user for user, domains in domains_of.items() if len(domains) >= 2 and user not in held}
    for user, domain, *event in events.iter_rows():
        if user in takes_part and event[-1] is not None:
            given_[domain, user].append(tuple(event))
    handed = _handed(events, held, seed)
    assert _handed(events, held, seed, bounds).equals(handed)  # however many buckets
    for user, domain, *event in handed.iter_rows():
        taken[domain, user].append(tuple(event))
    giver = {}
    for (domain, receiver), history in taken.items():
        (who,) = [user for (d, user), mine in given_.items() if d == domain and sorted(mine) == sorted(history)]
        giver[domain, receiver] = who
    assert taken.keys() == given_.keys()  # everybody has as many domains as before
    for domain in DOMAINS:
        pairs = [(r, g) for (d, r), g in giver.items() if d == domain]
        assert sorted(r for r, _ in pairs) == sorted(g for _, g in pairs)
        assert len(pairs) <= 1 or all(r != g for r, g in pairs)


def test_who_receives_is_drawn_anew_in_each_domain_and_by_each_seed() -> None:
    users = pa.array([f"u{i:04d}" for i in range(1000)])
    keys = [np.concatenate([circle_keys(users, domain, seed) for domain in DOMAINS]) for seed in (0, 1)]
    user, domain = np.tile(np.arange(1000), 3), np.repeat(np.arange(3), 1000)
    by_domain = [one.tolist() for key in keys for one in receivers(user, domain, key).reshape(3, 1000)]
    for i, one in enumerate(by_domain):
        assert len(set(one)) == 1000
        for other in by_domain[i + 1 :]:  # a user's domains go to the same one about once in a thousand
            assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.01


@given(logs(), st.sets(st.sampled_from("abcdefghi")))
@settings(max_examples=40)
def test_documents_of_shuffled_users_are_all_domain_documents_of_what_was_handed_over(
    events: pl.DataFrame, held: set[str]
) -> None:
    handed = _handed(events, held)
    both = cpt_sequences(_table(events, handed), _plan()).to_pylist()
    alone = cpt_sequences(_table(handed), _plan(("all_domain",))).to_pylist()
    assert [row for row in both if row["kind"] == SHUFFLED_USERS] == [{**r, "kind": SHUFFLED_USERS} for r in alone]
    own = cpt_sequences(_table(events), _plan((*KINDS[:2], *SHUFFLED_TIME))).to_pylist()
    assert [row for row in both if row["kind"] != SHUFFLED_USERS] == own


def test_an_engine_that_hands_nothing_over_makes_no_documents_of_it() -> None:
    with pytest.raises(ValueError, match="all_domain_shuffled_users are made of events handed over"):
        cpt_sequences(_table(pl.DataFrame(schema=COLUMNS)).drop([HANDED]), _plan())


@pytest.fixture(scope="module")
def controlled(make_config: Callable[..., CorpusConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus with every control; read only."""
    return build_corpus(make_config(tmp_path_factory.mktemp("controls") / "small", sequences=[*KINDS]))


def _cpt(folder: Path, split: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "cpt" / f"{split}.parquet")


def test_controls_lie_beside_the_same_documents(controlled: Path, corpus: Path) -> None:
    train = _cpt(controlled, "train")
    assert set(train["kind"]) == {*KINDS}
    assert train.filter(~pl.col("kind").is_in([*CONTROLS])).equals(_cpt(corpus, "train"))
    assert _cpt(controlled, "validation").equals(_cpt(corpus, "validation"))  # of what people did, and of nothing else
    facts = load_facts(controlled)
    sizes = dict(train.group_by("kind").agg(n=pl.len()).iter_rows())
    validating = dict(_cpt(corpus, "validation").group_by("kind").agg(n=pl.len()).iter_rows())
    found = {kind: n for kind, n in facts["documents"].items() if kind != "items"}
    assert found == {kind: sizes[kind] + validating.get(kind, 0) for kind in KINDS}
    for control in SHUFFLED_TIME:
        pair = [train.filter(pl.col("kind") == kind) for kind in (control, CONTROLS[control])]
        assert pair[0]["n_tokens"].equals(pair[1]["n_tokens"])
        moved = [a != b for a, b in zip(pair[0]["item_ids"].to_list(), pair[1]["item_ids"].to_list(), strict=True)]
        assert np.mean(moved) > 0.9
    steps = {step["name"]: step for step in facts["account"]}
    for kind in KINDS:
        step = steps[f"events in {kind} documents"]
        told = pl.concat([_cpt(controlled, split) for split in ("train", "validation")]).filter(pl.col("kind") == kind)
        assert step["rows_out"] == told["item_ids"].list.len().sum()
        assert step["refused"].get("of a validation user", 0) > 0 or kind not in CONTROLS
    assert "a control: " in (controlled / "README.md").read_text()


def test_any_number_of_buckets_gives_the_same_bytes(
    controlled: Path, make_config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    again = build_corpus(make_config(tmp_path / "again", sequences=[*KINDS], memory_gb=1e-4))
    for split in ("train", "validation"):
        name = f"cpt/{split}.parquet"
        assert (again / name).read_bytes() == (controlled / name).read_bytes()
    ours, theirs = load_facts(again), load_facts(controlled)
    assert ours["account"] == theirs["account"] and ours["tokens"] == theirs["tokens"]
    assert {path.name for path in again.iterdir()} == {path.name for path in controlled.iterdir()}


def test_no_history_of_a_validation_user_is_handed_on(
    controlled: Path, make_config: Callable[..., CorpusConfig]
) -> None:
    """By the logs: the events of the control are those of training users' own documents, and nobody's are their own."""
    held = set(_cpt(controlled, "validation")["user_id"])
    cut = load_facts(controlled)["split"]["cuts"]["validation"]
    own = defaultdict(set)
    logs = read_source(make_config(Path("unused")).source, "test").interactions
    logs = logs.filter(pl.col("timestamp") < cut).collect()
    names = dict(zip(users := logs["user_id"].unique().to_list(), pseudonymise(users), strict=True))
    for user, domain, item in logs.select("user_id", "domain", "item_id").iter_rows():
        own[names[user]].add((domain, item))
    trained = {event for user, events in own.items() if user not in held for event in events}
    kept = total = 0
    for row in _cpt(controlled, "train").filter(pl.col("kind") == SHUFFLED_USERS).to_dicts():
        assert row["user_id"] not in held and set(_told(row)) <= trained
        assert row["last_timestamp"] < cut
        kept += len(set(_told(row)) & own[row["user_id"]])
        total += len(_told(row))
    only_held = {event for user in held for event in own[user]} - trained
    assert only_held and total  # there were events by which a leak would show
    assert kept / total < 0.3  # what two users have in common


def _everywhere(domain: str) -> pl.Expr:
    """That domain as the domain of all items."""
    return pl.lit(domain).repeat_by(pl.col("item_ids").list.len()).alias("item_domains")


@pytest.mark.parametrize(
    ("kind", "change", "check"),
    [
        (SHUFFLED_USERS, _everywhere("Music"), "no downstream domain in pre-training"),
        (SHUFFLED_USERS, pl.lit(2**40).alias("last_timestamp"), "pre-training ends before the validation cut"),
        (SHUFFLED_USERS, pl.col("text").str.to_uppercase(), "documents read as their items"),
        (SHUFFLED_TIME[0], _everywhere("Games"), "domain documents hold one domain"),
        (SHUFFLED_TIME[1], pl.col("n_tokens") - 1, "token counts"),
    ],
)
def test_the_audit_passes_controls_and_not_what_is_planted_in_one(
    controlled: Path, tmp_path: Path, kind: str, change: pl.Expr, check: str
) -> None:
    """The audit of the corpus as it is, and of a copy with a change in the rows of one user and kind."""
    assert all(row.passed for row in audit_corpus(controlled).rows)
    copy = shutil.copytree(controlled, tmp_path / "copy")
    rows, name = _cpt(copy, "train"), change.meta.output_name()
    user = rows.filter((pl.col("kind") == kind) & (pl.col("item_domains").list.first() != "Games"))["user_id"][0]
    here = (pl.col("kind") == kind) & (pl.col("user_id") == user)
    changed = rows.with_columns(pl.when(here).then(change).otherwise(pl.col(name)).cast(rows.schema[name]).alias(name))
    assert not changed.equals(rows)
    changed.write_parquet(copy / "cpt" / "train.parquet")
    assert check in {row.check for row in audit_corpus(copy).rows if not row.passed}


def test_under_leave_one_out_no_document_of_a_held_out_user_ends_late(
    make_config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    """The audit, which the build requires, compares the times of all documents with the user's held-out events."""
    source = {**SOURCE, "domains": ["Books", "Home", "Games"]}  # whose users are active in all three
    keys: dict[str, Any] = {"source": source, "downstream": ["Games", "Music"], "split": {"policy": "leave_one_out"}}
    facts = load_facts(build_corpus(make_config(tmp_path / "loo", sequences=["all_domain", SHUFFLED_USERS], **keys)))
    step = next(s for s in facts["account"] if s["name"] == f"events in {SHUFFLED_USERS} documents")
    assert step["refused"]["at or after the receiver's validation event"] > 0
    checks = {row["check"]: row["n"] for row in facts["audit"]}
    assert checks["pre-training ends before the user's validation event"] > 0


def test_a_control_without_its_kind_is_refused(make_config: Callable[..., CorpusConfig], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names domain_shuffled_time, a control of domain; name that kind beside it"):
        make_config(tmp_path, sequences=["all_domain", "domain_shuffled_time"])
