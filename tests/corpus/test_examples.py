"""Fine-tuning rows against a row-by-row twin, on any users, any partition of them and any token budget."""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.examples import CATALOGUE, EVENTS, EXAMPLES, ExamplePlan, sft_examples
from cprec_hf.corpus.few_shot import user_keys
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError

N_ITEMS, COUNT = 30, 4
TOKENS = [2 + i % 4 for i in range(N_ITEMS)]
TRAINED = [i % 3 * i for i in range(N_ITEMS)]
LINE = ["u", "w", "z"]  # the domain's users with training rows, as the plan says
CPT = {"u": 0, "v": 3, "w": 0, "x": 0}
HEADER, BLOCK = 5, 3


def _plan(
    window: int = 60,
    history: int = 4,
    targets: str = "every",
    shown: bool = False,
    negatives: tuple[str, ...] = ("uniform",),
) -> ExamplePlan:
    columns = [[f"i{i:02}" for i in range(N_ITEMS)], [f"title {i}" for i in range(N_ITEMS)], TOKENS]
    columns += [TRAINED, [None if i % 7 == 6 else f"c{i % 5}" for i in range(N_ITEMS)]]
    catalogue = pa.table(dict(zip(CATALOGUE.names, columns, strict=True)), schema=CATALOGUE)
    line = np.sort(user_keys("test", pa.array(LINE)))
    return ExamplePlan(
        "1", "test", "Books", catalogue, window, HEADER, BLOCK, history, targets, COUNT, shown, line, negatives
    )


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Histories of distinct items: training events first, then up to three others."""
    rows = []
    for user in draw(st.lists(st.sampled_from("uvwx"), unique=True)):
        items = draw(st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=12, unique=True))
        tail = draw(st.sampled_from([[], ["validation"], [None, "test"], ["validation", None, "test"]]))
        splits = (["train"] * len(items) + tail)[-len(items) :]
        rows += [
            {"user_id": user, "item": item, "timestamp": time, "split": split}
            for time, (item, split) in enumerate(zip(items, splits, strict=True))
        ]
    return rows


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{"cpt_events": CPT[row["user_id"]], **row} for row in rows], schema=EVENTS)


def _marks(events: list[dict[str, Any]], target: dict[str, Any]) -> dict[str, Any]:
    """The columns of few-shot and cold, from the user's own events and the plan's constants."""
    user, trained = target["user_id"], sum(event["split"] == "train" for event in events)
    before = {name: int(user_keys("test", pa.array([name]))[0]) for name in LINE}
    rank = sum(before[other] < before[user] for other in LINE) / len(LINE) if user in LINE else None
    item = TRAINED[target["item"]]
    return {
        "user_rank": rank, "user_events": trained, "cpt_events": CPT[user], "target_events": item,
        "cold_user": trained == 0 and CPT[user] == 0, "cold_item": item == 0,
    }  # fmt: skip


def _row_by_row(
    rows: list[dict[str, Any]], plan: ExamplePlan, drawn: dict[tuple[str, str, int], list[str]]
) -> dict[str, list[dict[str, Any]]]:
    """The same rows without their candidates, one event at a time (no list of candidates in the prompt).

    `drawn`: the candidates by split, user and time; a history makes room for the longest of them, or for the target.
    """
    out: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    users = defaultdict(list)
    for row in rows:
        users[row["user_id"]].append(row)

    def write(split: str, history: list[dict[str, Any]], target: dict[str, Any]) -> None:
        history = history[-plan.history_length :]
        candidates = [int(i[1:]) for i in drawn[split, target["user_id"], target["timestamp"]]] or [target["item"]]
        room = plan.window_tokens - HEADER - max(TOKENS[i] for i in candidates)
        while sum(TOKENS[r["item"]] for r in history) > room:
            history = history[1:]
        template, title = load_template("1"), "title {}".format
        out[split].append(
            {
                "prompt": template.prompt("Books", [title(r["item"]) for r in history]),
                "completion": template.line(title(target["item"])), "user_id": target["user_id"],
                "history": [f"i{r['item']:02}" for r in history], "target": f"i{target['item']:02}",
                "timestamp": target["timestamp"], **_marks(users[target["user_id"]], target),
            }
        )  # fmt: skip

    for _, history in sorted(users.items()):
        window: list[dict[str, Any]] = []
        for i, event in enumerate(history):
            if event["split"] == "train" and plan.train_targets == "window":
                used = HEADER + sum(TOKENS[r["item"]] for r in [*window, event])
                if used > plan.window_tokens or len(window) > plan.history_length:
                    if len(window) > 1:
                        write("train", window[:-1], window[-1])
                    window = []
                window.append(event)
            elif event["split"] and i:
                write(event["split"], history[:i], event)
        if len(window) > 1:
            write("train", window[:-1], window[-1])
    return out


@given(events(), st.sampled_from([15, 20, 60]), st.integers(1, 5), st.sampled_from(["every", "window"]))
def test_rows_equal_those_of_a_row_loop(rows: list[dict[str, Any]], window: int, history: int, targets: str) -> None:
    plan = _plan(window, history, targets)
    tables = sft_examples(_table(rows), plan)
    assert all(table.schema == EXAMPLES for table in tables.values())
    drawn = {
        (split, row["user_id"], row["timestamp"]): row["candidates"]
        for split, table in tables.items()
        for row in table.to_pylist()
    }
    expected = _row_by_row(rows, plan, drawn)
    for split, table in tables.items():
        assert table.drop_columns(["candidates"]).to_pylist() == expected[split]


def test_how_much_history_is_shown_says_nothing_of_the_target() -> None:
    """One history before every possible target: the longest candidate alone decides how much of it fits."""
    plan = _plan(window=HEADER + 5 * 3 + 4, history=9)  # items 3, 7, 11 take 5 tokens
    prompts = {}
    for target in range(N_ITEMS):
        history = [3, 7, 11]
        rows = [
            {"user_id": "u", "item": item, "timestamp": time, "split": "train" if item in history else "test"}
            for time, item in enumerate([*history, *([target] if target not in history else [])])
        ]
        for row in sft_examples(_table(rows), plan)["test"].to_pylist():
            longest = max(TOKENS[int(item[1:])] for item in row["candidates"])
            prompts.setdefault(longest, set()).add(row["prompt"])
    assert set(prompts) == {4, 5}
    assert {longest: [p.count("\n") - 1 for p in found] for longest, found in prompts.items()} == {4: [3], 5: [2]}


def test_without_candidates_there_is_room_for_the_longest_title_of_all() -> None:
    """Items 3, 7 and 11 take 5 tokens, as the longest of all do: three fit beside one more, whatever the target."""
    for window, kept in ((HEADER + 4 * 5, 3), (HEADER + 4 * 5 - 1, 2)):
        plan = replace(_plan(window=window, history=9), candidates=None)
        for target in range(12, N_ITEMS):
            rows = [
                {"user_id": "u", "item": item, "timestamp": time, "split": "train" if time < 3 else "test"}
                for time, item in enumerate([3, 7, 11, target])
            ]
            (row,) = sft_examples(_table(rows), plan)["test"].to_pylist()
            assert len(row["history"]) == kept and row["candidates"] == []


@given(events(), st.lists(st.integers(0, 1), min_size=4, max_size=4), st.booleans())
@settings(max_examples=40)
def test_any_partition_of_the_users_gives_the_same_rows(
    rows: list[dict[str, Any]], shard_of: list[int], shown: bool
) -> None:
    plan = _plan(60, 4, "window", shown, ("uniform", "popularity", "category"))
    plan, shard = replace(plan, few_shot=(0.4, 0.9)), dict(zip("uvwx", shard_of, strict=True))
    whole = sft_examples(_table(rows), plan)
    parts = [sft_examples(_table([r for r in rows if shard[r["user_id"]] == s]), plan) for s in range(2)]
    assert list(whole) == ["train", "validation", "test", "train_40pct", "train_90pct"]
    for split, table in whole.items():
        assert table.schema == plan.schema
        joined = pa.concat_tables([part[split] for part in parts]).to_pylist()
        assert sorted(joined, key=lambda row: row["user_id"]) == table.to_pylist()


@given(events())
@settings(max_examples=40)
def test_candidates_are_outside_all_that_the_user_did_before(rows: list[dict[str, Any]]) -> None:
    tables = sft_examples(_table(rows), _plan(history=2))
    assert all(not row["candidates"] for row in tables["train"].to_pylist())
    for split in ("validation", "test"):
        for row in tables[split].to_pylist():
            before = {
                f"i{r['item']:02}" for r in rows if r["user_id"] == row["user_id"] and r["timestamp"] < row["timestamp"]
            }
            assert row["candidates"].count(row["target"]) == 1
            assert len(set(row["candidates"])) == COUNT
            assert not before & set(row["candidates"])


@given(events(), st.integers(38, 60), st.sampled_from(["every", "window"]))
@settings(max_examples=40)
def test_the_list_in_the_prompt_is_the_row_s_own_and_fits(
    rows: list[dict[str, Any]], window: int, targets: str
) -> None:
    plan, template = _plan(window, 4, targets, shown=True), load_template("1")
    for table in sft_examples(_table(rows), plan).values():
        for row in table.to_pylist():
            number = {name: int(name[1:]) for name in [*row["candidates"], *row["history"], row["target"]]}
            titles = {name: f"title {i}" for name, i in number.items()}
            assert row["prompt"] == template.prompt(
                "Books", [titles[i] for i in row["history"]], [titles[i] for i in row["candidates"]]
            )
            lines = [*row["candidates"], *row["history"]]
            longest = max(TOKENS[number[i]] for i in row["candidates"])
            assert HEADER + BLOCK + sum(TOKENS[number[i]] for i in lines) + longest <= window
            assert row["history"] and row["target"] in row["candidates"]


def test_a_history_that_leaves_too_few_negatives_is_refused() -> None:
    rows = [{"user_id": "u", "item": i, "timestamp": i, "split": "train" if i < 27 else "test"} for i in range(28)]
    with pytest.raises(InputError, match="need 3 items outside the user's history"):
        sft_examples(_table(rows), _plan())
