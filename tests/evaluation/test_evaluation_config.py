"""Evaluation recipes: each wrong value ends in one message."""

from pathlib import Path

import pytest

from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig
from cprec_hf.recipes import read_recipe

GOOD = """
corpus: here
domain: Music
output: there
methods:
  - {name: CPRec, kind: model, model: m, score: mean}
  - {name: popularity, kind: popularity}
  - {name: both, kind: hybrid, parts: [CPRec, popularity]}
reference: [popularity]
"""


def read(tmp_path: Path, text: str) -> EvaluateConfig:
    (tmp_path / "evaluate.yaml").write_text(text)
    return read_recipe(tmp_path / "evaluate.yaml", EvaluateConfig)


def test_a_recipe_reads_into_the_config(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert [(m.name, m.kind, m.model, m.score) for m in config.methods] == [
        ("CPRec", "model", "m", "mean"), ("popularity", "popularity", None, "sum"), ("both", "hybrid", None, "sum")
    ]  # fmt: skip
    assert config.parts == {"CPRec", "popularity"}
    assert config.split == "test" and config.k == [1, 5, 10]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("domain:", "domian:", "did you mean `domain`"),
        ("kind: popularity", "kind: popularty", "'popularty'"),
        ("model: m, ", "", "give `model`"),
        ("kind: popularity}", "kind: popularity, model: m}", "takes no `model`"),
        ("kind: popularity}", "kind: popularity, score: validation}", "takes no `model`, `revision` or `score`"),
        ("kind: popularity}", "kind: popularity, parts: [CPRec, both]}", "of kind popularity: takes no `parts`"),
        (", parts: [CPRec, popularity]", "", "'both' is of kind hybrid: give `parts`, the names of two"),
        ("[CPRec, popularity]", "[CPRec]", "'both' is of kind hybrid: give `parts`, the names of two"),
        ("hybrid, parts: [CPRec, popularity]", "best_of", "'both' is of kind best_of: give `parts`, the names of two"),
        ("[CPRec, popularity]", "[CPRec, pop]", "'pop', which is not among the methods: CPRec, popularity, both"),
        ("[CPRec, popularity]", "[CPRec, CPRec]", "'CPRec' more than once"),
        ("[CPRec, popularity]", "[CPRec, both]", "'both': `parts` lead back to itself"),
        ("kind: model, model: m, score: mean", "kind: hybrid, parts: [both, popularity]", "'CPRec': .* back to itself"),
        ("kind: model, model: m, score: mean", "kind: generate, model: m", "method of kind generate can be no part"),
        ("kind: popularity}", "kind: bayes_oracle}", "method of kind bayes_oracle can be no part"),
        ("kind: popularity}", "kind: candidate_memoriser}", "method of kind candidate_memoriser can be no part"),
        ("output: there", "output: there\ntrain_share: 0", "`train_share` is 0.*above 0 and at most 1"),
        ("output: there", "output: there\ntrain_share: 10", "`train_share` is 10"),
        ("output: there", "output: there\nsubset_seed: 1", "`subset_seed` draws the users of a `train_share`"),
        ("name: popularity", "name: CPRec", "more than once"),
        ("reference: [popularity]", "reference: [pop]", "'pop', which is not among"),
        ("output: there", "output: there\nk: [5, 1]", "rising"),
        ("output: there", "output: there\nseed: -1", "`seed` is -1"),
        ("output: there", "output: there\nsplit: train", "'train'"),
        ("score: mean", "score: max", "'max'"),
        ("kind: model, model: m, score: mean", "kind: generate", "of kind generate; give `model`"),
        ("kind: model, model: m", "kind: generate, model: m", "of kind generate, which takes no `score`"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_no_methods_is_refused() -> None:
    with pytest.raises(InputError, match="`methods` is empty"):
        EvaluateConfig(corpus="c", domain="d", output="o", methods=[])
