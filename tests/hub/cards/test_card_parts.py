"""A card is generated whole, and its free section survives; nothing in that section reaches the rest."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cards.facts import HOSTILE, corpus_facts, metadata, model_facts, rendered, results_json
from cprec_hf.hub.card_parts import (
    FREE_BEGIN,
    FREE_END,
    free_section,
    is_repo_id,
    last_part,
    licence_metadata,
    literal,
    place,
    put_together,
    repo_of,
    slug,
)
from cprec_hf.hub.dataset_card import render_dataset_card
from cprec_hf.hub.model_card import render_model_card
from cprec_hf.hub.results_card import render_results_card

BREAKING = [
    *HOSTILE, "```", "~~~~", "<!--", "<div><table><tr>", "</td></table></div>", "===", "---\nlicense: x\n---", "[a]: b",
    "<script>", FREE_BEGIN, FREE_END, f"{FREE_END}\nafter", f"a\n{FREE_BEGIN}\nb\n{FREE_END}\nc", "    code", "a  \n",
]  # fmt: skip
free_texts = st.sampled_from(BREAKING) | st.lists(st.sampled_from(BREAKING)).map("\n".join) | st.text(max_size=80)


def cards(free: str) -> list[str]:
    return [
        render_dataset_card(corpus_facts(), free=free),
        render_model_card(model_facts(free=free)),
        render_results_card(results_json(), free),
    ]


@settings(max_examples=25)
@given(free_texts)
def test_a_card_rendered_again_from_its_own_free_section_is_the_same(free: str) -> None:
    for card, again in zip(cards(free), cards(""), strict=True):
        assert put_together({"a": 1}, "b", free_section(card)) == put_together({"a": 1}, "b", free)
        assert card.count(FREE_BEGIN) >= 1 and metadata(card) == metadata(again)
    assert cards(free_section(cards(free)[0])) == cards(free)


@settings(max_examples=25)
@given(free_texts)
def test_nothing_before_the_free_section_changes_with_it(free: str) -> None:
    for card, empty in zip(cards(free), cards(""), strict=True):
        generated = empty[: empty.index(FREE_BEGIN)]
        assert card.startswith(generated + FREE_BEGIN)
        before = rendered(empty).split(FREE_BEGIN)[0]
        assert rendered(card).startswith(before + FREE_BEGIN)


def test_what_a_person_wrote_survives_an_edit_of_the_rest() -> None:
    written = "## My notes\n\n  - *indented*, `code`\n\n> quoted"
    card = render_model_card(model_facts(free=written))
    assert f"{FREE_BEGIN}\n\n{written}\n\n{FREE_END}\n" in card
    edited = card.replace("# rec", "# something else").replace("## Limits", "gone").replace("\n", "\r\n") + "lost"
    assert free_section(edited) == written
    assert render_model_card(model_facts(free=free_section(edited))) == card


def test_markers_that_were_removed_or_repeated() -> None:
    assert free_section("# A card of someone else") == ""
    assert free_section(f"{FREE_BEGIN}\n\nall of the rest\n") == "all of the rest"
    assert free_section(f"{FREE_END}\n{FREE_BEGIN}\nmine") == "mine"
    assert free_section(f"text {FREE_BEGIN}\nno line of its own\n{FREE_END}") == ""
    assert free_section(f"{FREE_BEGIN}\none\n{FREE_END}\ntwo\n{FREE_END}\nnot mine") == f"one\n{FREE_END}\ntwo"
    nested = put_together({"a": 1}, "b", f"one\n{FREE_END}\n{FREE_BEGIN}\ntwo")
    assert free_section(nested) == "one\ntwo" and nested.count(FREE_BEGIN) == nested.count(FREE_END) == 1


def test_a_marker_among_the_facts_is_not_the_free_section() -> None:
    facts = corpus_facts()
    facts["about"]["citation"] = f"{FREE_BEGIN}\nplanted\n{FREE_END}"
    card = render_dataset_card(facts, free="mine")
    assert free_section(card) == "mine" and "planted" in card


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("Apache-2.0 (simulated, no real users)", {"license": "apache-2.0"}),
        ("Research only; see the site", {"license": "other", "license_name": "research-only-see-the-site"}),
        ("研究", {"license": "other", "license_name": "see-below"}),
    ],
)
def test_licences(licence: str, expected: dict[str, str]) -> None:
    assert licence_metadata(licence) == expected


def test_names_and_places(tmp_path: Path) -> None:
    assert place("user/model") == "user/model" and place(f"{tmp_path}/model/") == "model"
    assert place("user/model@a/b") == "user/model@a/b" and place("/home/user/model@a") == "model@a"
    assert [repo_of(name) for name in ("user/model@a/b", "user/model", "/a/b@c")] == ["user/model", "user/model", None]
    assert [is_repo_id(name) for name in ("user/model", "model", "a/b/c", "../b", "/a", None)] == [True] + [False] * 5
    assert last_part("C:\\Users\\someone\\cpt") == "cpt"
    assert slug("Toys & Games: hr@1") == "toys-games-hr-1"
    assert (literal('quote " and \\'), literal("\u2028")) == ('"quote \\" and \\\\"', '"\\u2028"')
