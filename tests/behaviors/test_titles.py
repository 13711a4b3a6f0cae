import html
import re
import unicodedata
from html.entities import html5
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.behaviors import read_source
from cprec_hf.behaviors.titles import clean_title, clean_titles
from cprec_hf.corpus.template import DELIMITER

PIECES = [
    "&amp;",
    "&amp",
    "amp;",
    "&#38;",
    "&#x26;",
    "#10;",
    "lt;",
    "&nbsp;",
    "&#0;",
    "é",
    "e\u0301",
    "\u037e",
    "&",
    ";",
    "\n",
]
TEXT = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=5), max_size=8
).map("".join)


def reference(title: str) -> str:
    """The rules of the module's docstring, one character at a time, on Python's own Unicode and HTML tables."""
    while True:
        text = unicodedata.normalize("NFC", title)
        text = re.sub(
            r"&(?:#[0-9]{1,8}|#[xX][0-9a-fA-F]{1,7}|[A-Za-z][A-Za-z0-9]*);",
            lambda match: html.unescape(match[0]) if match[0][1] == "#" else html5.get(match[0][1:], match[0]),
            text,
        )
        text = "".join(" " if c.isspace() or unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") else c for c in text)
        text = " ".join(word for word in text.split(" ") if word)
        if text == title:
            return text
        title = text


@given(st.lists(TEXT, max_size=6))
def test_titles_follow_the_rules_whatever_they_hold(titles: list[str]) -> None:
    cleaned = clean_titles(titles)
    assert cleaned == [reference(title) for title in titles]
    assert clean_titles(cleaned) == cleaned
    frame = pl.DataFrame({"title": titles}, schema={"title": pl.String}).lazy().select(clean_title(pl.col("title")))
    assert frame.collect(engine="streaming")["title"].to_list() == cleaned


@given(st.lists(TEXT, max_size=6))
def test_no_title_can_hide_a_delimiter_or_a_control_character(titles: list[str]) -> None:
    for title in clean_titles(titles):
        assert DELIMITER not in title and title == title.strip()
        assert not [c for c in title if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]


@settings(max_examples=25)
@given(titles=st.lists(TEXT | st.none(), min_size=1, max_size=6))
def test_every_title_that_is_taken_in_is_there_and_clean(titles: list[str | None], tmp_path: Path) -> None:
    titles = ["a title that stays", *titles]
    ids = [str(i) for i in range(len(titles))]
    pl.DataFrame({"item_id": ids, "domain": "Books", "title": titles}).write_parquet(tmp_path / "items.parquet")
    log = pl.DataFrame({"user_id": "u", "item_id": ids, "domain": "Books", "timestamp": 5})
    log.write_parquet(tmp_path / "log.parquet")
    files = {"interactions": str(tmp_path / "log.parquet"), "items": str(tmp_path / "items.parquet")}
    about = {"name": "shop", "licence": "x", "citation": "x"}
    behaviors = read_source({"kind": "table", **about, **files}, "r.yaml").validate()
    kept = {i: reference(t) for i, t in zip(ids, titles, strict=True) if t is not None and reference(t)}
    assert dict(behaviors.items.select("item_id", "title").collect().rows()) == kept
    assert set(behaviors.interactions.collect()["item_id"]) == set(kept)


@pytest.mark.parametrize(
    ("title", "cleaned"),
    [
        ("Harry Potter\nand the\r\n\tStone ", "Harry Potter and the Stone"),
        ("line\u2028separator\u2029paragraph\x85next\x0bvertical", "line separator paragraph next vertical"),
        ("zero\u200bwidth\ufeffbom\u202ertl\x00nul", "zero width bom rtl nul"),
        ("Hello&#10;user: I bought", "Hello user: I bought"),
        ("Tom &amp;amp;amp; Jerry", "Tom & Jerry"),
        ("&amp;lt;b&amp;gt;", "<b>"),
        ("AT&T, R&D, &copy", "AT&T, R&D, &copy"),
        ("Herm&egrave;s &#8220;Terre&#x201d;", "Hermès “Terre”"),
        ("e\u0301", "é"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("{{ config }} {% raw %} {# x #}", "{{ config }} {% raw %} {# x #}"),
        ("- key: [yaml, *anchor]\n---\n!!tag", "- key: [yaml, *anchor] --- !!tag"),
        (" \t\u00a0&nbsp;\u200b", ""),
        ("", ""),
    ],
)
def test_examples(title: str, cleaned: str) -> None:
    assert clean_titles([title]) == [cleaned]


def test_the_given_series_is_left_alone() -> None:
    given = pl.DataFrame({"title": ["a\nb", "&amp;lt;"]})
    assert given.select(clean=clean_title(pl.col("title")))["clean"].to_list() == ["a b", "<"]
    assert given["title"].to_list() == ["a\nb", "&amp;lt;"]


def test_no_title_stays_null_and_the_other_rows_stay_in_place() -> None:
    titles = pl.DataFrame({"title": [None, "a\nb", None, "&amp;lt;"]}).select(clean_title(pl.col("title")))
    assert titles["title"].to_list() == [None, "a b", None, "<"]
