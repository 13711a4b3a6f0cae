"""A source read into buckets: the account and the figures, against the same source read in memory."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cprec_hf.behaviors import FilterConfig, apply_filters, read_source
from cprec_hf.behaviors.sources.log import counting_later
from cprec_hf.corpus.config import CorpusConfig, TokenizerConfig
from cprec_hf.corpus.prepare import DomainFigures, Prepared, domain_figures, prepare
from cprec_hf.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    """40 users in two domains; a row without a user, an unknown item, three events twice."""
    rows = [(f"u{n % 40}", f"i{(n * n) % 23}", "AB"[n % 3 == 0], 1_000 + n // 3) for n in range(500)]
    rows += [rows[5], rows[6], rows[6], ("", "i1", "A", 3), ("u1", "no such item", "A", 3)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "domain", "timestamp"], orient="row").write_csv(
        tmp_path / "log.csv"
    )
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(30)]}).join(
        pl.DataFrame({"domain": ["A", "B"]}), how="cross"
    )
    items.with_columns(title=pl.concat_str("domain", "item_id")).write_csv(tmp_path / "items.csv")
    return {
        "kind": "table", "name": "s", "licence": "x", "citation": "x",
        "interactions": str(tmp_path / "log.csv"), "items": str(tmp_path / "items.csv"),
    }  # fmt: skip


def _prepared(source: dict[str, Any], folder: Path, filters: FilterConfig, memory_gb: float = 1e-5) -> Prepared:
    config = CorpusConfig(
        source, "x", "x", TokenizerConfig(300), ["B"], filters=filters, pseudonymise=False, memory_gb=memory_gb
    )
    with counting_later():
        behaviors = read_source(source, "here")
    assert behaviors.log is not None and behaviors.account.steps == []
    return prepare(behaviors, config, folder)


def _events(prepared: Prepared) -> list[Any]:
    items = prepared.items.select("domain", "item_id").rows()
    return [
        (bucket.users[user].as_py(), *items[item], time)
        for bucket in prepared.store
        for user, item, time in zip(bucket.user.tolist(), bucket.item.tolist(), bucket.timestamp.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    "filters",
    [FilterConfig(), FilterConfig(5, 3), FilterConfig(min_item_interactions=9, core=False), FilterConfig(3, 0, 12)],
    ids=str,
)
def test_what_is_read_later_is_what_is_read_at_once(
    source: dict[str, Any], tmp_path: Path, filters: FilterConfig
) -> None:
    expected = apply_filters(read_source(source, "here"), filters)
    prepared = _prepared(source, tmp_path / "work", filters)
    assert len(prepared.store) > 10
    assert prepared.account == expected.account
    rows = expected.interactions.select("user_id", "domain", "item_id", "timestamp").collect().rows()
    assert _events(prepared) == sorted(rows, key=lambda r: (r[0], r[1], r[3], r[2]))
    items = expected.items.select("domain", "item_id", "title").collect().sort("domain", "item_id")
    assert prepared.items.select("domain", "item_id", "title").equals(items)
    figures = domain_figures(prepared)
    for domain in prepared.domains:
        lengths = Counter(Counter(row[0] for row in rows if row[1] == domain).values())
        assert figures[domain] == DomainFigures(
            sum(lengths.values()), sum(n * times for n, times in lengths.items()), lengths
        )
        every = pl.Series(sorted(lengths.elements()))
        assert figures[domain].quantiles() == {
            "median": every.quantile(0.5, "lower"), "p90": every.quantile(0.9, "lower"), "max": every.max()
        }  # fmt: skip


def test_the_account_of_a_log_read_later_has_the_refused_and_the_repeated(
    source: dict[str, Any], tmp_path: Path
) -> None:
    steps = {step.name: step for step in _prepared(source, tmp_path / "work", FilterConfig()).account.steps}
    assert steps["interactions: read"].refused == {
        "no user id": 1, "item not in the catalogue": 1, "duplicate event": 3
    }  # fmt: skip


def test_filters_that_leave_nothing_and_logs_without_a_usable_row_are_refused(
    source: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"s: the filters leave no interaction \(user with fewer than 99 in the domain"
    ):
        _prepared(source, tmp_path / "one", FilterConfig(min_user_interactions=99))
    Path(source["interactions"]).write_text("user_id,item_id,domain,timestamp\n,i1,A,3\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"not one interaction can be used \(no user id: 1\)"):
        _prepared(source, tmp_path / "two", FilterConfig())
