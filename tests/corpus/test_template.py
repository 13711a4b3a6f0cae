"""The template's wording is a contract: models trained on version 1 read exactly these bytes."""

import pytest

from cprec_hf.corpus.template import DELIMITER, TEMPLATE_VERSION, Template, load_template
from cprec_hf.errors import InputError

TEMPLATE = load_template(TEMPLATE_VERSION)


def test_wording_of_version_1() -> None:
    assert TEMPLATE.prompt("Books", ["Dune", "Emma"]) == "A user's history in Books, oldest first:\nDune\nEmma\n"
    assert TEMPLATE.prompt(None, ["Dune"]) == "A user's history across all domains, oldest first:\nDune\n"
    assert TEMPLATE.item_document("Books", "Dune") == "An item in Books:\nDune\n"
    assert TEMPLATE.item_document("Books", "Dune", "Sand.") == "An item in Books:\nDune\nSand.\n"
    assert TEMPLATE.item_document("Books", "Dune", "") == "An item in Books:\nDune\n"
    full = TEMPLATE.item_document("Books", "Dune", "Sand.", "Novels > Space")
    assert full == "An item in Books:\nDune\nCategory: Novels > Space\nSand.\n"
    assert TEMPLATE.item_document("Books", "Dune", category="") == "An item in Books:\nDune\n"
    assert TEMPLATE.question() + TEMPLATE.line("Dune") == "Does the user choose this next?\nDune\n"
    assert [TEMPLATE.answer(yes) for yes in (True, False)] == ["Yes\n", "No\n"]


def test_prompt_and_completion_read_as_a_document() -> None:
    titles = ["Dune", "Emma", "Ulysses"]
    assert TEMPLATE.prompt("Books", titles[:2]) + TEMPLATE.line(titles[2]) == TEMPLATE.prompt("Books", titles)


def test_candidate_block_stands_before_the_document() -> None:
    prompt = TEMPLATE.prompt("Books", ["Dune"], candidates=["Emma", "Ulysses"])
    assert prompt == "Candidates:\nEmma\nUlysses\n" + TEMPLATE.prompt("Books", ["Dune"])
    assert prompt.endswith(DELIMITER)
    assert prompt.startswith(TEMPLATE.block(["Emma", "Ulysses"]))
    assert TEMPLATE.block([]) == "Candidates:\n"


def test_a_domain_with_the_delimiter_is_refused() -> None:
    with pytest.raises(InputError, match="delimiter"):
        TEMPLATE.header("Books\nFilms")
    with pytest.raises(InputError, match="delimiter"):
        TEMPLATE.item_document("Books\nFilms", "Dune")


def test_versions() -> None:
    assert load_template("1") == Template()
    with pytest.raises(InputError, match=r"'2'.*knows '1'"):
        load_template("2")
