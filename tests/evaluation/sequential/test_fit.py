"""Sequential models as rows of the table: on the same candidates, chosen on validation, never on test."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.methods import Task, fit_method, measure_method
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.evaluation.sequential import fit
from cprec_hf.evaluation.sequential.trainer import Schedule

KINDS = ["gru4rec", "sasrec", "bert4rec"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few epochs each."""
    quick = {kind: replace(about, schedule=Schedule(max_epochs=3, patience=2)) for kind, about in fit._KINDS.items()}
    monkeypatch.setattr(fit, "_KINDS", quick)


@pytest.fixture(scope="module")
def language_model(
    tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: Any, tiny_model: Callable[..., Any]
) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "m"
    tiny_model(byte_level_tokenizer).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


def task_of(corpus: Path, kind: str, model: Path | None = None, **keys: Any) -> tuple[Task, MethodConfig]:
    method = MethodConfig(kind, kind, str(model) if model else None)
    config = EvaluateConfig(corpus=str(corpus), domain="Music", output="unused", methods=[method], k=[1, 5], **keys)
    return Task.load(config), method


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_holds_grid_choice_and_trainings(corpus: Path, kind: str) -> None:
    task, method = task_of(corpus, kind)
    record = measure_method(method, task).record
    grid = [{key: value for key, value in row.items() if key != "validation"} for row in record["grid"]]
    assert grid == [vars(setting) for setting in fit._KINDS[kind].grid] and len(grid) > 1
    values = [row["validation"] for row in record["grid"]]
    assert record["chosen"] == grid[int(np.argmax(values))] and record["validation"] == max(values)
    assert [row["validation"] for row in record["trainings"]] == values
    assert record["schedule"]["max_epochs"] == 3 and record["seed"] == 0
    train = task.splits["train"].to_pylist()
    assert record["training_users"] == len(train)
    assert record["training_events"] == sum(len(row["history"]) + 1 for row in train)
    known = {item for row in train for item in [*row["history"], row["target"]]}
    assert record["items_without_training"] == len(task.catalogue) - len(known)
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_know_nothing_of_test_targets_and_repeat(corpus: Path, kind: str) -> None:
    task, method = task_of(corpus, kind)
    score, record = fit_method(method, task)
    test = task.splits["test"]
    others = pa.compute.list_element(test["candidates"], 0)  # another answer to every question
    blind = replace(task, splits={**task.splits, "test": test.set_column(4, "target", others)})
    again, same = fit_method(method, blind)
    assert record == same
    np.testing.assert_array_equal(score(task.rows), again(task.rows))


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_have_their_scores_of_the_whole_catalogue(corpus: Path, kind: str) -> None:
    few, method = task_of(corpus, kind)
    whole, _ = task_of(corpus, kind, candidates="all")
    score, _ = fit_method(method, few)  # early stopping may differ on other candidates, so one model scores both
    np.testing.assert_allclose(
        score(few.rows), np.take_along_axis(score(whole.rows), few.rows.candidates, axis=1), atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_items_without_training_have_one_score(corpus: Path, kind: str) -> None:
    task, method = task_of(corpus, kind, candidates="all")
    new = task.catalogue.item_ids[:4].to_pylist()
    train = pa.Table.from_pylist(
        [row for row in task.splits["train"].to_pylist() if not {*row["history"], row["target"]} & {*new}],
        task.splits["train"].schema,
    )
    task = replace(task, splits={**task.splits, "train": train})
    score, record = fit_method(method, task)
    scores = score(task.rows)
    assert record["items_without_training"] >= 4 and np.isfinite(scores).all()
    assert (scores[:, :4] == scores[:, :1]).all() and np.ptp(scores[0]) > 0


def test_titles_begin_the_item_table_and_every_item_its_own(corpus: Path, language_model: Path) -> None:
    from cprec_hf.ranking.embeddings import title_embeddings, whitened

    task, method = task_of(corpus, "sasrec_llm", language_model)
    vocabulary, vectors = fit._vocabulary(method, task, 64)
    assert vocabulary.size == len(task.catalogue) and vectors is not None
    np.testing.assert_array_equal(vectors, whitened(title_embeddings(language_model, task.catalogue.titles), 64))
    kind = fit._KINDS["sasrec_llm"]
    model = fit._first(kind.build, vocabulary, kind.grid[0], vectors, 0)
    drawn = fit._first(kind.build, vocabulary, kind.grid[0], None, 0)
    width = vectors.shape[1]
    np.testing.assert_allclose(model.items.weight.detach()[:, :width], vectors / 8, rtol=1e-6)
    assert width < 64 and (model.items.weight[:, width:] == drawn.items.weight[:, width:]).all()
    assert measure_method(method, task).record["parameters"] == sum(w.numel() for w in model.parameters())


def test_a_report_on_the_same_candidates_and_the_same_bytes_again(
    corpus: Path, language_model: Path, tmp_path: Path
) -> None:
    methods = [MethodConfig(kind, kind) for kind in ("sasrec", "popularity")]
    methods += [MethodConfig(kind, kind, str(language_model)) for kind in ("sasrec_llm", "embedding")]
    config = EvaluateConfig(
        corpus=str(corpus), domain="Music", output=str(tmp_path / "a"), methods=methods, k=[1, 5], reference=["sasrec"]
    )
    first, second = (run_evaluation(replace(config, output=str(tmp_path / name))) for name in "ab")
    results = json.loads((first / "results.json").read_text())
    assert [row["kind"] for row in results["methods"]] == [method.kind for method in methods]
    assert results["corpus"]["candidates_sha256"] == "beef"  # one set for the whole table
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()
    assert (first / "per_user.parquet").read_bytes() == (second / "per_user.parquet").read_bytes()


def test_what_cannot_be_trained_is_named_before_any_work(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"method 'sasrec_llm'.*nowhere"):
        task_of(corpus, "sasrec_llm", tmp_path / "nowhere")
    task, method = task_of(corpus, "sasrec")
    with pytest.raises(InputError, match="no training rows"):
        fit_method(method, replace(task, splits={**task.splits, "train": task.splits["train"][:0]}))
