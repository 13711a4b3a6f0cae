"""Untrusted text in cards: names, titles and citations stay text in Markdown, HTML and YAML.

A card's template is filled through `render`: whatever it prints is escaped, unless `Safe` marks it as Markdown that
this package wrote. Front matter never comes from a template: `front_matter` dumps a dict.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from cprec_hf.recipes import shipped

if TYPE_CHECKING:
    import jinja2

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_ESCAPED = set("\\`*_{}[]#!|~$^")
_STARTS = re.compile(r"([-+=:]|\d+[.)](?=\s|$))")  # begins a list, an underline or a table's rule


class Safe(str):
    """Markdown that is ours, printed as it is."""


def one_line(value: Any) -> str:
    """Text on one line, without control, format and surrogate characters."""
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(value))
    return " ".join(text.split())


def escape(value: Any) -> str:
    """Any text as Markdown that shows just that text, on one line, in a paragraph, heading or table cell alike."""
    text = "".join(_ENTITIES.get(c, f"\\{c}" if c in _ESCAPED else c) for c in one_line(value))
    if start := _STARTS.match(text):
        text = f"{text[: start.end() - 1]}\\{text[start.end() - 1 :]}"
    return text.replace("://", r"\://").replace("www.", r"www\.")  # no links that nobody wrote as such


def number(value: float | int) -> str:
    """A number as people read it: 12,345 or 0.336."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def fenced(text: str, language: str = "text") -> Safe:
    """Text of several lines as a code block that nothing in it can close; `language` colours it."""
    lines = ["".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in line) for line in text.splitlines()]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return Safe("\n".join([f"{fence}{language}", *lines, fence]))


def code_span(value: Any) -> Safe:
    """Any text as code within a line. Nothing is escaped there: the backticks around it outnumber its own."""
    text = one_line(value)
    marks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return Safe(f"{marks}{pad}{text}{pad}{marks}" if text else "")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Safe:
    """A Markdown table; columns whose values are all numbers stand right."""
    numeric = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(columns))]
    lines = [columns, ["---:" if right else "---" for right in numeric]]
    body = [[_shown(value) for value in row] for row in rows]
    return Safe("\n".join(f"| {' | '.join(line)} |" for line in [*lines, *body]))


def front_matter(metadata: Mapping[str, Any]) -> str:
    """A card's YAML block, `---` lines included. Text that holds such a line is quoted and indented by the dumper."""
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=120)}---\n"


def render(folder: str, template: str, values: Mapping[str, Any]) -> str:
    """Fill a shipped template, escaping all that is not `Safe`. A name that nobody gave a value is an error."""
    return _environment(folder).get_template(template).render(values)


@cache
def _environment(folder: str) -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped(folder)),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code_span
    return environment


def _shown(value: Any) -> str:
    if isinstance(value, Safe):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(value)
    return number(value)
