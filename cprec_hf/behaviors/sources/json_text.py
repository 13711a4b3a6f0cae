"""Columns of JSON values, read as their spelling, made plain text: attributes of items."""

from __future__ import annotations

import polars as pl

STRING = r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u00[01][0-9a-fA-F])*"'
VALUE = rf"(?:{STRING}|null)"
ARRAY = rf"\[(?:{VALUE}(?:,\s*{VALUE})*)?\]"


def first_text(*columns: str) -> pl.Expr:
    """The first of these columns that holds more than blanks; null if none does."""
    texts = [pl.col(column).str.strip_chars() for column in columns]
    return pl.coalesce([pl.when(text != "").then(text) for text in texts])


def joined(column: str, separator: str) -> pl.Expr:
    """The texts of a JSON array, blank ones left out; null if there are none.

    Of an array of arrays (Amazon 2014 gives an item several paths of categories) the first one is taken. What is no
    array of texts, `[NEW] a shirt` for one, stays as it is.
    """
    text = pl.col(column).str.replace_all(r"[\x00-\x1f]", " ").str.strip_chars()  # Polars spells them as they are
    array = pl.coalesce(text.str.extract(rf"^({ARRAY})$"), text.str.extract(rf"(?s)^\[({ARRAY})(?:,.*)?\]$"))
    texts = array.str.json_decode(pl.List(pl.String)).list.eval(pl.element().str.strip_chars())
    texts = texts.list.eval(pl.element().filter(pl.element() != ""))
    made = pl.when(array.is_not_null()).then(texts.list.join(separator)).otherwise(text)
    return pl.when(made != "").then(made)
