"""The card's pictures: what they are drawn from, that equal facts give equal bytes, and that any name can be drawn."""

import io
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from cprec_hf.corpus.figures import (
    LENGTHS,
    MOST_LINES,
    OVERLAP,
    compact,
    draw_lengths,
    draw_overlap,
    label,
    user_interactions,
    write_figures,
)  # fmt: skip
from cprec_hf.corpus.load import load_facts


def facts(names: list[str]) -> dict[str, Any]:
    n = len(names)
    shared = np.minimum.outer(np.arange(n), np.arange(n)) * 100 + 50
    lengths = {name: {5: 100 + i, 17: 10, 400: 1} for i, name in enumerate(names)}
    figures = {
        "overlap": {"domains": names, "users": shared.tolist(), "titles": (shared // 7).tolist()},
        "user_interactions": user_interactions(lengths),
        "document_tokens": {"edges": [0, 8, 16], "documents": {"domain": [5, 2], "all_domain": [0, 9]}},
    }
    roles = {name: {"slug": f"d-{i}", "role": ("cpt", "downstream")[i % 2]} for i, name in enumerate(names)}
    return {"domains": roles, "figures": figures}


@given(st.dictionaries(st.integers(1, 5000), st.integers(1, 9), min_size=1, max_size=20))
def test_every_user_falls_into_one_bin(lengths: dict[int, int]) -> None:
    found = user_interactions({"Books": Counter(lengths)})
    edges = found["edges"]
    assert edges[0] == 1 and sorted(set(edges)) == edges and all(b <= a * 1.26 + 1 for a, b in pairwise(edges))
    sizes = np.repeat([*lengths], [*lengths.values()])
    assert found["users"]["Books"] == [((sizes >= a) & (sizes < b)).sum() for a, b in pairwise(edges)]
    assert sum(found["users"]["Books"]) == sum(lengths.values())


def test_a_built_corpus_has_the_pictures_of_its_facts(corpus: Path, tmp_path: Path) -> None:
    write_figures(tmp_path, load_facts(corpus))
    for name in (OVERLAP, LENGTHS):
        assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()
        pixels = imread(corpus / name)
        assert pixels.shape[0] > 200 and pixels.shape[1] > 400 and pixels[..., :3].std() > 0.05
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge[:, :3] == 1).all()  # nothing is cut off
        assert f"({name})" in (corpus / "README.md").read_text(encoding="utf-8")
    text = (corpus / "README.md").read_text(encoding="utf-8")
    assert "most users in Games and Books" in text and "| domain | items | share their title" in text


@pytest.mark.parametrize(
    "names",
    [
        ["A", "B"],
        ["Books", "食品与生活 food", "x" * 80, "$\\alpha$ $x^", "<b> & co"],
        [f"Category {i}" for i in range(33)],
    ],
    ids=["two", "odd names", "many"],
)
def test_any_domains_can_be_drawn(names: list[str]) -> None:
    drawn = facts(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        overlap = draw_overlap(drawn["figures"]["overlap"], drawn["domains"])
        lengths = draw_lengths(drawn["figures"], drawn["domains"])
    assert draw_overlap(drawn["figures"]["overlap"], drawn["domains"]) == overlap
    for picture in (overlap, lengths):
        pixels = imread(io.BytesIO(picture))
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge[:, :3] == 1).all()
    assert MOST_LINES < 33


def test_a_name_without_glyphs_is_drawn_as_its_slug() -> None:
    assert label("Beauty", "beauty") == "Beauty"
    assert label("食品 food", "food") == "food"
    assert label("two\nlines", "x") == "two lines"
    assert len(label("long " * 20, "long")) == 28


def test_counts_in_few_characters() -> None:
    values = [0, 7, 999, 1000, 1234, 98_765, 999_600, 1_250_000, 2.5e9]
    assert [compact(v) for v in values] == ["0", "7", "999", "1k", "1.23k", "98.8k", "1M", "1.25M", "2.5G"]
