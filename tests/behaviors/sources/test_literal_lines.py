"""Python dicts in lines: the JSON they become says what `ast.literal_eval` reads, whatever the strings hold."""

import ast
import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.behaviors.sources.literal_lines import as_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "'title': 'fake'",
        '", "title": "',
        "\\",
        "\\'",
        "}",
        "u'x'",
        "menu",
        "for u",
        "True",
        "\\x41",
        "\t\n\r\x07",
        "'\"",
    ]
)
VALUES = st.recursive(
    TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def spelled(value: Any, prefix: str) -> str:
    """As Python 3 prints it, or with `u` before every string, as Python 2 printed text."""
    if isinstance(value, str):
        return f"{prefix}{ascii(value) if prefix else repr(value)}"
    if isinstance(value, list):
        return f"[{', '.join(spelled(v, prefix) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{spelled(k, prefix)}: {spelled(v, prefix)}' for k, v in value.items())}}}"
    return repr(value)


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=6), st.sampled_from(["", "u"]))
def test_the_json_says_what_the_literals_say(rows: list[dict[str, Any]], prefix: str) -> None:
    lines = pl.Series([spelled(row, prefix) for row in rows], dtype=pl.String)
    assert [json.loads(line) for line in as_json(lines)] == [ast.literal_eval(line) for line in lines]


def test_strings_with_and_without_a_prefix_may_stand_in_one_line() -> None:
    lines = pl.Series(["{'a': u'x', u'b': 'for u', 'c': u\"it's\"}", "{'a': 'menu'}", None])
    assert as_json(lines).to_list() == ['{"a": "x", "b": "for u", "c": "it\'s"}', '{"a": "menu"}', None]


def test_bytes_of_python_2_are_utf8_where_they_can_be() -> None:
    lines = pl.Series([r"{'a': 'caf\xc3\xa9', 'b': u'caf\xc3\xa9', 'c': '\x92', 'd': '\\xe9'}"])
    assert json.loads(as_json(lines)[0]) == {"a": "café", "b": "cafÃ©", "c": "\x92", "d": "\\xe9"}


@pytest.mark.parametrize(
    "line", ["{'a': 'cut of", "{'a': f('x')}", "{'a': 1} or {}", "not a dict", "{'a': __import__('os')}"]
)
def test_what_is_no_literal_becomes_no_json(line: str) -> None:
    with pytest.raises(ValueError):
        json.loads(as_json(pl.Series([line]))[0])
