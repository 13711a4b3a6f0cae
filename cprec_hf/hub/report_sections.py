"""The sections of `report.md` behind its main table: settings, groups, properties of the lists, calibration.

Each is empty where results say nothing of it, as those of older releases do. Names come from users and are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from cprec_hf.hub.markdown import Safe, escape, table

_FEW = 6
"""A grid of so many settings is shown whole, a larger one by the values it is made of."""
RELIABILITY = {"reliability.png": "How often the first choice is right, over how sure the scores are of it."}


def sections(results: Mapping[str, Any]) -> list[str]:
    """All of them, as lines of Markdown."""
    return [
        *_section("Settings", _settings(results)),
        *_section("Groups", _groups(results)),
        *_section("Beyond accuracy", _beyond(results)),
        *_section("Calibration", _calibration(results)),
    ]


def _section(title: str, body: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *body] if body else []


def _settings(results: Mapping[str, Any]) -> list[str]:
    """A row for each method that chose its settings: the declared grid, the choice, and what others were worth."""
    tuned = [method for method in results["methods"] if isinstance(method.get("grid"), list)]
    rows = [
        [m["name"], _setting(m["chosen"]), f"{m['validation']:.3f}", _grid(m["grid"]), len(m["grid"]),
         f"{min(tried['validation'] for tried in m['grid']):.3f}"]
        for m in tuned
    ]  # fmt: skip
    if not rows:
        return []
    columns = ["method", "chosen", "on validation", "declared grid", "settings", "worst of them"]
    by = sorted({method["by"] for method in tuned})
    return [
        table(columns, rows),
        "",
        f"On validation: {escape('; '.join(by))}. Every setting's value is in `results.json`.",
        "",
    ]


def _setting(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if key != "validation")


def _grid(grid: Sequence[Mapping[str, Any]]) -> str:
    """What was tried, without what all settings share; that stands with the choice."""
    axes = {key: list(dict.fromkeys(str(tried[key]) for tried in grid)) for key in grid[0] if key != "validation"}
    varied = {axis: values for axis, values in axes.items() if len(values) > 1}
    if len(grid) > _FEW:
        return "; ".join(f"{axis}: {', '.join(values)}" for axis, values in varied.items())
    return "; ".join(f"{_setting({axis: tried[axis] for axis in varied})}: {tried['validation']:.3f}" for tried in grid)


def _groups(results: Mapping[str, Any]) -> list[str]:
    """A table for each grouping that parts the rows at all."""
    methods = [method for method in results["methods"] if method.get("groups")]
    lines: list[str] = []
    for name, labels in (methods[0]["groups"] if methods else {}).items():
        if len(labels) < 2:
            continue
        metrics = [key for key in next(iter(labels.values())) if "@" in key]
        head = [name, *(f"{escape(label)} (n {found['users']:,})" for label, found in labels.items())]
        rows = [
            [m["name"], *(" / ".join(f"{found[metric]['mean']:.3f}" for metric in metrics)
                          for found in m["groups"][name].values())]
            for m in methods
        ]  # fmt: skip
        lines += [table(head, rows), ""]
        shown = " / ".join(metrics)
    if not lines:
        return []
    return [
        *lines,
        f"{shown}, means over the users of a group (n), a user's over the user's rows in it; intervals are in "
        "`results.json`. Popularity is counted over all training users: head items hold a third of what they had, as "
        "do middle and tail. A cold item has no event that training may read, a cold user none of any domain.",
        "",
    ]


def _beyond(results: Mapping[str, Any]) -> list[str]:
    methods = [method for method in results["methods"] if method.get("beyond_accuracy")]
    if not methods:
        return []
    whole, ks = results.get("candidate_set") == "all", results["k"]
    k, wide = str(ks[-1] if whole else ks[0]), str(ks[-1])
    columns = ["method", f"coverage@{k}", f"Gini@{k}", f"novelty@{k}, bits", f"popularity lift@{k}",
               f"diversity@{wide}", *([] if whole else ["position, Cramér's V (p)"])]  # fmt: skip
    rows = []
    for method in methods:
        at, last = method["beyond_accuracy"][k], method["beyond_accuracy"][wide]
        row = [method["name"], *(_number(at[key]) for key in ("coverage", "gini", "novelty")),
               _number(at["popularity_lift"], "+.2f"), _number(last["intra_list_diversity"])]  # fmt: skip
        rows.append([*row, *([] if whole else [_position(method.get("position"))])])
    lines = [table(columns, rows), ""]
    of = ("items" if whole else "candidates") if k != "1" else ("item" if whole else "candidate")
    lines.append(
        f"Of each row's first {'' if k == '1' else k + ' '}{of}. Coverage: the share of all items shown to anybody; "
        "Gini: 0 if all are shown equally often, 1 if one alone is; novelty: self-information of the items among the "
        "training users; popularity lift: how much more popular than the histories' items, as a share; diversity: 1 - "
        f"cosine of the titles' words, of all pairs of the first {wide}."
    )
    if not whole:
        lines.append(
            "Position: does where a candidate stands in its list decide that it comes first? V is 0 if each place is "
            "chosen equally often, 1 if always the same; p by chi-square, for one method taken alone."
        )
    return [*lines, ""]


def _position(found: Mapping[str, Any] | None) -> str:
    return f"{found['position_cramers_v']:.3f} ({found['position_p']:.3f})" if found else ""


def _number(value: float | None, form: str = ".3f") -> Safe:
    return Safe("" if value is None else format(value, form))


def _calibration(results: Mapping[str, Any]) -> list[str]:
    methods = [method for method in results["methods"] if method.get("calibration")]
    if not methods:
        return []
    rows = []
    for method in methods:
        raw, scaled = method["calibration"]["as_scored"], method["calibration"].get("tempered")
        rows.append(
            [method["name"], f"{raw['ece']:.3f}", f"{raw['log_loss']:.3f}",
             _number(method["calibration"]["temperature"]),
             *([f"{scaled['ece']:.3f}", f"{scaled['log_loss']:.3f}"] if scaled else ["", ""])]
        )  # fmt: skip
    columns = ["method", "error", "log loss", "temperature", "error, scaled", "log loss, scaled"]
    caption = RELIABILITY["reliability.png"]
    return [
        table(columns, rows),
        "",
        "The softmax of a row's scores taken as probabilities of its candidates. Error: the expected calibration error "
        "of the first choice, ten bins; log loss in nats (equal chances: "
        f"{log(results['candidates']):.3f}); temperature: what the scores are divided by, fitted on validation rows, "
        "of a model only where its scores of those were needed anyway (`score: validation`, parts of others).",
        "",
        Safe(f"![{caption}](reliability.png)"),
        "",
        caption,
        "",
    ]
