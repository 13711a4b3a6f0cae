"""The sections say what the results say; of older results, which hold none of it, nothing."""

import re
from typing import Any

import pytest
from markdown_it import MarkdownIt

from cprec_hf.hub.report_sections import sections

HOSTILE = "<b>| [x](http://evil.example)\n# heading `code`"


def figures(hr: float, ndcg: float) -> dict[str, Any]:
    values = {"hr@1": hr, "ndcg@10": ndcg}
    return {name: {"mean": v, "low": v - 0.1, "high": None} for name, v in values.items()}


def method(name: str, **more: Any) -> dict[str, Any]:
    lists = {"coverage": 0.25, "gini": 0.5, "novelty": 11.5, "intra_list_diversity": None, "popularity_lift": -0.125}
    return {
        "name": name, "kind": "model",
        "groups": {
            "target": {"warm item": {"users": 1000, "rows": 1001, **figures(0.25, 0.5)},
                       "cold item": {"users": 7, "rows": 7, **figures(0.0, 0.125)}},
            "user": {"warm user": {"users": 1007, "rows": 1008, **figures(0.25, 0.5)}},
        },
        "beyond_accuracy": {"1": lists, "10": {**lists, "coverage": 0.75, "intra_list_diversity": 0.875}},
        "position": {"position_cramers_v": 0.031, "position_p": 0.25},
        **more,
    }  # fmt: skip


def results(*methods: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"k": [1, 10], "candidates": 20, "candidate_set": "candidates", "methods": list(methods), **more}


def tables(lines: list[str]) -> list[list[list[str]]]:
    """The tables as a Markdown reader sees them: the text of each cell."""
    tokens = MarkdownIt("commonmark").enable("table").parse("\n".join(lines))
    found: list[list[list[str]]] = []
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][-1].append("".join(child.content for child in tokens[i + 1].children))
    return found


def test_groups_that_part_nothing_are_left_out() -> None:
    (groups, lists) = tables(sections(results(method("CPRec"))))
    assert groups == [["target", "warm item (n 1,000)", "cold item (n 7)"], ["CPRec", "0.250 / 0.500", "0.000 / 0.125"]]
    assert lists[1] == ["CPRec", "0.250", "0.500", "11.500", "-0.12", "0.875", "0.031 (0.250)"]


def test_whole_catalogues_are_shown_at_the_last_cut_off_without_positions() -> None:
    lines = sections(results(method("CPRec"), candidate_set="all"))
    lists = tables(lines)[1]
    assert lists[0][1] == "coverage@10" and lists[1][1] == "0.750" and len(lists[0]) == len(lists[1]) == 6
    assert "Of each row's first 10 items." in "\n".join(lines)


def test_small_grids_are_shown_whole_and_large_ones_by_their_values() -> None:
    few = [{"score": name, "validation": value} for name, value in (("sum", 0.25), ("mean", 0.5))]
    many = [
        {"k1": k1, "b": b, "last": 5, "validation": 0.01 * i}
        for i, (k1, b) in enumerate((k, b) for k in (1, 2) for b in "xyzu")
    ]
    by = "ndcg@10 on validation"
    found = tables(
        sections(
            results(
                {"name": "LM", "chosen": {"score": "mean"}, "by": by, "validation": 0.5, "grid": few},
                {"name": "BM25", "chosen": {"k1": 2, "b": "u", "last": 5}, "by": by, "validation": 0.07, "grid": many},
            )
        )
    )
    assert found[0][1:] == [
        ["LM", "score mean", "0.500", "score sum: 0.250; score mean: 0.500", "2", "0.250"],
        ["BM25", "k1 2, b u, last 5", "0.070", "k1: 1, 2; b: x, y, z, u", "8", "0.000"],
    ]


def test_calibration_with_and_without_a_temperature() -> None:
    raw = {"ece": 0.25, "log_loss": 2.5, "bins": []}
    scaled = {"temperature": 0.5, "tempered": {"ece": 0.125, "log_loss": 2.25, "bins": []}}
    lines = sections(
        results({"name": "a", "calibration": {"as_scored": raw, **scaled}},
                {"name": "b", "calibration": {"as_scored": raw, "temperature": None}})
    )  # fmt: skip
    assert tables(lines)[0][1:] == [
        ["a", "0.250", "2.500", "0.500", "0.125", "2.250"], ["b", "0.250", "2.500", "", "", ""]
    ]  # fmt: skip
    assert "equal chances: 2.996" in "\n".join(lines) and "](reliability.png)" in "\n".join(lines)


def test_older_results_have_no_sections() -> None:
    assert sections(results({"name": "a", "kind": "model"})) == []


@pytest.mark.parametrize("name", [HOSTILE, "a | b", "<script>alert(1)</script>"])
def test_hostile_names_stay_text(name: str) -> None:
    raw = {"ece": 0.25, "log_loss": 2.5, "bins": []}
    chosen = {"chosen": {"l2": 1}, "by": "b", "validation": 0.1, "grid": [{"l2": 1, "validation": 0.1}]}
    lines = sections(results(method(name, calibration={"as_scored": raw, "temperature": None}, **chosen)))
    shown = " ".join(name.split())
    for table in tables(lines):
        assert len({len(row) for row in table}) == 1
        assert re.sub(r"\s+", " ", table[1][0]) == shown
    assert sum(line.startswith("#") for line in "\n".join(lines).splitlines()) == 4
