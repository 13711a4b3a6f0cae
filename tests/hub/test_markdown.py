"""Untrusted text stays text: what a CommonMark renderer shows is the text, and nothing else comes of it."""

import html.parser

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cprec_hf.hub.markdown import Safe, code_span, escape, fenced, front_matter, number, one_line, table

HOSTILE = [
    "a\n---\nb: 1", "---", "{{ 7*7 }}", "{% for x in y %}", "<script>alert(1)</script>", "a | b | c", "`code`", "```",
    "# heading", "- item", "1. item", "12) item", "> quote", "+ plus", "===", "[x](http://evil)", "![x](y)",
    "&lt;b&gt;", "\\", "\\|", "a\\", "**bold** _it_", "~~gone~~", "www.evil.org", "http://evil.org", "<!-- c -->",
    ":--|--:", "a\u2028b\u0000c\u202e", "\ufeff---", "'quoted\": yes", "!!python/object:x", "&amp;", "$x$", "[^1]",
    "| --- |", "\ud800",
]  # fmt: skip
marks = st.text(alphabet="`*_[]()<>#|\\-+=.:!~&1 \n", max_size=30)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), marks)
values = st.one_of(texts, st.lists(texts, max_size=3), st.integers())
renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Seen(html.parser.HTMLParser):
    """Tags and text of rendered HTML."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_comment(self, data: str) -> None:
        self.tags.append("!--")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(("before", "tag"), [("", "p"), ("# ", "h1"), ("words ", "p")])
def test_hostile_text_shows_as_itself(text: str, before: str, tag: str) -> None:
    seen = Seen(renderer.render(before + escape(text)))
    shown = (before.removeprefix("# ") + one_line(text)).strip()
    assert seen.text.strip() == shown and seen.tags == ([tag] if shown or before == "# " else [])


@given(texts)
@example("1. ")
@example("-\t-")
def test_any_text_shows_as_itself(text: str) -> None:
    seen = Seen(renderer.render(f"before\n\n{escape(text)}\n\nafter"))
    middle = ["p"] if one_line(text) else []
    assert seen.tags == ["p", *middle, "p"]
    assert seen.text.split("\n") == (["before", one_line(text), "after", ""] if middle else ["before", "after", ""])


@given(st.lists(st.tuples(texts, st.integers(), texts), max_size=4))
def test_any_text_stays_in_its_cell(rows: list[tuple[str, int, str]]) -> None:
    seen = Seen(renderer.render(table(["a", "n", "b"], rows)))
    assert seen.tags.count("tr") == 1 + len(rows) and seen.tags.count("td") == 3 * len(rows)
    assert set(seen.tags) <= {"table", "thead", "tbody", "tr", "th", "td"}
    cells = [f"{cell:,}" if isinstance(cell, int) else one_line(cell) for row in rows for cell in row]
    assert seen.text.split() == ["a", "n", "b", *" ".join(cells).split()]


@given(st.text(max_size=60) | st.sampled_from(["```\n# out", "````\n```", "~~~", "\n---\n"]))
def test_a_code_block_is_closed_by_nothing_in_it(text: str) -> None:
    seen = Seen(renderer.render(f"{fenced(text)}\n\nafter"))
    assert seen.tags == ["pre", "code", "p"]


@given(st.dictionaries(st.text(min_size=1, max_size=10), values, max_size=4))
def test_front_matter_reads_back_equal(metadata: dict[str, object]) -> None:
    written = front_matter(metadata)
    lines = written.split("\n")
    assert lines[0] == "---" and lines[-2:] == ["---", ""] and lines.count("---") == 2
    assert yaml.safe_load("\n".join(lines[1:-2])) == (metadata or {})


def test_numbers_and_safe_text() -> None:
    assert (number(1234567), number(0.33649)) == ("1,234,567", "0.3365")
    assert table(["a"], [[Safe("**b**")]]) == "| a |\n| --- |\n| **b** |"


@given(texts)
@example("`a``b`")
@example("`")
@example("<b>&amp;")
def test_code_in_a_line_shows_any_text(text: str) -> None:
    seen = Seen(renderer.render(f"before {code_span(text)} after"))
    assert seen.tags == (["p", "code"] if one_line(text) else ["p"])
    assert seen.text.split() == f"before {one_line(text)} after".split()
