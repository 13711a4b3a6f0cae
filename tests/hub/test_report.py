"""The report says what the results say, and untrusted names stay text."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.hub.markdown import escape
from cprec_hf.hub.report import console_table, headline_metrics, report_markdown, score_of

METRICS = ["hr@1", "hr@5", "ndcg@10"]


def method(name: str, means: list[float], **more: Any) -> dict[str, Any]:
    metrics = {m: {"mean": v, "low": v - 0.01, "high": v + 0.02} for m, v in zip(METRICS, means, strict=True)}
    return {"name": name, "kind": "popularity", "metrics": metrics, "against_reference": {}, **more}


def gain(difference: float, p: float) -> dict[str, float]:
    return {"difference": difference, "low": 0, "high": 0, "effect": 0, "p_bootstrap": p, "t": 1.0, "p_t": p / 100}


def make_results(name: str = "other") -> dict[str, Any]:
    record = {"stage": "sft", "base": name, "tokens": 1234, "seed": 3, "corpus_hash": "different"}
    return {
        "corpus": {"location": name, "revision": None, "name": name, "content_sha256": "abc", "candidates_sha256": "d",
                   "split_policy": {"policy": "time"}},
        "domain": name, "split": "test", "users": 1234, "rows": 1250, "candidates": 20, "items": 99, "k": [1, 5, 10],
        "seed": 0, "bootstrap_resamples": 10000, "versions": {"numpy": "2"}, "curves": [],
        "reference": {"hr@1": "base", "ndcg@10": name},
        "methods": [
            method(name, [0.3, 0.6, 0.5], kind="model", model=name, revision=None, score="sum", record=record,
                   against_reference={"hr@1": gain(0.05, 0.04), "ndcg@10": gain(-0.01, 0.2)}),
            method("base", [0.25, 0.5, 0.4], chosen={"last": 5}, by="ndcg@10 on validation", validation=0.4,
                   grid=[{"last": last, "validation": 0.4} for last in range(9)]),
        ],
    }  # fmt: skip


def test_console_table_is_aligned_and_complete() -> None:
    lines = console_table(make_results()).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert "0.300 [0.290, 0.320]" in lines[2] and "1,234" in lines[2]
    assert "+0.050 (0.040 / <.001)" in lines[2] and "-0.010 (0.200 / 0.002)" in lines[2]
    assert lines[3].count("reference") == 2
    assert "hr@1: base; ndcg@10: other" in lines[4]
    assert "Trained on another corpus than the one evaluated: other" in lines[5]


def test_markdown_table_has_one_row_a_method_and_the_choices() -> None:
    text = report_markdown(make_results())
    table = [line for line in text.split("## Settings")[0].splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert "best of 9 settings" in text and "](comparison.png)" in text and "1,234 tokens" in text


def test_a_models_score_is_the_one_that_validation_chose() -> None:
    results = make_results()
    record = {"chosen": {"score": "pmi"}, "by": "ndcg@10 on validation", "validation": 0.4}
    record["grid"] = [{"score": "sum", "validation": 0.3}, {"score": "pmi", "validation": 0.4}]
    results["methods"][0] |= {"score": "validation", **record}
    assert score_of(results["methods"][0]) == "pmi" and "other, score pmi" in report_markdown(results)
    assert score_of(make_results()["methods"][0]) == "sum"


def test_models_of_another_share_of_the_users_are_named() -> None:
    results = make_results()
    results["methods"][0]["record"] |= {"domain": "Music", "data": {"train_share": 0.01}}
    assert "Baselines saw all training users, not as many as these were fine-tuned on: other" in report_markdown(
        results
    )
    few = report_markdown(results | {"train_share": 0.01, "subset_seed": 4})
    assert "not as many as" not in few and "saw 0.01 of the training users (drawn with seed 4" in few
    results["methods"][0]["record"] |= {"domain": None, "data": None}  # not fine-tuned on this domain
    assert "not as many as" not in report_markdown(results)


def test_the_pictures_of_training_stand_in_it_where_there_are_curves() -> None:
    assert "losses.png" not in report_markdown(make_results())
    text = report_markdown(make_results() | {"curves": ["outputs/cpt"]})
    assert re.findall(r"\]\((.*?)\)", text) == ["comparison.png", "learning_rate.png", "losses.png"]


def with_answers(name: str = "other") -> dict[str, Any]:
    results = make_results(name)
    three = {m: {"mean": v, "low": v - 0.1, "high": v + 0.1} for m, v in
             (("hr_all", 0.2), ("hr_valid", 0.4), ("valid_ratio", 0.5))}  # fmt: skip
    record = results["methods"][0]["record"]
    results["methods"].append(method(name, [0.2, 0.3, 0.3], kind="generate", model="m", revision=None, score="sum",
                                     record=record, matched=three))  # fmt: skip
    return results


def test_answers_stand_in_a_second_table() -> None:
    lines = console_table(with_answers("generated")).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("generate and match"))
    assert lines[head + 2].split()[0] == "generated" and len(lines) == head + 3
    assert "0.200 [0.100, 0.300]" in lines[head + 2] and "0.400 [0.300, 0.500]" in lines[head + 2]
    assert "0.500 [0.400, 0.600]" in lines[head + 2] and lines[head + 2].endswith("1,234")
    report = report_markdown(with_answers("generated"))
    table = report.split("## Generate and match")[1].split("##")[0]
    assert table.count("\n|") == 3 and "hr@1 is hr_all" in report and "greedy answers looked up by text" in report
    assert "Generate and match" not in report_markdown(make_results())
    hostile = report_markdown(with_answers("a | <b>")).split("## Generate and match")[1].split("##")[0]
    assert "a \\| &lt;b&gt;" in hostile


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>", "![x](http://evil.example/x.png)", "a | b", "a\nb\r\n# heading", "`code` **bold**",
        "{{ 7 * 7 }}", "[link](javascript:x)", "www.evil.example", "~~gone~~ $x$ @someone", "&lt;b&gt;",
    ],
)  # fmt: skip
def test_hostile_names_stay_text_everywhere(name: str) -> None:
    report = report_markdown(make_results(name))
    assert "<script" not in report and "![x]" not in report and not re.search(r"(?<!\\)\]\(javascript", report)
    table = [line for line in report.split("## Settings")[0].splitlines() if line.startswith("|")]
    borders = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == 4 and len(borders) == 1
    assert sum(line.startswith("#") for line in report.splitlines()) == 5
    assert "\n" not in escape(name) and len(console_table(make_results(name)).splitlines()) == 6


@given(st.text())
def test_escaped_text_has_no_live_markup(text: str) -> None:
    escaped = escape(text)
    assert not re.search(r"[<>\n\r]", escaped)
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|{}~$]", re.sub(r"\\[^\\]", "", escaped.replace("\\\\", "")))


def test_headline_metrics() -> None:
    assert headline_metrics([1, 5, 10]) == METRICS
    assert headline_metrics([1]) == ["hr@1", "ndcg@1"]
