"""Lines that are Python dicts (`{u'id': u'761140', u'genres': [u'Action', u'Indie']}`), read without running them.

Amazon 2014 metadata and Steam are published so. A field is found by one regular expression that reads the line from its
start and takes every string as a whole, so that no text inside a string can pass for a key. Only a string with a
backslash in it goes through `ast.literal_eval`, by itself. A line that is cut off ends no string: the field it is cut
in, and those behind it, are null.
"""

from __future__ import annotations

import ast

import polars as pl

STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
LITERAL = rf"u?{STRING}"


def text_field(line: pl.Expr, key: str) -> pl.Expr:
    """The string, or the spelling of the number, under `key`; null if there is none.

    Args:
        line: a dict a row, as String.
        key: letters, digits and underscores; its first occurrence counts, whatever dict inside the line has it.
    """
    value = line.str.extract(_behind(key, rf"({LITERAL}|[+-]?[0-9][0-9.eE+-]*)"))
    return _decoded(value)


def list_field(line: pl.Expr, key: str) -> pl.Expr:
    """The strings of the list under `key`, those of lists inside it too, in order, as List(String); null if no list."""
    inner = rf"[^'\"\[\]]|{STRING}"
    found = line.str.extract(_behind(key, rf"(\[(?:{inner}|\[(?:{inner})*\])*\])"))
    return found.str.extract_all(LITERAL).list.eval(_decoded(pl.element()))


def _behind(key: str, value: str) -> str:
    return rf"""(?s)^[^{{]*\{{(?:[^'"]|{STRING})*?['"]{key}['"]: {value}"""


def _decoded(literals: pl.Expr) -> pl.Expr:
    return literals.map_batches(_values, return_dtype=pl.String, is_elementwise=True)


def _values(literals: pl.Series) -> pl.Series:
    """What the literals stand for: strings without their quotes, numbers as they are."""
    text = literals.str.strip_prefix("u")
    values = text.str.replace(r"""(?s)^['"](.*)['"]$""", "$1")
    escaped = text.str.contains("\\", literal=True).fill_null(False).arg_true()
    decoded = [ast.literal_eval(literal) for literal in text.gather(escaped)]
    return values.scatter(escaped, pl.Series(decoded, dtype=pl.String))
