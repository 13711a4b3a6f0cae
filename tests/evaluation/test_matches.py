"""Generate and match as a method of an evaluation: hr_all, hr_valid and valid_ratio against a count in plain Python."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.matches import summarise_matches
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.hub.eval_results import evaluations_of, results_of
from cprec_hf.hub.results_card import render_results_card
from cprec_hf.metrics.paired_significance.paired_significance import bootstrap_means

KS = [1, 3, 5]


@pytest.fixture(scope="module")
def lamps(
    make_corpus: Callable[..., Path], byte_level_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The toy corpus, where the six most frequent targets of the test split are called "red lamp"."""
    folder = make_corpus(tmp_path_factory.mktemp("corpora") / "lamps")
    byte_level_tokenizer.save_pretrained(folder / "tokenizer")
    targets = Counter(row["target"] for row in pq.read_table(folder / "sft-music" / "test.parquet").to_pylist())
    lamps = [item for item, _ in targets.most_common(6)]
    items = pq.read_table(folder / "items" / "train.parquet").to_pylist()
    for item in items:
        if item["item_id"] in lamps:
            item["title"] = item["full_title"] = "red lamp"
    pq.write_table(pa.Table.from_pylist(items), folder / "items" / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def writer(make_scripted_model: Any, byte_level_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain language model that answers "red lamp", whatever it is asked."""
    folder = tmp_path_factory.mktemp("models") / "writer"
    ids = Encoder(byte_level_tokenizer).segments(["red lamp\n"]).row(0)
    make_scripted_model(byte_level_tokenizer, ids).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


def config(corpus: Path, output: Path, methods: list[MethodConfig], **more: Any) -> EvaluateConfig:
    return EvaluateConfig(str(corpus), "Music", str(output), methods, k=KS, **more)


def test_answers_are_counted_as_in_plain_python(lamps: Path, writer: Path, tmp_path: Path) -> None:
    title = {i["item_id"]: i["title"] for i in pq.read_table(lamps / "items" / "train.parquet").to_pylist()}
    rows = pq.read_table(lamps / "sft-music" / "test.parquet").to_pylist()
    named = [[title[item] == "red lamp" for item in row["candidates"]] for row in rows]
    right = [title[row["target"]] == "red lamp" for row in rows]
    correct = [hit / sum(names) if hit else 0.0 for hit, names in zip(right, named, strict=True)]
    valid = [any(names) for names in named]
    assert 0 < sum(right) < sum(valid) < len(rows) and 2 in map(sum, named), "all cases must occur"

    methods = [
        MethodConfig("written", "generate", str(writer)),
        MethodConfig("ranked", "model", str(writer)),
        MethodConfig("random", "random"),
    ]
    folder = run_evaluation(config(lamps, tmp_path / "out", methods, reference=["random"]))
    results = json.loads((folder / "results.json").read_text())
    written, ranked, _ = results["methods"]
    assert "matched" not in ranked and written["record"]["stage"] == "none"
    matched = {name: value["mean"] for name, value in written["matched"].items()}
    assert matched["hr_all"] == pytest.approx(np.mean(correct)) == pytest.approx(written["metrics"]["hr@1"]["mean"])
    assert matched["valid_ratio"] == pytest.approx(np.mean(valid))
    assert matched["hr_valid"] == pytest.approx(sum(correct) / sum(valid))
    assert all(v["low"] <= v["mean"] <= v["high"] for v in written["matched"].values())
    per_user = pq.read_table(folder / "per_user.parquet")
    np.testing.assert_allclose(per_user["written/correct"].to_numpy(), correct)
    np.testing.assert_allclose(per_user["written/valid"].to_numpy(), valid)

    # Beyond k = 1: the answer first, a wrong one too, and all others behind it in any order.
    for k in KS:
        hits, gains = [], []
        for hit, names in zip(right, named, strict=True):
            n, m = len(names), sum(names)
            group = range(0, m) if hit else range(max(m, 1), n + (m == 0))  # the places that the target may have
            hits.append(sum(place < k for place in group) / len(group))
            gains.append(sum(1 / math.log2(place + 2) for place in group if place < k) / len(group))
        assert written["metrics"][f"hr@{k}"]["mean"] == pytest.approx(np.mean(hits))
        assert written["metrics"][f"ndcg@{k}"]["mean"] == pytest.approx(np.mean(gains))

    assert "## Generate and match" in (folder / "report.md").read_text()
    card = render_results_card(results)
    assert "language model whose written answers are looked up" in card
    assert {row["score"] for row in results_of(results, "written")} == {"generate and match"}
    assert [name for _, name in evaluations_of(results, writer, "here")] == [
        "ranked"
    ]  # a model's card shows its ranking, whatever stands first


def test_what_is_wrong_with_a_model_is_said_before_any_scoring(
    lamps: Path, writer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [MethodConfig("random", "random"), MethodConfig("written", "generate", str(tmp_path / "none"))]
    with pytest.raises(InputError, match="method 'written'"):
        run_evaluation(config(lamps, tmp_path / "out", methods))
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()


def test_hr_valid_is_resampled_as_a_ratio() -> None:
    rng = np.random.default_rng(0)
    valid = (rng.random(40) < 0.3).astype(float)
    correct = valid * (rng.random(40) < 0.5)
    means = bootstrap_means(np.stack([correct, valid], axis=1), seed=3, resamples=500)
    got = summarise_matches(correct, valid, means[:, 0], means[:, 1])
    ratios = [c / v if v else 0.0 for c, v in means]
    assert dataclasses.astuple(got["hr_valid"]) == pytest.approx(
        (correct.sum() / valid.sum(), np.percentile(ratios, 2.5), np.percentile(ratios, 97.5))
    )
    assert got["hr_all"].mean == pytest.approx(got["hr_valid"].mean * got["valid_ratio"].mean)
    nothing = summarise_matches(np.zeros(5), np.zeros(5), np.zeros(9), np.zeros(9))
    assert {dataclasses.astuple(value) for value in nothing.values()} == {(0.0, 0.0, 0.0)}
