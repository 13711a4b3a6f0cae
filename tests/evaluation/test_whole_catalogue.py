"""Held-out rows of any corpus rank the whole catalogue, or another of its frozen sets."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation import rows as rows_module
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.methods import Task, fit_method, measure_method
from cprec_hf.evaluation.protocol import run_evaluation


def config(corpus: Path, output: Path, kinds: list[str], **keys: Any) -> EvaluateConfig:
    methods = [MethodConfig(kind, kind) for kind in kinds]
    keys = {"methods": methods, "candidates": "all", "k": [1, 5], **keys}
    return EvaluateConfig(corpus=str(corpus), domain="Music", output=str(output), **keys)


def _rows(corpus: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(corpus / "sft-music" / f"{split}.parquet").to_pylist()


def _music(corpus: Path) -> list[str]:
    items = pq.read_table(corpus / "items" / "train.parquet").to_pylist()
    return [item["item_id"] for item in items if item["domain"] == "Music"]


def test_popularity_over_the_catalogue_is_counted_row_by_row(corpus: Path, tmp_path: Path) -> None:
    task = Task.load(config(corpus, tmp_path, ["popularity"]))
    found = measure_method(task.config.methods[0], task).metrics
    had = {(row["user_id"], item) for row in _rows(corpus, "train") for item in [*row["history"], row["target"]]}
    counts = Counter(item for _, item in had)
    for i, row in enumerate(_rows(corpus, "test")):
        rivals = [item for item in _music(corpus) if item not in {*row["history"], row["target"]}]
        above = sum(counts[item] > counts[row["target"]] for item in rivals)
        equal = 1 + sum(counts[item] == counts[row["target"]] for item in rivals)
        for k in (1, 5):
            assert found[f"hr@{k}"][i] == pytest.approx(np.clip((k - above) / equal, 0, 1))


@pytest.mark.parametrize("kind", ["item_knn", "title_overlap", "random", "latent_oracle", "bayes_oracle"])
def test_blocks_of_rows_change_nothing(
    corpus: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task.load(config(corpus, tmp_path, [kind]))
    whole = measure_method(task.config.methods[0], task)
    monkeypatch.setattr(rows_module, "_CELLS", 7 * 60)  # 7 rows of 60 items
    assert max(len(block) for block in task.rows.blocks()) == 7
    again = measure_method(task.config.methods[0], task)
    assert again.record == whole.record
    for name, values in whole.metrics.items():
        np.testing.assert_allclose(again.metrics[name], values)


def test_a_model_scores_the_catalogue_as_it_scores_candidates(
    corpus: Path, tmp_path: Path, byte_level_tokenizer: Any, tiny_model: Callable[..., Any]
) -> None:
    from cprec_hf.ranking.recommender import Recommender

    record = ModelRecord(
        stage="sft", base="b", template_version="1", max_title_tokens=40, history_length=20, domain="Music",
        corpus="toy", corpus_revision=None, corpus_hash="h", schedule={}, tokens=1, seed=0, parents=[],
    )  # fmt: skip
    items = pq.read_table(corpus / "items" / "train.parquet")
    items = items.take(pa.array(np.random.default_rng(0).permutation(len(items))))  # in an order of its own
    made = Recommender(tiny_model(byte_level_tokenizer), byte_level_tokenizer, record, items)
    made.save_pretrained(tmp_path / "model")
    for score in ("sum", "mean", "pmi"):
        method = MethodConfig("tiny", "model", str(tmp_path / "model"), score=score)
        task = Task.load(config(corpus, tmp_path, [], methods=[method]))
        some = next(_blocks_of(task, 3))
        scores = fit_method(method, task)[0](some)
        histories = [row["history"] for row in _rows(corpus, "test")[:3]]
        expected = made.rank(histories, [_music(corpus)] * 3, domain="Music", score=score)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        order = np.argsort(-made.rank(histories, None, domain="Music", score=score), axis=1, kind="stable")
        best = made.recommend(histories, k=1, domain="Music", exclude_history=False, score=score)
        ids = items.filter(pa.compute.equal(items["domain"], "Music"))["item_id"].to_pylist()
        assert [ids[row[0]] for row in order] == [found[0].item_id for found in best]


def _blocks_of(task: Task, size: int) -> Any:
    width = task.rows.candidates.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_CELLS", size * width)
        yield from task.rows.blocks()


def test_the_report_says_what_was_ranked(corpus: Path, tmp_path: Path) -> None:
    folder = run_evaluation(config(corpus, tmp_path / "out", ["popularity", "random"]))
    results = json.loads((folder / "results.json").read_text())
    assert (results["candidate_set"], results["candidates"]) == ("all", 60)
    assert (
        "each row ranks all 60 items, for every method, what stands in its history last"
        in (folder / "report.md").read_text()
    )
    folder = run_evaluation(config(corpus, tmp_path / "frozen", ["random"], candidates=None))
    assert "ranks the same 6 frozen candidates for every method, out of 60 items" in (folder / "report.md").read_text()


@pytest.fixture
def several(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with a second set, `candidates_popularity`: the first one's other way round, another item in it."""
    folder = tmp_path / "several"
    for path in corpus.rglob("*.parquet"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        table = pq.read_table(path)
        if path.parent.name == "sft-music":
            music = _music(corpus)
            sets = [
                [next(i for i in music if i not in {*row["candidates"], *row["history"]}),
                 *(i for i in row["candidates"][::-1] if i == row["target"]), *_others(row)[1:]]
                if row["candidates"] else []
                for row in table.to_pylist()
            ]  # fmt: skip
            table = table.append_column("candidates_popularity", pa.array(sets, pa.list_(pa.string())))
        pq.write_table(table, folder / path.parent.name / path.name)
    facts = json.loads((corpus / "cprec-corpus.json").read_text())
    facts["candidates"]["sets"] = {"candidates": "uniform", "candidates_popularity": "popularity"}
    (folder / "cprec-corpus.json").write_text(json.dumps(facts))
    return folder


def _others(row: dict[str, Any]) -> list[str]:
    return [item for item in row["candidates"] if item != row["target"]]


def test_a_set_is_asked_for_by_its_policy(several: Path, tmp_path: Path) -> None:
    columns = {None: "candidates", "uniform": "candidates", "popularity": "candidates_popularity"}
    for policy, column in columns.items():
        task = Task.load(config(several, tmp_path, ["random", "candidate_memoriser"], candidates=policy))
        offered = [row[column] for row in _rows(several, "test")]
        assert task.rows.candidate_ids == offered and not task.rows.whole
        memoriser, _ = fit_method(task.config.methods[1], task)
        assert memoriser(task.rows).shape == (len(offered), 6)
    folder = run_evaluation(config(several, tmp_path / "out", ["random"], candidates="popularity"))
    assert "frozen candidates for every method (`candidates_popularity`)" in (folder / "report.md").read_text()


def test_what_does_not_go_together_is_said(corpus: Path, several: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`candidates` is category; .* has uniform, popularity, all"):
        Task.load(config(several, tmp_path, ["random"], candidates="category"))
    with pytest.raises(InputError, match="method 'candidate_memoriser' is of a kind that needs a frozen set"):
        config(corpus, tmp_path, ["candidate_memoriser"])
    with pytest.raises(InputError, match="`k` goes to 61 and 'Music' has 60 items"):
        Task.load(config(corpus, tmp_path, ["random"], k=[1, 61]))
    facts = json.loads((several / "cprec-corpus.json").read_text())
    shown = facts | {"template": facts["template"] | {"candidate_list_in_prompt": True}}
    (several / "cprec-corpus.json").write_text(json.dumps(shown))
    with pytest.raises(InputError, match="begin with a list of candidates"):
        Task.load(config(several, tmp_path, ["random"]))
    none = facts | {"candidates": {"count": None, "sets": {}, "sha256": "beef"}}
    (several / "cprec-corpus.json").write_text(json.dumps(none))
    assert Task.load(config(several, tmp_path, ["random"], candidates=None)).rows.whole
    with pytest.raises(InputError, match="has no frozen candidates, which method 'candidate_memoriser' needs"):
        Task.load(config(several, tmp_path, ["candidate_memoriser"], candidates=None))
