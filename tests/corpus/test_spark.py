"""Spark against Polars, row for row: the global steps, the shard functions, and whole corpora."""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.filters import FilterConfig, apply_filters
from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.corpus import spark_events, spark_shards, spark_tables
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.controls import KINDS
from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.pseudonyms import pseudonymise, user_key
from cprec_hf.corpus.sequences import CATALOGUE, EVENTS, SEQUENCES, SequencePlan, cpt_sequences
from cprec_hf.corpus.spark_session import Scratch
from cprec_hf.errors import InputError

pytest.importorskip("pyspark", reason="PySpark is not installed (the extra `spark`)")
pytestmark = pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java, and there is none on PATH")


def few(examples: int) -> settings:
    """Spark takes seconds for an example, and would take many minutes to shrink a failing one."""
    return settings(max_examples=examples, phases=[Phase.explicit, Phase.generate])


SCHEMA = {"user_id": pl.String, "domain": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """A Spark of two cores in this process, quiet, small, and reachable from nowhere else."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    without_compiling = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
    settings = without_compiling | {
        "spark.master": "local[2]", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR",
        "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2",
        "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    }  # fmt: skip
    session = SparkSession.builder.config(map=settings).getOrCreate()
    yield session
    session.stop()


def _to_spark(spark: Any, frame: pl.DataFrame) -> Any:
    arrow = {pl.String: pa.string(), pl.Int64: pa.int64(), pl.Int32: pa.int32()}
    return spark.createDataFrame(frame.to_arrow().cast(pa.schema([(n, arrow[t]) for n, t in frame.schema.items()])))


def _from_spark(rows: Any, *by: str) -> pl.DataFrame:
    frame = pl.from_arrow(rows.toArrow())
    assert isinstance(frame, pl.DataFrame)
    return frame.sort(by or frame.columns)


ITEMS = pl.DataFrame(
    [
        {"domain": domain, "item_id": item, "title": f"{item} of {domain}", "tokens": 2 + i % 3}
        for domain in "ABC"
        for i, item in enumerate("ijklm")
    ],
    schema={"domain": pl.String, "item_id": pl.String, "title": pl.String, "tokens": pl.Int32},
)
CODES = ITEMS.select("domain", "item_id").with_row_index("item").with_columns(pl.col("item").cast(pl.Int32))
logs = st.lists(
    st.tuples(st.sampled_from("uvwxyzé"), st.sampled_from("AB"), st.sampled_from("ijklm"), st.integers(0, 30)),
    min_size=1, max_size=60, unique=True,
).map(lambda rows: pl.DataFrame(rows, schema=SCHEMA, orient="row"))  # fmt: skip


def _coded(rows: pl.DataFrame, *, gaps: bool = False) -> pl.DataFrame:
    """user_id, domain, item, timestamp and clock, null where the time is a multiple of 5 if there are `gaps`."""
    clock = pl.when((pl.col("timestamp") % 5 > 0) | (not gaps)).then("timestamp")
    coded = rows.join(CODES, on=["domain", "item_id"], maintain_order="left").with_columns(clock=clock)
    return coded.select("user_id", "domain", "item", "timestamp", "clock")


@pytest.fixture
def scratch(spark: Any, tmp_path: Path) -> Callable[[], Scratch]:
    """A new empty scratch for each example of a test."""
    numbers = itertools.count()

    def make() -> Scratch:
        folder = tmp_path / f"{next(numbers)}"
        folder.mkdir()
        return Scratch(spark, folder)

    return make


@few(5)
@given(logs, st.integers(0, 4), st.integers(0, 4), st.none() | st.integers(4, 8), st.booleans())
def test_filters(
    spark: Any, scratch: Any, rows: pl.DataFrame, users: int, items: int, most: int | None, core: bool
) -> None:
    config = FilterConfig(users, items, most, core)
    behaviors = Behaviors(
        rows.lazy(), ITEMS.lazy(), About("toy", "CC0-1.0", "nobody", "time"), Account()
    )  # fmt: skip
    kept, refused = spark_tables.filtered(_to_spark(spark, _coded(rows)), config, scratch())
    try:
        expected = apply_filters(behaviors, config)
    except InputError:
        assert kept.count() == 0
        return
    stayed = _coded(expected.interactions.collect()).select(kept.columns)
    assert _from_spark(kept).equals(stayed.sort(kept.columns))
    steps = [step for step in expected.account.steps if step.name == "interactions: filter"]
    assert refused == (steps[0].refused if steps else {})


@few(4)
@given(st.lists(st.integers(-5, 5) | st.integers(0, 2**62), min_size=1, max_size=40), st.data())
def test_order_statistics(spark: Any, values: list[int], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=3))
    rows = spark.createDataFrame(pa.table({"timestamp": pa.array(values, pa.int64())}))
    assert spark_tables.order_statistics(rows, "timestamp", places) == [sorted(values)[place] for place in places]


@few(3)
@given(logs)
def test_buckets_hold_whole_users_in_the_order_of_their_ids(spark: Any, scratch: Any, rows: pl.DataFrame) -> None:
    events = _coded(rows)
    found = _from_spark(spark_events.bucketed(_to_spark(spark, events), scratch(), 10), "user_id")
    assert found.drop("bucket").sort(events.columns).equals(events.sort(events.columns))
    assert found["bucket"].is_sorted()
    assert found.group_by("user_id").agg(pl.col("bucket").n_unique())["bucket"].unique().to_list() == [1]
    assert found["bucket"].n_unique() > 1 or found["user_id"].n_unique() == 1 or len(rows) <= 10


@few(2)
@given(logs, st.randoms(use_true_random=False))
def test_equal_events_are_taken_once_at_their_earliest_clock(spark: Any, rows: pl.DataFrame, random: Any) -> None:
    events = _coded(rows).drop("domain")
    again = [(*row[:3], random.choice([None, 3, 77])) for row in events.rows() for _ in range(random.randrange(3))]
    every = pl.concat(
        [events.with_columns(clock=pl.lit(50, pl.Int64)), pl.DataFrame(again, events.schema, orient="row")]
    )
    found = _from_spark(spark_events.distinct_events(_to_spark(spark, every)))
    earliest: dict[Any, int] = {}
    for *key, clock in every.rows():
        earliest[tuple(key)] = min(earliest.get(tuple(key), 50), 50 if clock is None else clock)
    assert found.rows() == sorted((*key, clock) for key, clock in earliest.items())


def test_pseudonyms(spark: Any, scratch: Any) -> None:
    schema = {"user_id": pl.String, "n": pl.Int64}
    rows = pl.DataFrame({"user_id": ["u", "é", "u", "w"], "n": [1, 2, 3, 4]}, schema=schema)
    found = _from_spark(spark_events.with_pseudonyms(_to_spark(spark, rows), user_key(), scratch()), "n")
    assert found["user_id"].to_list() == [pseudonymise([user])[0] for user in ["u", "é", "u", "w"]]


@few(3)
@given(logs)
def test_documents(spark: Any, scratch: Any, rows: pl.DataFrame) -> None:
    """The catalogue broadcast, and mapped by the workers: the rows of the pure function for all users, by split."""
    catalogue = ITEMS.select(CATALOGUE.names).to_arrow().cast(CATALOGUE)
    plan = SequencePlan("1", ("domain", "all_domain"), 24, {None: 7, "A": 5, "B": 4, "C": 4}, True, catalogue)
    coded = _coded(rows, gaps=True)
    work = scratch()
    events = spark_events.bucketed(_to_spark(spark, coded), work, 10)
    expected = cpt_sequences(coded.select(EVENTS.names).to_arrow().cast(EVENTS), plan)
    held = pa.array(coded["user_id"].unique().sort().to_list()[::2], pa.string())
    validates = pc.is_in(expected["user_id"], held)
    for limit in (1 << 20, 0):
        spark.conf.set(spark_shards.BROADCAST_BYTES, str(limit))
        found = list(spark_shards.documents(events, plan, held, work))
        for split, rows_of in (("train", pc.invert(validates)), ("validation", validates)):
            written = pa.concat_tables([SEQUENCES.empty_table(), *(tables[split] for _, tables in found)])
            assert written.equals(expected.filter(rows_of))
        assert sum(n for n, _ in found) == len(coded)
        assert not (work.folder / "documents").exists()


def _build_on_both(make_config: Callable[..., CorpusConfig], folder: Path, **recipe: Any) -> tuple[Path, Path]:
    """The corpus of a recipe, built by Polars and by Spark; the same bytes and the same facts."""
    here = build_corpus(make_config(folder / "polars", **recipe))
    there = build_corpus(make_config(folder / "spark", engine="spark", **recipe))
    files = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert files == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    for file in files:
        if file.suffix == ".parquet":
            assert (here / file).read_bytes() == (there / file).read_bytes(), file
    ours, theirs = load_facts(here), load_facts(there)
    assert theirs["recipe"].pop("engine") == "spark"
    assert theirs == ours
    return here, there


def test_a_filtered_corpus_cut_by_time_is_the_same_on_either_engine(
    spark: Any, make_config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_events, "BUCKET_EVENTS", 500)
    spark.conf.unset(spark_shards.BROADCAST_BYTES)
    filters = {"min_user_interactions": 5, "min_item_interactions": 4}
    few = {"few_shot": [0.1, 0.5], "negatives": ["uniform", "popularity"]}
    here, _ = _build_on_both(make_config, tmp_path, filters=filters, max_test_users=20, **few)
    steps = {step["name"]: step["refused"] for step in load_facts(here)["account"]}
    assert steps["interactions: filter"] and steps["items: filter"]
    assert steps["test users of Music"]["not drawn"]


@pytest.mark.parametrize("order", ["position", "time"])
def test_a_dirty_log_makes_the_same_corpus_and_controls_on_either_engine(
    spark: Any, make_config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Events twice, of unknown items, without a place across domains; repurchases; ids that UTF-16 orders otherwise."""
    monkeypatch.setattr(spark_events, "BUCKET_EVENTS", 200)
    spark.conf.set(spark_shards.BROADCAST_BYTES, "0")
    rng, n = np.random.default_rng(5), 1500
    users = np.array([f"{prefix}{i}" for i in range(20) for prefix in ("u", "é", "\uffee", "\U0001f600")])
    clock = [None if rng.random() < 0.1 else int(rng.integers(0, 300)) for _ in range(n)]
    rows = pl.DataFrame(
        {
            "user_id": rng.choice(users, n), "domain": rng.choice(["Books", "Games", "Music"], n, p=[0.3, 0.2, 0.5]),
            "item_id": (rng.random(n) ** 2 * 42).astype(int).astype(str), "timestamp": rng.integers(0, 40, n),
            "all_domain_position": pl.Series(clock, dtype=pl.Int64),
        }
    )  # fmt: skip
    again = rows.sample(200, seed=1).with_columns(all_domain_position=pl.lit(7, pl.Int64))
    rows = pl.concat([rows, again])
    if order == "time":
        rows = rows.drop("all_domain_position").with_columns(pl.col("timestamp") * 86_400 + 1_600_000_000)
    rows.write_parquet(tmp_path / "log.parquet")
    items = [
        {"item_id": f"{i}", "domain": d, "title": f"{d} {i}"} for d in ("Books", "Games", "Music") for i in range(40)
    ]
    pl.DataFrame(items).write_csv(tmp_path / "items.csv")
    source = {
        "kind": "table", "name": "dirty", "licence": "CC0-1.0", "citation": "nobody", "order": order,
        "interactions": str(tmp_path / "log.parquet"), "items": str(tmp_path / "items.csv"),
    }  # fmt: skip
    here, _ = _build_on_both(
        make_config, tmp_path / "corpora", source=source, split={"policy": "leave_one_out"}, pseudonymise=False,
        train_targets="every", candidates=5, max_test_users=30, sequences=list(KINDS),
    )  # fmt: skip
    steps = {step["name"]: step["refused"] for step in load_facts(here)["account"]}
    assert {"duplicate event", "item not in the catalogue"} <= set(steps["interactions: read"])
    assert steps["events for pre-training"]["at or after the user's validation event"]
    assert steps["test users of Music"]["no earlier event, or no new item, to ask about"]
    if order == "position":
        assert steps["events in all_domain documents"]["order across domains unknown"]
    else:
        assert steps["events in all_domain_shuffled_users documents"]["at or after the receiver's validation event"]


def test_an_error_of_a_worker_is_said_as_on_one_machine(spark: Any, tmp_path: Path) -> None:
    def refuse(shard: pa.Table) -> dict[str, pa.Table]:
        raise InputError(f"{shard.num_rows} rows are too few; bring more")

    events = spark.createDataFrame(pa.table({"user_id": ["u", "v"], "bucket": pa.array([0, 0], pa.int32())}))
    with pytest.raises(InputError, match=r"^2 rows are too few; bring more$"):
        list(spark_shards.map_buckets(events, refuse, ["rows"], EVENTS, tmp_path / "rows"))


def test_what_spark_needs_is_said_before_any_work(
    make_config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyspark.sql.SparkSession.getActiveSession", lambda: None)
    config = make_config(tmp_path / "corpus", engine="spark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    with pytest.raises(InputError, match="needs Java 17 or newer, and there is none at JAVA_HOME"):
        build_corpus(config)
    monkeypatch.setenv("SPARK_REMOTE", "sc://cluster")
    with pytest.raises(InputError, match="SPARK_REMOTE asks for Spark Connect"):
        build_corpus(config)
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(InputError, match=r"run `pip install 'cprec-hf\[spark\]'`"):
        build_corpus(config)
