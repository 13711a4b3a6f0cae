"""Windows over long histories, by the row: each event once, in order, and lengths that are the encoder's own count."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors.account import Account
from cprec_hf.behaviors.schema import About, Behaviors
from cprec_hf.corpus.build import build_from
from cprec_hf.corpus.catalogue import make_catalogue, read_items
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.load import corpus_tokenizer, load_facts
from cprec_hf.corpus.sequences import CATALOGUE, EVENTS, SequencePlan, cpt_sequences
from cprec_hf.corpus.template import load_template

WORDS = ["sea", "light", "café", "日本", "</s>", "naïve", "a", "over-the-top", "Ω", "2 in 1", "🎈"]
TEMPLATE = load_template("1")
CUTS = 100_000  # events of the downstream domain come later, so that all others are for pre-training


def _items(rng: np.random.Generator, domains: list[str], n: int) -> pl.DataFrame:
    """Items with titles of one to eight odd words."""
    rows = [(domain, f"i{i}", " ".join(rng.choice(WORDS, rng.integers(1, 9)))) for domain in domains for i in range(n)]
    return pl.DataFrame(rows, schema=["domain", "item_id", "title"], orient="row")


@given(
    st.integers(0, 2**32 - 1), st.integers(1500, 4000), st.lists(st.integers(1, 40), max_size=4), st.integers(70, 300)
)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lengths_are_the_encoders_count_of_the_whole_text(
    any_tokenizer: Any, seed: int, heavy: int, light: list[int], window: int
) -> None:
    """One user of thousands of events beside light ones; against a loop that fills windows line by line."""
    rng, encoder = np.random.default_rng(seed), Encoder(any_tokenizer)
    catalogue = make_catalogue(read_items(_items(rng, ["Books", "Games"], 60).lazy()), encoder, TEMPLATE, 16).items
    headers = {
        domain: int(encoder.documents([TEMPLATE.header(domain)]).lengths[0]) for domain in (None, "Books", "Games")
    }
    table = catalogue.select(CATALOGUE.names).to_arrow().cast(CATALOGUE)
    plan = SequencePlan("1", ("domain", "all_domain"), window + headers[None], headers, True, table)
    events = [
        (f"u{user}", int(item), int(time), int(time))
        for user, n in enumerate([heavy, *light])
        for item, time in zip(rng.integers(0, len(catalogue), n), rng.permutation(n), strict=True)
    ]
    documents = cpt_sequences(pa.table(dict(zip(EVENTS.names, zip(*events, strict=True), strict=True)), EVENTS), plan)
    counted = encoder.documents(documents["text"]).lengths
    assert documents["n_tokens"].to_pylist() == counted.tolist()
    assert counted.max() <= plan.window_tokens

    histories: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    domain_of, lengths = catalogue["domain"].to_list(), catalogue["tokens"].to_list()
    for user, item, _, _ in sorted(events, key=lambda event: (event[0], event[2])):
        histories[user, domain_of[item]].append(item)
        histories[user, None].append(item)
    expected: dict[tuple[str, str | None], list[list[int]]] = {}
    for (user, domain), history in histories.items():
        if domain is None and len({domain_of[item] for item in history}) == 1:
            continue
        windows: list[list[int]] = [[]]
        for item in history:
            if headers[domain] + sum(lengths[i] for i in windows[-1]) + lengths[item] > plan.window_tokens:
                windows.append([])
            windows[-1].append(item)
        if kept := [window for window in windows if len(window) >= 2]:
            expected[user, domain] = kept
    number = {(d, i): n for n, (d, i) in enumerate(catalogue.select("domain", "item_id").iter_rows())}
    told: dict[tuple[str, str | None], list[list[int]]] = defaultdict(list)
    for row in documents.to_pylist():
        pairs = zip(row["item_domains"], row["item_ids"], strict=True)
        told[row["user_id"], row["domain"]].append([number[pair] for pair in pairs])
    assert told == expected


@pytest.fixture(scope="module")
def logs() -> pl.DataFrame:
    """Two heavy users and sixty light ones in two domains to pre-train on, one of them heavy downstream too."""
    rng, rows = np.random.default_rng(5), []
    for user, n in [
        ("heavy-0", 5000),
        ("heavy-1", 3000),
        *((f"light-{i}", int(rng.integers(1, 25))) for i in range(60)),
    ]:
        for domain, share in (("Books", 0.7), ("Games", 0.3)):
            times = rng.choice(CUTS, round(n * share), replace=False)
            rows += [(user, domain, f"i{rng.integers(300)}", int(time)) for time in times]
    for user, n in [("heavy-0", 2500), *((f"light-{i}", 9) for i in range(60))]:
        items = rng.permutation(3000)[:n]
        rows += [
            (user, "Toys", f"i{i}", CUTS + int(t))
            for i, t in zip(items, rng.choice(90_000, n, replace=False), strict=True)
        ]
    return pl.DataFrame(rows, schema=["user_id", "domain", "item_id", "timestamp"], orient="row")


def test_a_built_corpus_holds_each_event_once_or_says_why_not(
    logs: pl.DataFrame, make_config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    rng = np.random.default_rng(6)
    items = pl.concat([_items(rng, ["Books", "Games"], 300), _items(rng, ["Toys"], 3000)])
    behaviors = Behaviors(
        logs.with_columns(rating=pl.lit(None, pl.Float32)).lazy(), items.lazy(), About("x", "y", "z", "time"), Account()
    )
    keys: dict[str, Any] = {"downstream": ["Toys"], "pseudonymise": False, "cpt_validation_share": 0.2}
    folder = build_from(behaviors, make_config(tmp_path / "long", max_title_tokens=20, **keys))
    facts, encoder = load_facts(folder), Encoder(corpus_tokenizer(folder))
    parts = {split: pl.read_parquet(folder / "cpt" / f"{split}.parquet") for split in ("train", "validation")}
    for part in parts.values():
        assert part["n_tokens"].to_list() == encoder.documents(part["text"].to_arrow()).lengths.tolist()
    assert not set(parts["train"]["user_id"]) & set(parts["validation"]["user_id"])
    both = pl.concat(parts.values())
    cut = facts["split"]["cuts"]["validation"]
    before = logs.filter(pl.col("timestamp") < cut, pl.col("domain") != "Toys").sort("timestamp", "item_id")
    assert len(before) == len(logs.filter(pl.col("domain") != "Toys"))
    steps = {step["name"]: step for step in facts["account"]}
    for kind, by in (("domain", ["user_id", "domain"]), ("all_domain", ["user_id"])):
        told = both.filter(pl.col("kind") == kind)
        histories = {key: group for key, group in before.group_by(by, maintain_order=True)}  # noqa: C416 (a GroupBy)
        written = {key: group for key, group in told.group_by(by, maintain_order=True)}  # noqa: C416
        alone = single = 0
        for key, history in histories.items():
            if kind == "all_domain" and history["domain"].n_unique() == 1:
                single += len(history)
                assert key not in written
                continue
            events = history.sort("timestamp", "domain", "item_id").select("domain", "item_id").rows()
            rows = (
                written[key].explode("item_domains", "item_ids").select("item_domains", "item_ids").rows()
                if key in written
                else []
            )
            assert rows == events[: len(rows)] and len(events) - len(rows) in (0, 1)
            alone += len(events) - len(rows)
        refused = {"alone in a window": alone}
        if kind == "all_domain":
            refused |= {"order across domains unknown": 0, "user active in one domain only": single}
        step = steps[f"events in {kind} documents"]
        assert (step["rows_in"], step["refused"]) == (len(before), refused)
    writers = set(both["user_id"])
    assert parts["validation"]["user_id"].n_unique() == round(0.2 * len(writers))
    longest = max(len(group) for _, group in both.group_by("user_id", "kind", "domain"))
    assert longest > 100  # windows of one history

    train = pl.read_parquet(folder / "sft-toys" / "train.parquet")
    lines = train.select("user_id", item=pl.concat_list("history", "target")).explode("item")
    step = next(s for name, s in steps.items() if name.startswith("training events as lines of Toys"))
    assert len(lines) == len(lines.unique()) == step["rows_out"]
    widths = encoder.documents((train["prompt"] + train["completion"]).to_arrow()).lengths
    assert widths.max() <= facts["template"]["window_tokens"]
    assert train.filter(pl.col("user_id") == "heavy-0")["history"].list.len().sum() > 500
