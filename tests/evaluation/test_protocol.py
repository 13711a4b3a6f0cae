"""An evaluation from a corpus on disk to its report, checked against independent computation."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cprec_hf.corpus.pseudonyms import pseudonymise
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.baselines import ITEM_KNN_GRID
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.protocol import main, run_evaluation

KINDS = ["latent_oracle", "bayes_oracle", "item_knn", "title_overlap", "popularity", "random", "candidate_memoriser"]


def config(corpus: Path, output: Path, kinds: list[str] = KINDS, **more: Any) -> EvaluateConfig:
    methods = [MethodConfig(kind.replace("_", " "), kind) for kind in kinds]  # type: ignore[arg-type]
    return EvaluateConfig(**{"corpus": str(corpus), "domain": "Music", "output": str(output), "methods": methods,
                             "k": [1, 3, 5], **more})  # fmt: skip


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def means(results: dict[str, Any], metric: str = "hr@1") -> dict[str, float]:
    return {m["name"]: m["metrics"][metric]["mean"] for m in results["methods"]}


@pytest.fixture(scope="module")
def evaluated(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "out"
    return run_evaluation(config(corpus, output, reference=["popularity", "random"]))


def test_popularity_equals_a_count_in_plain_python(corpus: Path, evaluated: Path) -> None:
    train = pq.read_table(corpus / "sft-music" / "train.parquet").to_pylist()
    test = pq.read_table(corpus / "sft-music" / "test.parquet").to_pylist()
    seen = [set(row["history"]) | {row["target"]} for row in train]
    hits, gains = [], []
    for row in test:
        score = {item: sum(item in items for items in seen) for item in row["candidates"]}
        above = sum(s > score[row["target"]] for s in score.values())
        tied = sum(s == score[row["target"]] for s in score.values())
        hits.append(1 / tied if above == 0 else 0.0)
        gains.append(sum(1 / math.log2(p + 2) for p in range(above, above + tied) if p < 5) / tied)
    got = results_of(evaluated)
    assert means(got)["popularity"] == pytest.approx(np.mean(hits))
    assert means(got, "ndcg@5")["popularity"] == pytest.approx(np.mean(gains))
    per_user = pq.read_table(evaluated / "per_user.parquet")
    assert per_user["user_id"].to_pylist() == [row["user_id"] for row in test]
    np.testing.assert_allclose(per_user["popularity/hr@1"].to_numpy(), hits, atol=1e-12)


def test_ceilings_lie_above_and_chance_below(evaluated: Path) -> None:
    hr = means(results_of(evaluated))
    assert hr["latent oracle"] >= hr["bayes oracle"] > hr["popularity"] - 0.05
    assert hr["bayes oracle"] > 0.4
    assert hr["candidate memoriser"] == pytest.approx(1 / 6, abs=1e-9)  # no candidate set comes twice


def test_references_are_the_best_for_each_metric(evaluated: Path) -> None:
    results = results_of(evaluated)
    for metric, name in results["reference"].items():
        both = {k: v for k, v in means(results, metric).items() if k in ("popularity", "random")}
        assert name == max(both, key=lambda k: both[k])
        row = next(m for m in results["methods"] if m["name"] == name)
        assert metric not in row["against_reference"]
    knn = next(m for m in results["methods"] if m["kind"] == "item_knn")
    reference = results["reference"]["hr@1"]
    gap = knn["metrics"]["hr@1"]["mean"] - means(results)[reference]
    assert knn["against_reference"]["hr@1"]["difference"] == pytest.approx(gap)
    assert max(tried["validation"] for tried in knn["grid"]) == knn["validation"] and len(knn["grid"]) == len(
        ITEM_KNN_GRID
    )
    assert set(knn["chosen"]) == {"neighbours", "shrinkage", "last"}


def test_everything_is_written_and_recorded(evaluated: Path) -> None:
    names = {p.name for p in evaluated.iterdir()}
    assert names == {"results.json", "per_user.parquet", "report.md", "comparison.png", "reliability.png"}
    results = results_of(evaluated)
    assert results["corpus"]["content_sha256"] == "c0ffee" and results["corpus"]["candidates_sha256"] == "beef"
    assert (results["users"], results["rows"], results["candidates"], results["seed"]) == (80, 80, 6, 0)
    assert "item knn" in (evaluated / "report.md").read_text()


def test_the_same_recipe_twice_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    digests = []
    for _ in range(2):
        folder = run_evaluation(config(corpus, tmp_path / "out", ["popularity", "random"]), overwrite=True)
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()})
    assert digests[0] == digests[1]


def test_oracles_find_their_users_under_pseudonyms(make_corpus: Callable[..., Path], tmp_path: Path) -> None:
    hidden = make_corpus(tmp_path / "hidden", rename=lambda user: pseudonymise([user])[0])
    plain = make_corpus(tmp_path / "plain")
    kinds = ["latent_oracle", "bayes_oracle"]
    first, second = (results_of(run_evaluation(config(c, tmp_path / f"{c.name}-out", kinds))) for c in (hidden, plain))
    assert [m["metrics"] for m in first["methods"]] == [m["metrics"] for m in second["methods"]]


def test_a_foreign_key_is_said(make_corpus: Callable[..., Path], tmp_path: Path) -> None:
    foreign = make_corpus(tmp_path / "foreign", rename=lambda user: "x" + user)
    with pytest.raises(InputError, match="CPREC_USER_KEY"):
        run_evaluation(config(foreign, tmp_path / "out", ["bayes_oracle"]))
    assert not (tmp_path / "out").exists()


def test_the_memoriser_finds_candidates_seeded_by_the_target(make_corpus: Callable[..., Path], tmp_path: Path) -> None:
    leaky = make_corpus(tmp_path / "leaky", seeded_by_target=True)
    hr = means(results_of(run_evaluation(config(leaky, tmp_path / "out", ["candidate_memoriser", "random"]))))
    assert hr["candidate memoriser"] > 0.4 > hr["random"] + 0.1


def test_baselines_choose_on_validation_and_never_see_test_targets(corpus: Path, tmp_path: Path) -> None:
    before = results_of(run_evaluation(config(corpus, tmp_path / "a", ["item_knn", "title_overlap", "popularity"])))
    moved = tmp_path / "moved"
    for folder in ("items", "sft-music"):
        (moved / folder).mkdir(parents=True)
        for file in (corpus / folder).iterdir():
            (moved / folder / file.name).write_bytes(file.read_bytes())
    (moved / "cprec-corpus.json").write_bytes((corpus / "cprec-corpus.json").read_bytes())
    test = pq.read_table(moved / "sft-music" / "test.parquet")
    others = [next(c for c in row["candidates"] if c != row["target"]) for row in test.to_pylist()]
    pq.write_table(test.set_column(4, "target", [others]), moved / "sft-music" / "test.parquet")
    after = results_of(run_evaluation(config(moved, tmp_path / "b", ["item_knn", "title_overlap", "popularity"])))
    for one, two in zip(before["methods"], after["methods"], strict=True):
        assert one.get("chosen") == two.get("chosen") and one.get("validation") == two.get("validation")
    assert means(before) != means(after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "Musik"}, "'Musik'; the downstream domains of .* are Music"),
        ({"domain": "Books"}, "the downstream domains"),
        ({"k": [1, 10]}, "goes to 10 and a row has 6"),
        ({"methods": [MethodConfig("m", "model", "/no/model")]}, "/no/model"),
        ({"curves": ["/no/stage"]}, "/no/stage/log.jsonl"),
        ({"corpus": "/no/corpus"}, "/no/corpus"),
    ],
)
def test_what_does_not_fit_is_said_before_work_starts(
    corpus: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=message):
        run_evaluation(config(Path(change.pop("corpus", corpus)), tmp_path / "out", **change))
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_oracles_need_a_marketplace(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    facts = json.loads((corpus / "cprec-corpus.json").read_text()) | {"source": {"kind": "table"}}
    (other / "cprec-corpus.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="comes from 'table'"):
        run_evaluation(config(other, tmp_path / "out", ["bayes_oracle"]))


def test_an_existing_output_stands_unless_overwritten(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        run_evaluation(config(corpus, tmp_path / "out", ["random"]))
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_failure_half_way_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    ModelRecord(
        stage="sft", base="b", template_version="1", max_title_tokens=8, history_length=5, domain="Music", corpus="c",
        corpus_revision=None, corpus_hash="h", schedule={}, tokens=1, seed=0, parents=[],
    ).save(model)  # fmt: skip
    methods = [MethodConfig("random", "random"), MethodConfig("weightless", "model", str(model))]
    with pytest.raises(Exception):  # noqa: B017 - whatever loading a model without weights raises
        run_evaluation(config(corpus, tmp_path / "results" / "out", methods=methods))
    assert list((tmp_path / "results").iterdir()) == []


def write_recipe(corpus: Path, tmp_path: Path) -> Path:
    methods = [{"name": "first", "kind": "random"}, {"name": "ceiling", "kind": "bayes_oracle"}]
    output = str(tmp_path / "results" / "out")
    recipe = {"corpus": str(corpus), "domain": "Music", "output": output, "k": [1, 5], "methods": methods}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "evaluate.yaml"


def test_main_reads_a_recipe_and_prints_the_table(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(corpus, tmp_path)
    output, share = ["--output", str(tmp_path / "elsewhere")], ["--train_share", "0.5"]
    folder = main(["--config", str(recipe), *output, "--seed", "4", *share])
    assert folder == tmp_path / "elsewhere" and results_of(folder)["seed"] == 4
    assert results_of(folder)["train_share"] == 0.5
    out = capsys.readouterr().out
    assert "[1/2] first" in out and "[2/2] ceiling" in out and "hr@1 [95 %]" in out


def test_an_interrupt_leaves_no_half_written_folder(corpus: Path, tmp_path: Path) -> None:
    recipe = write_recipe(corpus, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "cprec_hf.evaluation.protocol", "--config", str(recipe)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2], env={**os.environ},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/2]"):
            process.send_signal(signal.SIGINT)
            break
    process.stdout.close()
    assert process.wait(timeout=120) != 0
    assert list((tmp_path / "results").iterdir()) == []
