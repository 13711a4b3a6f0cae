"""Columns of JSON values, read as their spelling, made plain text: attributes of items."""

from __future__ import annotations

import polars as pl

STRING = r'"(?:[^"\\]|\\.)*"'
VALUE = rf"(?:{STRING}|null)"
ARRAY = rf"\[(?:{VALUE}(?:,\s*{VALUE})*)?\]"
ESCAPES = {r"\"": '"', r"\n": "\n", r"\r": "\r", r"\t": "\t"}
"""Polars spells a backslash as itself: one before an `n` in a text is taken for a line break."""


def first_text(*columns: str) -> pl.Expr:
    """The first of these columns that holds more than blanks; null if none does."""
    texts = [pl.col(column).str.strip_chars() for column in columns]
    return pl.coalesce([pl.when(text != "").then(text) for text in texts])


def joined(column: str, separator: str) -> pl.Expr:
    """The texts of a JSON array, blank ones left out; null if there are none.

    Of an array of arrays (Amazon 2014 gives an item several paths of categories) the first one is taken. What is no
    array of texts, `[NEW] a shirt` for one, stays as it is.
    """
    text = pl.col(column).str.strip_chars()
    flat, nested = text.str.extract(rf"(?s)^({ARRAY})$"), text.str.extract(rf"(?s)^\[({ARRAY})(?:,.*)?\]$")
    array = pl.coalesce(flat, nested)
    inside = pl.element().str.head(-1).str.tail(-1).str.replace_many(ESCAPES).str.strip_chars()
    texts = array.str.extract_all(rf"(?s){STRING}").list.eval(inside).list.eval(pl.element().filter(pl.element() != ""))
    made = pl.when(array.is_not_null()).then(texts.list.join(separator)).otherwise(text)
    return pl.when(made != "").then(made)
