"""A model's row of the table is what `Recommender.rank` says of the same rows."""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.evaluation.config import EMBEDDED, MODELS, EvaluateConfig, Kind, MethodConfig
from cprec_hf.evaluation.fitters import FITTERS
from cprec_hf.evaluation.methods import Task, fit_method, measure_method
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.evaluation.sequential.trainer import Schedule
from cprec_hf.training.subset import few_users


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


def ids_of(corpus: Path, split: str) -> list[list[str]]:
    return [row["candidates"] for row in pq.read_table(corpus / "sft-music" / f"{split}.parquet").to_pylist()]


def test_all_methods_rank_the_same_candidates(
    corpus: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cprec_hf.evaluation.sequential import fit

    short = {kind: dataclasses.replace(one, grid=one.grid[:1], schedule=Schedule(max_epochs=1))
             for kind, one in fit._KINDS.items()}  # fmt: skip
    monkeypatch.setattr(fit, "_KINDS", short)
    kinds = get_args(Kind)
    models = dict.fromkeys([*MODELS, *EMBEDDED], str(model))
    parts = {"hybrid": ["popularity", "model"], "best_of": ["random", "bm25"]}
    methods = [MethodConfig(kind, kind, models.get(kind), parts=parts.get(kind, [])) for kind in kinds]
    results = json.loads((run_evaluation(config(corpus, tmp_path / "out", methods)) / "results.json").read_text())
    lines = "".join(item + "\n" for row in ids_of(corpus, "test") for item in row)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    assert {m["name"]: m["candidates_sha256"] for m in results["methods"]} == dict.fromkeys(kinds, expected)
    random = MethodConfig("random", "random")
    task = Task.load(dataclasses.replace(config(corpus, tmp_path, [random]), split="validation"))
    assert measure_method(random, task).record["candidates_sha256"] != expected
    whole = Task.load(
        dataclasses.replace(config(corpus, tmp_path, [MethodConfig("random", "random")]), candidates="all")
    )
    every = "".join(item + "\n" for item in whole.catalogue.item_ids.to_pylist())
    found = measure_method(random, whole).record["candidates_sha256"]
    assert found == hashlib.sha256(every.encode()).hexdigest()


@pytest.mark.parametrize("candidates", [None, "all"])
def test_validation_chooses_the_score(corpus: Path, tmp_path: Path, model: Path, candidates: Any) -> None:
    methods = [MethodConfig(by, "model", str(model), score=by) for by in ("sum", "mean", "pmi")]  # type: ignore[arg-type]
    settings = {"candidates": candidates, "k": [1, 5]}
    on = {
        split: Task.load(dataclasses.replace(config(corpus, tmp_path, methods), split=split, **settings))
        for split in ("validation", "test")
    }
    values = {m.name: measure_method(m, on["validation"]) for m in methods}
    ndcg = {name: on["validation"].rows.per_user(one.metrics["ndcg@5"]).mean() for name, one in values.items()}
    best = max(ndcg, key=lambda name: ndcg[name])
    chosen = MethodConfig("chosen", "model", str(model), score="validation")
    found = measure_method(chosen, on["test"])
    tried = {one["score"]: one["validation"] for one in found.record["grid"]}
    assert tried == {name: pytest.approx(value) for name, value in ndcg.items()}
    assert found.record["chosen"] == {"score": best} and found.record["by"] == "ndcg@5 on validation"
    alone = measure_method(next(m for m in methods if m.name == best), on["test"])
    for metric, expected in alone.metrics.items():
        np.testing.assert_allclose(found.metrics[metric], expected)
    # Its validation scores are there, so its temperature is fitted; the others' cost a second reading and is not.
    calibration, plain = found.record["calibration"], alone.record["calibration"]
    assert calibration["as_scored"]["log_loss"] == pytest.approx(plain["as_scored"]["log_loss"])
    assert calibration["tempered"]["log_loss"] < math.log(60 if candidates else 6) + 0.1
    assert plain["temperature"] is None and "tempered" not in plain


def test_a_right_model_is_calibrated_and_a_wrong_one_is_not(corpus: Path, tmp_path: Path) -> None:
    methods = [MethodConfig("bayes", "bayes_oracle"), MethodConfig("popularity", "popularity")]
    task = Task.load(config(corpus, tmp_path, methods))
    bayes, popularity = (measure_method(method, task).record for method in methods)
    assert bayes["calibration"]["as_scored"]["log_loss"] < math.log(6) - 0.3 and "calibration" not in popularity
    assert bayes["calibration"]["as_scored"]["ece"] < 0.12  # 80 rows: its own noise is some .05


def test_the_position_of_what_comes_first_is_counted(corpus: Path, tmp_path: Path) -> None:
    task = Task.load(config(corpus, tmp_path, [MethodConfig("popularity", "popularity")]))
    record = measure_method(task.config.methods[0], task).record
    scores = task.popularity[task.rows.candidates]
    shares = np.zeros(6)
    for row in scores:
        best = np.flatnonzero(row == row.max())
        shares[best] += 1 / len(best) / len(scores)
    np.testing.assert_allclose(record["position"]["position_distribution"], shares)


@pytest.mark.parametrize("frozen", [True, False])
def test_few_shot_baselines_see_a_few_users_only(corpus: Path, tmp_path: Path, frozen: bool) -> None:
    """By the line that the corpus froze, or, of an older corpus, by that of the stages."""
    few, users = tmp_path / "few", []
    for path in corpus.rglob("*.*"):
        (few / path.relative_to(corpus)).parent.mkdir(parents=True, exist_ok=True)
        (few / path.relative_to(corpus)).write_bytes(path.read_bytes())
    train = pq.read_table(few / "sft-music" / "train.parquet")
    if frozen:
        ranks = np.random.default_rng(0).permutation(len(train)) / len(train)
        pq.write_table(train.append_column("user_rank", pa.array(ranks)), few / "sft-music" / "train.parquet")
        users = [user for user, rank in zip(train["user_id"].to_pylist(), ranks, strict=True) if rank < 0.25]
    else:
        users = few_users(train, 0.25, None)["user_id"].to_pylist()
    method = MethodConfig("popularity", "popularity")
    task = Task.load(dataclasses.replace(config(few, tmp_path, [method]), train_share=0.25))
    kept = [row for row in train.to_pylist() if row["user_id"] in users]
    assert len(kept) == 20 and task.train.shape[0] == 20
    counts = Counter(item for row in kept for item in {*row["history"], row["target"]})
    scores = fit_method(method, task)[0](task.rows)
    expected = [[counts[item] for item in row] for row in ids_of(corpus, "test")]
    np.testing.assert_array_equal(scores, expected)
    assert task.popularity.sum() == sum(len({*r["history"], r["target"]}) for r in train.to_pylist())
    whole = Task.load(config(corpus, tmp_path, [method]))
    assert [g.of_row.tolist() for g in task.groupings] == [g.of_row.tolist() for g in whole.groupings]


def test_a_report_says_whose_training_users_were_fewer(corpus: Path, tmp_path: Path, model: Path) -> None:
    methods = [MethodConfig("tiny", "model", str(model)), MethodConfig("kNN", "item_knn")]
    folder = run_evaluation(dataclasses.replace(config(corpus, tmp_path / "out", methods), train_share=0.1))
    report = (folder / "report.md").read_text()
    assert "Baselines saw 0.1 of the training users, not as many as these were fine-tuned on: tiny" in report
    assert "saw 0.1 of the training users (frozen in the corpus, as the stages' `train\\_share`)" not in report
    assert "Few-shot: what is fitted on training rows here saw 0.1 of the training users" in report
    assert json.loads((folder / "results.json").read_text())["train_share"] == 0.1


def test_the_report_names_the_model_and_a_foreign_corpus(corpus: Path, tmp_path: Path, model: Path) -> None:
    methods = [MethodConfig("tiny", "model", str(model)), MethodConfig("random", "random")]
    folder = run_evaluation(config(corpus, tmp_path / "out", methods))
    row = json.loads((folder / "results.json").read_text())["methods"][0]
    assert row["record"]["corpus_hash"] == "another" and row["model"] == str(model)
    report = (folder / "report.md").read_text()
    assert "Trained on another corpus than the one evaluated: tiny" in report
    assert "123,456 tokens" in report and "b\\|&lt;b&gt;" in report
