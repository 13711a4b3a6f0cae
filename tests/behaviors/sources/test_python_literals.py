"""Python dicts in lines: what is read is what `ast.literal_eval` reads, whatever the strings hold."""

import ast
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.behaviors.sources.python_literals import list_field, text_field

HARD = ["'title': 'fake'", '", "title": "', "\\", "\\'", "}", "]", "[", "u'x'", 'a\'s "b"', "\\x41", "\t\n\r", ""]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(HARD)
LISTS = st.lists(TEXT, max_size=3) | st.lists(st.lists(TEXT, max_size=3), max_size=3)
LINES = st.dictionaries(
    st.sampled_from(["id", "title", "genres", "subtitle", "other"]),
    TEXT | LISTS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
)


def spelled(value: Any, python2: bool) -> str:
    """As Python 3, or Python 2 (`u''`, nothing beyond ASCII), prints it."""
    if isinstance(value, str):
        return f"u{value!a}" if python2 else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(spelled(v, python2) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{spelled(k, python2)}: {spelled(v, python2)}' for k, v in value.items())}}}"
    return repr(value)


def flat(value: Any) -> list[str]:
    return [text for part in value for text in (flat(part) if isinstance(part, list) else [part])]


@given(st.lists(LINES, max_size=6), st.booleans())
def test_fields_are_what_the_literals_say(rows: list[dict[str, Any]], python2: bool) -> None:
    lines = pl.DataFrame({"line": [spelled(row, python2) for row in rows]}, schema={"line": pl.String})
    line = pl.col("line")
    for key in ("title", "genres", "id"):
        found = lines.select(text=text_field(line, key), list=list_field(line, key))
        expected = [ast.literal_eval(text).get(key) for text in lines["line"]]
        assert found["list"].to_list() == [flat(v) if isinstance(v, list) else None for v in expected]
        numbers = (int, float)
        assert found["text"].to_list() == [
            v if isinstance(v, str) else repr(v) if isinstance(v, numbers) and not isinstance(v, bool) else None
            for v in expected
        ]


def test_a_line_that_is_cut_off_has_the_fields_before_the_cut() -> None:
    line = "{u'id': u'1', u'genres': [u'Action', u'Indie'], u'title': u'Half \\'n\\' half'}"
    for end in range(len(line)):
        cut = pl.DataFrame({"line": [line[:end]]}).select(
            id=text_field(pl.col("line"), "id"),
            genres=list_field(pl.col("line"), "genres"),
            title=text_field(pl.col("line"), "title"),
        )
        assert cut.row(0) == (
            "1" if end > line.index("1'") + 1 else None,
            ["Action", "Indie"] if end > line.index("]") else None,
            "Half 'n' half" if end == len(line) - 1 else None,
        )
