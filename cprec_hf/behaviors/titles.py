"""Title cleaning: an item's title becomes one line of plain text that no template delimiter can hide in.

Rules (our choice), applied until nothing changes any more:

1. Unicode NFC.
2. HTML references that end in `;` become the characters they stand for (`&amp;` -> `&`, `&#39;` -> `'`). Those without
   the semicolon stay as they are: `AT&T` and `R&D` are words.
3. Control, format and line-separator characters and every run of white space become one space; the ends are stripped.

Nothing else is touched: YAML, HTML tags and Jinja braces stay as text. An empty result means the item has no title.
"""

from __future__ import annotations

import html
from functools import cache
from html.entities import html5

import polars as pl

NUMERIC_REFERENCE = r"&#(?:[0-9]{1,8}|[xX][0-9a-fA-F]{1,7});"
MAYBE_UNCLEAN = r"[^ -~]|&|  |^ | $"
"""No rule touches a title without a match: printable ASCII, no reference, single spaces inside."""
NOT_TEXT = r"[\s\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+"


def clean_title(title: pl.Expr) -> pl.Expr:
    """The cleaned title as a String expression; null stays null, "" means "no title". Idempotent."""
    return title.map_batches(_clean, return_dtype=pl.String, is_elementwise=True)


def clean_titles(titles: list[str]) -> list[str]:
    """`clean_title` for a list: same rules, same results, same length."""
    return _clean(pl.Series(titles, dtype=pl.String)).to_list()


def _clean(titles: pl.Series) -> pl.Series:
    cleaned = titles.clone()  # scatter writes in place
    rows = titles.str.contains(MAYBE_UNCLEAN).fill_null(False).arg_true()
    # A pass can bring a new reference to light (`&amp;lt;` -> `&lt;`). Each one makes its title shorter, so this ends.
    while len(rows):
        before = cleaned.gather(rows)
        after = _clean_once(before)
        changed = (before != after).arg_true()
        rows = rows.gather(changed)
        cleaned.scatter(rows, after.gather(changed))
    return cleaned


def _clean_once(titles: pl.Series) -> pl.Series:
    text = titles.str.normalize("NFC")
    numeric = text.str.extract_all(NUMERIC_REFERENCE).explode().drop_nulls().unique().to_list()
    if numeric:
        text = text.str.replace_many(numeric, [html.unescape(reference) for reference in numeric])
    if text.str.contains("&[A-Za-z]").any():
        names, characters = _named_references()
        text = text.str.replace_many(names, characters)
    return text.str.replace_all(NOT_TEXT, " ").str.strip_chars(" ")


@cache
def _named_references() -> tuple[list[str], list[str]]:
    """HTML5's named references that end in `;`, and what they stand for."""
    names = [name for name in html5 if name.endswith(";")]
    return [f"&{name}" for name in names], [html5[name] for name in names]
