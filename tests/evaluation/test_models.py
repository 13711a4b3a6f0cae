"""Models as methods: plain ones rank zero-shot with the corpus' template and items, and bad ones are said at once."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.ranking.recommender import Recommender


@pytest.fixture(scope="module")
def worded(
    make_corpus: Callable[..., Path], byte_level_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The toy corpus with its tokenizer."""
    folder = make_corpus(tmp_path_factory.mktemp("corpora") / "worded")
    byte_level_tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture
def plain(make_tiny_model: Callable[..., Any], byte_level_tokenizer: Any, tmp_path: Path) -> Path:
    """A language model as the Hub has them: no record, no items."""
    make_tiny_model("llama", byte_level_tokenizer).save_pretrained(tmp_path / "plain")
    byte_level_tokenizer.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def evaluate(corpus: Path | str, output: Path, *models: Path | str) -> dict[str, Any]:
    methods = [MethodConfig(f"model {i}", "model", str(model)) for i, model in enumerate(models)]
    methods.append(MethodConfig("random", "random"))
    folder = run_evaluation(EvaluateConfig(str(corpus), "Music", str(output), methods, k=[1, 3]))
    results = json.loads((folder / "results.json").read_text())
    return {"results": results, "report": (folder / "report.md").read_text(), "folder": folder}


def ours(plain: Path, corpus: Path, folder: Path, **changes: Any) -> Path:
    """The same model saved as one of ours."""
    recommender = Recommender.zero_shot(plain, corpus, device="cpu")
    recommender.record = dataclasses.replace(recommender.record, stage="cpt", **changes)
    return recommender.save_pretrained(folder)


def test_a_plain_model_ranks_with_the_corpus_template_sizes_and_items(
    worded: Path, plain: Path, byte_level_tokenizer: Any, tmp_path: Path
) -> None:
    recommender = Recommender.zero_shot(plain, worded, device="cpu")
    record = recommender.record
    assert (record.stage, record.base, record.domain, record.tokens) == ("none", str(plain), None, 0)
    assert (record.template_version, record.history_length, record.window_tokens) == ("1", 20, 256)
    assert (record.corpus, record.corpus_revision, record.corpus_hash) == (str(worded), None, "c0ffee")
    assert recommender.items.num_rows == pq.read_metadata(worded / "items" / "train.parquet").num_rows

    saved = ours(plain, worded, tmp_path / "ours")
    got = evaluate(worded, tmp_path / "out", plain, saved)
    first, second, _ = got["results"]["methods"]
    assert first["metrics"] == second["metrics"]
    assert (first["record"]["stage"], second["record"]["stage"]) == ("none", "cpt")
    assert "a plain language model, as it is: zero-shot" in got["report"]

    rows = pq.read_table(worded / "sft-music" / "test.parquet").to_pylist()
    scores = recommender.rank([r["history"] for r in rows], [r["candidates"] for r in rows], domain="Music")
    targets = [row["candidates"].index(row["target"]) for row in rows]
    ranks = (scores > scores[np.arange(len(rows)), targets][:, None]).sum(axis=1)
    assert first["metrics"]["hr@1"]["mean"] == pytest.approx((ranks == 0).mean(), abs=0.02)  # ties count in part


def test_another_tokenizer_counts_otherwise(
    worded: Path, tiny_model: Any, llama3_style_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_model(llama3_style_tokenizer).save_pretrained(tmp_path / "other")
    llama3_style_tokenizer.save_pretrained(tmp_path / "other")
    assert Recommender.zero_shot(tmp_path / "other", worded, device="cpu").record.window_tokens is None


def test_a_plain_model_and_a_corpus_of_the_hub(worded: Path, plain: Path, hub_machine: Any, tmp_path: Path) -> None:
    model, model_commit = hub_machine.push(plain, "plain")
    corpus, corpus_commit = hub_machine.push(worded, "corpus", "dataset")
    got = hub_machine.run(
        """
        import json, sys
        from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
        from cprec_hf.evaluation.protocol import run_evaluation
        corpus, model, output = sys.argv[1:]
        methods = [MethodConfig("m", "model", model), MethodConfig("random", "random")]
        folder = run_evaluation(EvaluateConfig(corpus, "Music", output, methods, k=[1]))
        print(json.dumps(json.loads((folder / "results.json").read_text())))
        """,
        corpus, model, tmp_path / "out",
    )  # fmt: skip
    record = got["methods"][0]["record"]
    assert (record["base"], record["base_revision"]) == (model, model_commit)
    assert (record["corpus"], record["corpus_revision"]) == (corpus, corpus_commit)
    assert got["corpus"]["revision"] == corpus_commit
    here = evaluate(worded, tmp_path / "here", plain)["results"]["methods"][0]
    assert got["methods"][0]["metrics"]["hr@1"] == here["metrics"]["hr@1"]


def test_what_is_wrong_with_a_model_is_said_before_any_scoring(
    worded: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(model: Path, match: str) -> None:
        with pytest.raises(InputError, match=match):
            evaluate(worded, tmp_path / "out", model)
        assert capsys.readouterr().out == ""
        assert not (tmp_path / "out").exists()

    few = ours(plain, worded, tmp_path / "few")
    items = pq.read_table(few / "items.parquet")
    music = pc.equal(items["domain"], "Music")
    pq.write_table(pc.filter(items, music).slice(5), few / "items.parquet")
    refused(few, r"lacks \d+ of the \d+ items of 'Music'.*another corpus")
    pq.write_table(items.filter(pc.invert(music)), few / "items.parquet")
    refused(few, r"lacks (\d+) of the \1 items")
    (few / "items.parquet").unlink()
    refused(few, r"no file items\.parquet")
    (few / "cprec.json").write_text("{")
    refused(few, "not valid JSON")

    weights = plain / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    refused(plain, r"method 'model 0': .*model\.safetensors: cannot be read")
    weights.unlink()
    refused(plain, "no safetensors weights")
    (plain / "config.json").unlink()
    refused(plain, r"no file config\.json")


def test_users_are_counted_and_found_before_any_scoring(
    worded: Path, make_corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = make_corpus(tmp_path / "foreign", rename=lambda user: "x" + user)
    methods = [MethodConfig("random", "random"), MethodConfig("b", "bayes_oracle")]
    with pytest.raises(InputError, match="CPREC_USER_KEY"):
        run_evaluation(EvaluateConfig(str(foreign), "Music", str(tmp_path / "out"), methods, k=[1]))
    test = foreign / "sft-music" / "test.parquet"
    pq.write_table(pq.read_table(test).slice(0, 1), test)
    with pytest.raises(InputError, match="at least two of them"):
        evaluate(foreign, tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_a_record_of_an_older_release_still_reads(tmp_path: Path) -> None:
    record = ModelRecord(
        stage="cpt", base="b", template_version="1", max_title_tokens=8, history_length=5, domain=None, corpus="c",
        corpus_revision=None, corpus_hash="h", schedule={}, tokens=1, seed=0, parents=[], base_revision="abc",
    )  # fmt: skip
    record.save(tmp_path)
    values = json.loads((tmp_path / "cprec.json").read_text())
    del values["base_revision"]
    (tmp_path / "cprec.json").write_text(json.dumps(values))
    assert ModelRecord.load(tmp_path) == dataclasses.replace(record, base_revision=None)
