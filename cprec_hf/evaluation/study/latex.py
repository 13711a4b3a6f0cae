"""`tables.tex`: each table of a study as a booktabs table, names escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprec_hf.evaluation.study.aggregate import headline
from cprec_hf.hub.markdown import one_line

_ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip


def escape_tex(value: object) -> str:
    """Any text as LaTeX that shows just that text, on one line."""
    return "".join(_ESCAPED.get(c, c) for c in one_line(value))


def tables_tex(results: Mapping[str, Any]) -> str:
    """All tables; a document needs the packages booktabs and textcomp.

    A cell is the mean with its mark: * better, dagger worse than the reference, p < .05 after Holm. Bold: the best of a
    column, ceilings and other oracles aside.
    """
    blocks = [f"% {one_line(results['study'])}: needs \\usepackage{{booktabs}} and \\usepackage{{textcomp}}"]
    for name, table in results["tables"].items():
        for metric in headline(results["k"]):
            blocks.append(_table(name, table, metric))
    return "\n\n".join(blocks) + "\n"


def _table(name: str, table: Mapping[str, Any], metric: str) -> str:
    domains = table["domains"]
    best = {domain: _best(table, domain, metric) for domain in domains}
    caption = f"{escape_tex(table['title'] or name)}: {escape_tex(metric)}, {len(table['seeds'])} seeds."
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(domains) + 1)}}}", r"\toprule",
        " & ".join(["", *map(escape_tex, domains), "mean"]) + r" \\", r"\midrule",
    ]  # fmt: skip
    for row_name, row in table["rows"].items():
        cells = [escape_tex(row_name)]
        cells += [_cell(row["domains"].get(domain), metric, best[domain]) for domain in domains]
        overall = row["overall"].get(metric)
        spread = f" $\\pm$ {overall['std_seeds']:.3f}" if overall and overall["std_seeds"] is not None else ""
        cells.append(f"{overall['mean']:.3f}{spread}" if overall else "--")
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _cell(summary: Mapping[str, Any] | None, metric: str, best: float) -> str:
    from cprec_hf.evaluation.study.report import BETTER, mark

    if summary is None:
        return "--"
    mean, found = summary["metrics"][metric]["mean"], mark(summary, metric)
    said = f"\\textbf{{{mean:.3f}}}" if mean == best else f"{mean:.3f}"
    return said + ({"": "", BETTER: "$^{*}$"}.get(found, "$^{\\dagger}$"))


def _best(table: Mapping[str, Any], domain: str, metric: str) -> float:
    means = [
        row["domains"][domain]["metrics"][metric]["mean"]
        for row in table["rows"].values()
        if domain in row["domains"] and not row["method"]["kind"].endswith("oracle")
    ]
    return max(means, default=float("nan"))
