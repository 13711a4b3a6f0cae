"""A model's row of the table is what `Recommender.rank` says of the same rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.evaluation.config import EvaluateConfig, Kind, MethodConfig
from cprec_hf.evaluation.fitters import FITTERS
from cprec_hf.evaluation.methods import Task, fit_method
from cprec_hf.evaluation.protocol import run_evaluation


@pytest.fixture(scope="module")
def model(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: Any, tiny_model: Callable[..., Any]
) -> Path:
    """A tiny untrained model with the corpus' items, as a stage leaves it."""
    from cprec_hf.ranking.recommender import Recommender

    record = ModelRecord(
        stage="sft", base="b|<b>", template_version="1", max_title_tokens=40, history_length=20, domain="Music",
        corpus="toy", corpus_revision=None, corpus_hash="another", schedule={}, tokens=123456, seed=0, parents=[],
    )  # fmt: skip
    items = pq.read_table(corpus / "items" / "train.parquet")
    made = Recommender(tiny_model(byte_level_tokenizer), byte_level_tokenizer, record, items)
    return made.save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


def config(corpus: Path, output: Path, methods: list[MethodConfig]) -> EvaluateConfig:
    return EvaluateConfig(corpus=str(corpus), domain="Music", output=str(output), methods=methods, k=[1, 5])


def test_every_kind_that_gives_scores_has_a_fitter() -> None:
    assert set(FITTERS) == set(get_args(Kind)) - {"generate"}


def test_scores_are_the_recommenders(corpus: Path, tmp_path: Path, model: Path) -> None:
    from cprec_hf.ranking.recommender import Recommender

    method = MethodConfig("tiny", "model", str(model), score="mean")
    task = Task.load(config(corpus, tmp_path / "out", [method]))
    score, record = fit_method(method, task)
    scores = score(task.rows)
    test = pq.read_table(corpus / "sft-music" / "test.parquet").to_pylist()
    alone = Recommender.from_pretrained(model)
    for row in (0, 41):
        expected = alone.rank([test[row]["history"]], [test[row]["candidates"]], domain="Music", score="mean")
        np.testing.assert_allclose(scores[row], expected[0], atol=1e-4)
    assert record["record"]["tokens"] == 123456


def test_the_report_names_the_model_and_a_foreign_corpus(corpus: Path, tmp_path: Path, model: Path) -> None:
    methods = [MethodConfig("tiny", "model", str(model)), MethodConfig("random", "random")]
    folder = run_evaluation(config(corpus, tmp_path / "out", methods))
    row = json.loads((folder / "results.json").read_text())["methods"][0]
    assert row["record"]["corpus_hash"] == "another" and row["model"] == str(model)
    report = (folder / "report.md").read_text()
    assert "Trained on another corpus than the one evaluated: tiny" in report
    assert "123,456 tokens" in report and "b\\|&lt;b&gt;" in report
