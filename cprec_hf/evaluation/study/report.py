"""The files of a study: `report.md` for people, `results.json`, `tables.tex`, and a picture of each table.

None of them says how long anything took (that is in each cell's `cell.json`), so the same study is the same report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cprec_hf.evaluation.study.aggregate import headline
from cprec_hf.evaluation.study.config import StudyConfig
from cprec_hf.evaluation.study.details import FIGURES
from cprec_hf.evaluation.study.latex import tables_tex
from cprec_hf.evaluation.study.plots import plot_table
from cprec_hf.files import atomic_file
from cprec_hf.hub.markdown import escape, one_line

BETTER, WORSE = "*", "†"


def write_study(study: StudyConfig, results: Mapping[str, Any]) -> Path:
    """Write the report of what `aggregate` found into the study's folder; returns the folder."""
    folder = Path(study.output)
    _write(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(folder / "report.md", report_markdown(results))
    _write(folder / "tables.tex", tables_tex(results))
    for name, table in results["tables"].items():
        if any(row["overall"] for row in table["rows"].values()):
            with atomic_file(folder / f"{name}.png") as temporary:
                temporary.write_bytes(plot_table(table, headline(results["k"])))
    return folder


def report_markdown(results: Mapping[str, Any]) -> str:
    """`report.md`: for each table the question, the numbers, and how to read them."""
    lines = [f"# {escape(results['study'])}", ""]
    for name, table in results["tables"].items():
        lines += [f"## {escape(table['title'] or name)}", ""]
        lines += [escape(table["question"]), ""] if table["question"] else []
        for metric in headline(results["k"]):
            head, body = cells_of(table, metric)
            lines += [_piped(head), "|---|" + "---:|" * (len(head) - 1), *map(_piped, body), ""]
        picture = f"![{escape(table['title'] or name)}]({name}.png)"
        lines += [*_details(table), *_trained(table), *_notes(table), "", picture, ""]
    lines += ["## How to read it", "", *(f"- {note}" for note in _HOW)]
    lines += [f"- Bootstrap: {results['bootstrap_resamples']:,} resamples.", ""]
    return "\n".join(lines)


def cells_of(table: Mapping[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    """A table's head and body for one metric, as plain text."""
    domains = table["domains"]
    share = table["ceiling"] is not None and any("share_of_ceiling" in row["overall"] for row in table["rows"].values())
    share = share and metric.startswith("hr")
    head = [metric, *domains, "mean", "sd seeds", "sd domains", *(["of ceiling"] if share else [])]
    body = []
    for name, row in table["rows"].items():
        fewer = f" ({len(row['seeds'])} seeds)" if len(row["seeds"]) < len(table["seeds"]) else ""
        missing = f" ({row['cells']} of {row['planned']} cells)" if row["cells"] < row["planned"] else ""
        line = [one_line(name) + fewer + missing]
        line += [_value(row["domains"].get(domain), metric) for domain in domains]
        overall = row["overall"].get(metric, {})
        line += [_number(overall.get(key)) for key in ("mean", "std_seeds", "std_domains")]
        line += [
            f"{100 * row['overall']['share_of_ceiling']:.0f} %" if "share_of_ceiling" in row["overall"] else "-"
        ] * share
        body.append(line)
    return head, body


def mark(summary: Mapping[str, Any], metric: str) -> str:
    """Of a row on a domain: better or worse than the reference with p < .05 after Holm, or neither."""
    compared = summary["against"].get(metric)
    if compared is None or compared["p_bootstrap_holm"] >= 0.05:
        return ""
    return BETTER if compared["difference"] > 0 else WORSE


def _value(summary: Mapping[str, Any] | None, metric: str) -> str:
    if summary is None:
        return "-"
    value = summary["metrics"][metric]
    return f"{value['mean']:.3f}{mark(summary, metric)} [{value['low']:.3f}, {value['high']:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _piped(cells: list[str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def _details(table: Mapping[str, Any]) -> list[str]:
    """Figures beside the ranking, of the rows that have them."""
    rows = {name: row["details"] for name, row in table["rows"].items() if row["overall"]} if table["details"] else {}
    names = [figure for figure in FIGURES if any(row[figure] is not None for row in rows.values())]
    if not names:
        return []
    body = [[one_line(name), *(_number(row[figure]) for figure in names)] for name, row in rows.items()]
    return [_piped(["means over all cells", *names]), "|---|" + "---:|" * len(names), *map(_piped, body), ""]


def _trained(table: Mapping[str, Any]) -> list[str]:
    """What each model was trained on; rows of the same stages in one line."""
    said: dict[str, list[str]] = {}
    for name, row in table["rows"].items():
        parts = [
            f"{one_line(t['node'])} {t['tokens'] / 1e6:.2f} M tokens in {t['steps']:,.0f} steps" for t in row["trained"]
        ]
        if parts:
            said.setdefault(", then ".join(parts), []).append(one_line(name))
    lines = [f"- {escape('; '.join(names))}: {escape(stages)}." for stages, names in said.items()]
    return ["Trained on:", "", *lines, ""] if lines else []


def _notes(table: Mapping[str, Any]) -> list[str]:
    notes = [f"Split: {table['split']}; {len(table['seeds'])} seeds."]
    if table["reference"]:
        against = ", ".join(map(escape, table["reference"]))
        notes.append(f"{escape(BETTER)} better, {WORSE} worse than the best of {against} on the domain, p < .05.")
    if table["ceiling"]:
        notes.append(f"The ceiling is {escape(table['ceiling'])}.")
    return notes


_HOW = (
    "A value is the mean over seeds of the mean over users; in brackets its 95 % interval: seeds are resampled, then "
    "users.",
    "sd seeds: standard deviation over seeds of the mean over domains; sd domains: over domains of the mean over "
    "seeds.",
    "P-values are of the paired two-level bootstrap against the best of the reference rows, chosen by its value on "
    "that domain, adjusted by Holm over the domains. Rows are not adjusted for each other.",
    "position V: Cramer's V of where in its list of candidates the chosen one stands, 0 for no bias. ECE and log loss: "
    "of the softmax of the scores over the candidates, as scored and after a temperature fitted on validation. The "
    "last four: of the lists of the last cut-off. Where a column is missing or a figure is -, the method has none.",
    "Trained on: tokens read and steps made in each stage, means over domains and seeds.",
    "Every row of a table ranks the same candidates of the same users. All numbers are in `results.json`.",
)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
