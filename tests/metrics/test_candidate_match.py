"""candidate_match against its definitions, row by row."""

import importlib.util
import sys
import unicodedata
from pathlib import Path

import evaluate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.metrics.candidate_match import candidate_match as module
from cprec_hf.metrics.candidate_match.candidate_match import candidate_match

FOLDER = Path(module.__file__).parent


def plain(title: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", title).split()).lower()


def test_the_readme_example() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(
        predictions=["Blue  pen", "ruler", "a blue pen", "Glue"],
        references=["Blue pen", "Blue pen", "Blue pen", "Glue"],
        candidates=[["Ruler", "Blue pen"]] * 3 + [["Glue", "Glue", "Ruler"]],
    )
    assert got == {"hr_all": 0.375, "hr_valid": 0.5, "valid_ratio": 0.75}


def test_nothing_valid_is_zero_not_an_error() -> None:
    metric = evaluate.load(str(FOLDER))
    got = metric.compute(predictions=["x"], references=["a"], candidates=[["a", "b"]])
    assert got == {"hr_all": 0.0, "hr_valid": 0.0, "valid_ratio": 0.0}


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


@pytest.mark.parametrize(
    ("predictions", "targets", "candidates", "message"),
    [
        (["a"], ["b"], [["a", "c"]], "row 0: the target 'b' is not among"),
        (["a", "b"], ["a"], [["a"]], "2 predictions, 1 references"),
        ([], [], [], "0 predictions"),
        (["a"], ["a"], [[]], "row 0: the target"),
        (["a", None], ["a", "a"], [["a"], ["a"]], "row 1: the prediction is missing"),
        (["a", "a"], ["a", "a"], [["a"], ["a", None]], "row 1: the candidate is missing"),
    ],
)
def test_bad_input_is_refused_by_name(predictions: list, targets: list, candidates: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidate_match(predictions, targets, candidates)


def test_the_space_folder_is_complete() -> None:
    front = yaml.safe_load((FOLDER / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "gradio" and front["tags"] == ["evaluate", "metric"] and front["app_file"] == "app.py"
    assert "import cprec_hf" not in (text := (FOLDER / "candidate_match.py").read_text())
    assert "from cprec_hf" not in text


def test_the_app_answers_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "candidate_match", raising=False)
    spec = importlib.util.spec_from_file_location("match_app", FOLDER / "app.py")
    assert spec and spec.loader
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    assert app.answer('["A"]', '["a"]', '[["a", "b"]]') == {"hr_all": 1.0, "hr_valid": 1.0, "valid_ratio": 1.0}
    assert "not among" in app.answer('["a"]', '["z"]', '[["a"]]')["error"]
