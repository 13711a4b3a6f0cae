"""Every leak the audit looks for, planted one at a time, must be found and named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cprec_hf.corpus.audit import audit_corpus
from cprec_hf.corpus.audit_report import AuditReport, AuditRow
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.load import load_facts
from cprec_hf.errors import InputError

Spoil = Callable[..., Path]


def _broken(folder: Path) -> dict[str, str]:
    return {row.check: row.detail for row in audit_corpus(folder).rows if not row.passed}


def _set(column: str, value: Any, row: int = 3) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Replace one row's value by `value`, or by what `value` makes of the row."""

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        new = value(rows.row(row, named=True)) if callable(value) else value
        values = rows[column].to_list()
        values[row] = new
        return rows.with_columns(pl.Series(column, values, dtype=rows.schema[column]))

    return change


def _first(folder: Path, name: str, column: str) -> Any:
    return pl.read_parquet(folder / f"{name}.parquet")[column][0]


def test_the_corpus_as_built_passes_and_the_report_says_what_was_looked_at(corpus: Path) -> None:
    report = audit_corpus(corpus)
    assert report.passed and report.require() is report
    rows = {row.check: row.n for row in report.rows}
    documents = sum(load_facts(corpus)["counts"]["cpt"].values())
    assert rows["documents read as their items"] == documents > 100
    assert rows["candidate memoriser at chance in Music"] == load_facts(corpus)["counts"]["sft-music"]["test"] > 50
    assert load_facts(corpus)["audit"] == report.to_dicts()
    assert report.table().count("\n") == len(report.rows) + 1


def test_a_downstream_domain_in_a_document(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("cpt/train", _set("item_domains", lambda row: ["Music", *row["item_domains"][1:]]))
    assert "'Music'" in _broken(folder)["no downstream domain in pre-training"]


def test_a_held_out_event_in_a_document(corpus: Path, spoil: Spoil) -> None:
    held = pl.read_parquet(corpus / "sft-music" / "test.parquet").row(0, named=True)

    def plant(rows: pl.DataFrame) -> pl.DataFrame:
        rows = _set("user_id", held["user_id"])(rows)
        rows = _set("item_domains", lambda row: ["Music", *row["item_domains"][1:]])(rows)
        return _set("item_ids", lambda row: [held["target"], *row["item_ids"][1:]])(rows)

    detail = _broken(spoil("cpt/train", plant))["no held-out event in pre-training"]
    assert detail.startswith("1 rows") and held["user_id"] in detail and held["target"] in detail


def test_a_document_after_the_cut(corpus: Path, spoil: Spoil) -> None:
    cut = load_facts(corpus)["split"]["cuts"]["validation"]
    detail = _broken(spoil("cpt/validation", _set("last_timestamp", cut)))[
        "pre-training ends before the validation cut"
    ]
    assert "file 'cpt/validation', row 3" in detail and str(cut) in detail


def test_a_document_without_a_time_where_times_are_known(corpus: Path, spoil: Spoil) -> None:
    broken = _broken(spoil("cpt/train", _set("last_timestamp", None)))
    assert "pre-training ends before the validation cut" in broken


def test_a_document_after_its_users_validation_event_under_leave_one_out(
    make_config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    """Games and Books share their users, so what they did in Books after their held-out event in Games would tell."""
    source = make_config(Path("unused")).source | {"unseen": []}
    keys = {"source": source, "split": {"policy": "leave_one_out"}, "downstream": ["Games"], "sequences": ["domain"]}
    folder = build_corpus(make_config(tmp_path / "out", **keys))
    held = pl.read_parquet(folder / "sft-games" / "validation.parquet").select("user_id", cut="timestamp")
    path = folder / "cpt" / "train.parquet"
    rows = pl.read_parquet(path).join(held, on="user_id", how="left", maintain_order="left")
    assert (rows["last_timestamp"] < rows["cut"]).all() and rows["cut"].null_count() == 0 and len(rows) > 40
    check = "pre-training ends before the user's validation event"
    for late, n in ((0, 3), (-1, 0)):
        at = pl.when(pl.int_range(pl.len()) < 3).then(pl.col("cut") + late).otherwise("last_timestamp")
        rows.with_columns(last_timestamp=at).drop("cut").write_parquet(path)
        broken = _broken(folder)
        assert (check in broken) == bool(n)
        assert not n or broken[check].startswith(f"{n} rows, the first: file 'cpt/train', row 0, ")


def test_a_text_that_is_not_its_items(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("cpt/train", _set("text", lambda row: row["text"].replace("\n", "\nstray ", 1)))
    assert "row 3" in _broken(folder)["documents read as their items"]


def test_an_item_that_is_not_in_the_catalogue(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("cpt/train", _set("item_ids", lambda row: ["nobody", *row["item_ids"][1:]]))
    assert "documents read as their items" in _broken(folder)


def test_a_wrong_token_count(corpus: Path, spoil: Spoil) -> None:
    assert "n_tokens 1," in _broken(spoil("cpt/train", _set("n_tokens", 1)))["token counts"]


def test_a_document_beyond_the_window(corpus: Path, spoil: Spoil) -> None:
    def longer(rows: pl.DataFrame) -> pl.DataFrame:
        long = rows.row(0, named=True)
        body = long["text"].split("\n", 1)[1]
        rows = _set("text", long["text"] + body * 20, 0)(rows)
        rows = _set("item_domains", long["item_domains"] * 21, 0)(rows)
        return _set("item_ids", long["item_ids"] * 21, 0)(rows)

    assert {"documents within window_tokens", "token counts"} <= _broken(spoil("cpt/train", longer)).keys()


def test_a_user_in_both_parts_of_cpt(corpus: Path, spoil: Spoil) -> None:
    user = _first(corpus, "cpt/validation", "user_id")
    assert user in _broken(spoil("cpt/train", _set("user_id", user)))["no user in both parts of cpt"]


def test_a_held_out_event_as_a_train_target(corpus: Path, spoil: Spoil) -> None:
    held = pl.read_parquet(corpus / "sft-music" / "validation.parquet").row(0, named=True)

    def plant(rows: pl.DataFrame) -> pl.DataFrame:
        return _set("user_id", held["user_id"])(_set("target", held["target"])(rows))

    assert held["target"] in _broken(spoil("sft-music/train", plant))["no held-out event among train targets"]


def test_a_held_out_event_in_a_train_history(corpus: Path, spoil: Spoil) -> None:
    held = pl.read_parquet(corpus / "sft-music" / "test.parquet").row(0, named=True)

    def plant(rows: pl.DataFrame) -> pl.DataFrame:
        return _set("user_id", held["user_id"])(_set("history", [held["target"]])(rows))

    assert held["target"] in _broken(spoil("sft-music/train", plant))["no held-out event in train histories"]


def test_a_test_event_in_its_own_history(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("sft-music/test", _set("history", lambda row: [*row["history"][1:], row["target"]]))
    broken = _broken(folder)
    assert {"no test event in held-out histories", "held-out targets are new to their users"} <= broken.keys()


@pytest.mark.parametrize(("split", "shift"), [("train", 1), ("validation", -1), ("test", -1)])
def test_a_target_on_the_wrong_side_of_a_cut(corpus: Path, spoil: Spoil, split: str, shift: int) -> None:
    cuts = load_facts(corpus)["split"]["cuts"]
    edge = {"train": cuts["validation"] - 1, "validation": cuts["validation"], "test": cuts["test"]}[split]
    right = spoil(f"sft-music/{split}", _set("timestamp", edge))
    assert "targets on their side of the cuts" not in _broken(right)
    assert (
        f"'sft-music/{split}'"
        in _broken(spoil(f"sft-music/{split}", _set("timestamp", edge + shift)))["targets on their side of the cuts"]
    )


def test_two_held_out_events_of_one_user(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("sft-music/test", lambda rows: pl.concat([rows, rows[:1]]))
    assert {"one held-out event per user and split", "files and row counts as recorded"} <= _broken(folder).keys()


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("10 candidates", lambda row: row["candidates"][:-1]),
        ("candidates hold the target once", lambda row: [i for i in row["candidates"] if i != row["target"]]),
        ("candidates hold the target once", lambda row: [*row["candidates"], row["target"]]),
        ("candidates are distinct", lambda row: [row["candidates"][0], *row["candidates"][:-1]]),
        ("no candidate in the history", lambda row: [row["history"][0], *row["candidates"][1:]]),
        ("candidates are items of the domain", lambda row: ["books-1", *row["candidates"][1:]]),
    ],
)
def test_spoilt_candidates(spoil: Spoil, check: str, change: Callable[[dict[str, Any]], list[str]]) -> None:
    assert "row 3" in _broken(spoil("sft-music/test", _set("candidates", change)))[check]


def test_a_candidate_from_before_the_shown_history(corpus: Path, spoil: Spoil) -> None:
    train = pl.read_parquet(corpus / "sft-music" / "train.parquet").with_columns(old=pl.col("history").list.first())
    test = pl.read_parquet(corpus / "sft-music" / "test.parquet").with_row_index("at")
    both = test.join(train.select("user_id", "old").unique("user_id", keep="first", maintain_order=True), on="user_id")
    both = both.filter(
        ~pl.col("history").list.contains(pl.col("old")) & (pl.col("candidates").list.first() != pl.col("target"))
    )
    at, old = both.select("at", "old").row(0)
    folder = spoil("sft-music/test", _set("candidates", lambda row: [old, *row["candidates"][1:]], at))
    broken = _broken(folder)
    assert old in broken["no candidate among the user's training items"]
    assert "no candidate in the history" not in broken


def test_candidates_seeded_by_the_target(corpus: Path, spoil: Spoil) -> None:
    items = (
        pl.read_parquet(corpus / "items" / "train.parquet").filter(pl.col("domain") == "Music")["item_id"].to_numpy()
    )

    def seed(rows: pl.DataFrame) -> pl.DataFrame:
        drawn = [
            [
                target,
                *np.random.default_rng(int(target.split("-")[1]))
                .choice(items[items != target], 9, replace=False)
                .tolist(),
            ]
            for target in rows["target"]
        ]
        return rows.with_columns(candidates=pl.Series(drawn))

    spoil("sft-music/validation", seed)
    detail = _broken(spoil("sft-music/test", seed))["candidate memoriser at chance in Music"]
    assert "give their targets away" in detail


def test_a_prompt_that_is_not_its_history(spoil: Spoil) -> None:
    folder = spoil("sft-music/test", _set("prompt", lambda row: row["prompt"] + row["completion"]))
    broken = _broken(folder)
    assert "row 3" in broken["prompts and completions read as their items"]
    assert "token counts of prompts and completions encoded whole" in broken


def test_a_completion_that_is_not_its_target(spoil: Spoil) -> None:
    folder = spoil("sft-music/train", _set("completion", "another title\n"))
    assert "prompts and completions read as their items" in _broken(folder)


def test_a_history_beyond_history_length(spoil: Spoil) -> None:
    folder = spoil("sft-music/test", _set("history", lambda row: row["history"] * 6))
    assert "length" in _broken(folder)["histories of 1 to history_length items"]


def test_any_other_change_shows_in_the_hashes(corpus: Path, spoil: Spoil) -> None:
    broken = _broken(spoil("items/train", _set("full_title", "another")))
    assert broken.keys() == {"content hash as recorded"}
    broken = _broken(spoil("sft-music/test", _set("candidates", lambda row: row["candidates"][::-1])))
    assert broken.keys() == {"content hash as recorded", "hash of the candidates as recorded"}


def test_a_missing_file(corpus: Path, spoil: Spoil) -> None:
    folder = spoil("cpt/validation", lambda rows: rows)
    (folder / "cpt" / "validation.parquet").unlink()
    assert "'cpt', split 'validation'" in _broken(folder)["files and row counts as recorded"]


def test_a_failed_report_names_every_failure() -> None:
    rows = [AuditRow("a", True, 1, "none"), AuditRow("b", False, 2, "row 7"), AuditRow("c", False, 3, "row 9")]
    with pytest.raises(InputError, match="the audit of here failed: b: row 7; c: row 9"):
        AuditReport("here", rows).require()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "without rows": lambda path: pl.read_parquet(path).clear().write_parquet(path),
    "without its second column": lambda path: (rows := pl.read_parquet(path)).drop(rows.columns[1]).write_parquet(path),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["cpt/train", "sft-music/train", "sft-music/test", "items/train"])
def test_a_damaged_corpus_fails_its_audit(spoil: Spoil, name: str, damage: str) -> None:
    folder = spoil(name, lambda rows: rows)
    DAMAGE[damage](folder / f"{name}.parquet")
    report = audit_corpus(folder)
    assert not report.passed
    with pytest.raises(InputError, match="the audit of"):
        report.require()


def test_what_cannot_be_read_is_named(spoil: Spoil) -> None:
    folder = spoil("sft-music/test", lambda rows: rows)
    facts = load_facts(folder)
    (folder / "sft-music" / "test.parquet").unlink()
    broken = _broken(folder)
    assert "sft-music/test.parquet" in broken["files and facts can be read"]
    assert "split 'test', rows recorded" in broken["files and row counts as recorded"]
    del facts["candidates"]
    (folder / "cprec-corpus.json").write_text(json.dumps(facts))
    assert "files and facts can be read" in _broken(folder)
    (folder / "cprec-corpus.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(InputError, match="names no tokenizer"):
        audit_corpus(folder)
