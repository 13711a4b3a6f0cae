"""candidate_match against its definitions, row by row."""

import unicodedata
from pathlib import Path

import evaluate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.metrics.candidate_match import candidate_match as module
from cprec_hf.metrics.candidate_match.candidate_match import candidate_match

FOLDER = Path(module.__file__).parent


def plain(title: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", title).split()).lower()


def test_nothing_valid_is_zero_not_an_error() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(predictions=["x"], references=["a"], candidates=[["a", "b"]])
    assert got == {"hr_all": 0.0, "hr_valid": 0.0, "valid_ratio": 0.0, "not_in_candidates": 1.0}


title = st.sampled_from(["Blue pen", "blue\tPEN ", "Blue\u00a0pen", "ﬁle", "File", "Ruler", "É", "E\u0301", ""])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(title, st.lists(title, min_size=1, max_size=4), st.integers(0, 3)), min_size=1, max_size=5))
def test_equals_a_row_by_row_count(rows: list[tuple[str, list[str], int]]) -> None:
    predictions = [p for p, _, _ in rows]
    candidates = [c for _, c, _ in rows]
    targets = [c[i % len(c)] for _, c, i in rows]
    got = candidate_match(predictions, targets, candidates)
    for row, (prediction, target, offered) in enumerate(zip(predictions, targets, candidates, strict=True)):
        same = [plain(c) == plain(target) for c in offered]
        assert got["valid"][row] == float(plain(prediction) in map(plain, offered))
        assert got["correct"][row] == (1 / sum(same) if plain(prediction) == plain(target) else 0.0)


@st.composite
def lists_of_titles(draw: st.DrawFn) -> tuple[list[list[str]], list[str], list[list[str]], list[str], list[list[str]]]:
    rows = draw(st.integers(1, 4))
    predictions = draw(st.lists(st.lists(title, max_size=5), min_size=rows, max_size=rows))
    candidates = draw(st.lists(st.lists(title, min_size=1, max_size=4), min_size=rows, max_size=rows))
    targets = [draw(st.sampled_from(offered)) for offered in candidates]
    catalogue = [*draw(st.lists(title, max_size=3)), *(one for offered in candidates for one in offered)]
    return predictions, targets, candidates, catalogue, draw(st.lists(st.lists(title, max_size=3), min_size=rows,
                                                                      max_size=rows))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(lists_of_titles())
def test_faults_of_lists_equal_a_count_title_by_title(table: tuple) -> None:
    predictions, targets, candidates, catalogue, histories = table
    got = candidate_match(predictions, targets, candidates, catalogue, histories)
    first_only = candidate_match([said[0] if said else "no such title" for said in predictions], targets, candidates)
    for row, (said, offered, had) in enumerate(zip(predictions, candidates, histories, strict=True)):
        names, places = [plain(one) for one in said], [plain(one) for one in offered]
        n = max(len(names), 1)
        assert got["not_in_candidates"][row] == sum(one not in places for one in names) / n
        assert got["non_exist"][row] == sum(one not in map(plain, catalogue) for one in names) / n
        assert got["in_history"][row] == sum(one in map(plain, had) for one in names) / n
        again = sum(names[:i].count(one) >= max(places.count(one), 1) for i, one in enumerate(names))
        assert got["repeat"][row] == again / n
        for name in ("valid", "correct"):
            assert got[name][row] == first_only[name][row]


def test_lists_through_evaluate() -> None:
    """RecAI's four words for what may be wrong with a generated list."""
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(
        predictions=[["Ruler", "Glue", "Flying carpet", "ruler"], []],
        references=["Ruler", "Ruler"],
        candidates=[["Ruler", "Blue pen"]] * 2,
        catalogue=["Ruler", "Blue pen", "Glue"],
        histories=[["Glue"], []],
    )
    assert got == {
        "hr_all": 0.5, "hr_valid": 1.0, "valid_ratio": 0.5,
        "not_in_candidates": 0.25, "non_exist": 0.125, "in_history": 0.125, "repeat": 0.125,
    }  # fmt: skip


def test_what_is_measured_follows_what_is_given() -> None:
    given = {"predictions": ["a"], "references": ["a"], "candidates": [["a"]]}
    assert set(candidate_match(**given)) == {"valid", "correct", "not_in_candidates"}
    assert set(candidate_match(**given, histories=[[]])) == {"valid", "correct", "not_in_candidates", "in_history"}
    assert "repeat" in candidate_match(**{**given, "predictions": [["a"]]})
    with pytest.raises(ValueError, match="row 0: the candidate 'a' is not in the catalogue"):
        candidate_match(**given, catalogue=["b"])
    with pytest.raises(ValueError, match="1 lists of candidates, 2 histories; give one of each"):
        candidate_match(**given, histories=[["a"], ["a"]])


@pytest.mark.parametrize(
    ("predictions", "targets", "candidates", "message"),
    [
        (["a"], ["b"], [["a", "c"]], "row 0: the target 'b' is not among"),
        (["a", "b"], ["a"], [["a"]], "2 predictions, 1 references"),
        ([], [], [], "0 predictions"),
        (["a"], ["a"], [[]], "row 0: the target"),
        (["a", None], ["a", "a"], [["a"], ["a"]], "row 1: the prediction is missing"),
        (["a", "a"], ["a", "a"], [["a"], ["a", None]], "row 1: the candidate is missing"),
        ([["a"], None], ["a", "a"], [["a"], ["a"]], "row 1: the list of prediction titles is missing"),
        ([["a"], ["a", None]], ["a", "a"], [["a"], ["a"]], "row 1: the prediction is missing"),
    ],
)
def test_bad_input_is_refused_by_name(predictions: list, targets: list, candidates: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidate_match(predictions, targets, candidates)
