"""Yes or no: rows, the loss of the answers, and scores, against one question at a time."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.protocol import run_evaluation
from cprec_hf.hub.cards import render_model_card
from cprec_hf.ranking.pointwise import pointwise_scores
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.training import pointwise
from cprec_hf.training.kernels import IGNORED
from training.runs import half_written, interrupt_at, log_lines, untimed, weights

QUESTION = "Does the user choose this next?\n"


def titles_of(corpus):
    return {row["item_id"]: row["title"] for row in pq.read_table(corpus / "items" / "train.parquet").to_pylist()}


def rows_of(corpus, split):
    return pq.read_table(corpus / "sft-tools" / f"{split}.parquet").to_pylist()


def answer_log_prob(model, encoder, prompt, title, answer):
    """Of one answer's tokens after one prompt and one question, in float64."""
    lines = encoder.segments([QUESTION, title + "\n", answer])
    ids = torch.tensor(np.concatenate([prompt, lines.values]).astype(np.int64)[None])
    found = model(ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])
    return found[-len(lines.row(2)) :].sum().item()


def brute_scores(model, encoder, corpus, row):
    titles, prompt = titles_of(corpus), encoder.documents([row["prompt"]]).row(0)
    return [
        answer_log_prob(model, encoder, prompt, titles[item], "Yes\n")
        - answer_log_prob(model, encoder, prompt, titles[item], "No\n")
        for item in row["candidates"]
    ]


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neo", "mistral"])
def test_scores_against_one_question_at_a_time(kind, corpus, make_tiny_model, byte_level_tokenizer):
    model, encoder = make_tiny_model(kind, byte_level_tokenizer), Encoder(byte_level_tokenizer)
    record = ModelRecord(
        stage="pointwise", base="b", template_version="1", max_title_tokens=8, history_length=6, domain="Tools",
        corpus="c", corpus_revision=None, corpus_hash="h", schedule={}, tokens=1, seed=0, parents=[], window_tokens=160,
    )  # fmt: skip
    items = pq.read_table(corpus / "items" / "train.parquet")
    recommender = Recommender(model, byte_level_tokenizer, record, items)
    rows = rows_of(corpus, "validation")[:3]
    histories, candidates = [row["history"] for row in rows], [row["candidates"] for row in rows]
    candidates[0] = [candidates[0][0], *candidates[0][:-1]]  # one item twice
    got = pointwise_scores(recommender, histories, candidates)
    assert got.dtype == np.float32 and got.shape == (3, 11)
    assert got[0, 0] == got[0, 1]
    with torch.no_grad():
        asked = [row | {"candidates": items} for row, items in zip(rows, candidates, strict=True)]
        expected = [brute_scores(model, encoder, corpus, row) for row in asked]
    np.testing.assert_allclose(got, expected, atol=2e-5)
    one_at_a_time = Recommender(model, byte_level_tokenizer, record, items, max_batch_tokens=1)
    np.testing.assert_allclose(pointwise_scores(one_at_a_time, histories, candidates), got, atol=2e-5)
    assert pointwise_scores(recommender, [[]] * 2, [[]] * 2).shape == (2, 0)

    # Too narrow a window for the whole history: its oldest items give way to the question, its title and the answer.
    ids, lengths = items["item_id"].to_pylist(), []
    recommender.record = replace(record, window_tokens=70)
    cut = pointwise_scores(recommender, histories[:1], candidates[:1])
    header = encoder.documents(["A user's history in Tools, oldest first:\n"]).row(0)
    line = {i: encoder.segments([t + "\n"]).row(0) for i, t in zip(ids, items["title"].to_pylist(), strict=True)}
    beside = len(encoder.segments([QUESTION]).values) + max(
        len(encoder.segments([a]).values) for a in ("Yes\n", "No\n")
    )
    room = 70 - beside - max(len(line[item]) for item in candidates[0])
    kept = list(histories[0])
    while len(header) + sum(len(line[item]) for item in kept) > room:
        kept.pop(0)
        lengths.append(len(kept))
    assert lengths
    recommender.record = replace(record, window_tokens=None)
    np.testing.assert_allclose(cut, pointwise_scores(recommender, [kept], candidates[:1]), atol=2e-5)
    recommender.record = replace(record, window_tokens=30)
    with pytest.raises(InputError, match="fit the model and its corpus' windows"):
        pointwise_scores(recommender, histories, candidates)


def test_the_loss_is_over_the_answers_of_targets_and_negatives(flags, corpus, base_model):
    """One step over all questions: the logged loss against the model's own logits, question by question."""
    out = pointwise.main(flags("out", max_steps=1, per_device_train_batch_size=90, packing=False, negatives=2))
    model = AutoModelForCausalLM.from_pretrained(base_model)
    encoder, titles = Encoder(AutoTokenizer.from_pretrained(base_model)), titles_of(corpus)
    total = count = 0
    with torch.no_grad():
        for row in rows_of(corpus, "train"):
            prompt = encoder.documents([row["prompt"]]).row(0)
            others = [item for item in row["candidates"] if item != row["target"]][:2]
            for item, answer in zip([row["target"], *others], ["Yes\n", "No\n", "No\n"], strict=True):
                total -= answer_log_prob(model, encoder, prompt, titles[item], answer)
                count += len(encoder.segments([answer]).values)
    assert log_lines(out)[0]["loss"] == pytest.approx(total / count, rel=1e-5)
    assert half_written(out) == []
    record = ModelRecord.load(out)
    assert (record.stage, record.domain) == ("pointwise", "Tools")
    assert record.schedule["data"].items() >= {"rows": 90, "negatives": 2}.items()


def test_rows_hold_whole_questions_within_the_window(corpus, byte_level_tokenizer):
    from cprec_hf.ranking.catalogue import Catalogue
    from cprec_hf.ranking.pointwise import Questions
    from cprec_hf.training.negatives import COLUMNS, negatives_of

    encoder, template = Encoder(byte_level_tokenizer), load_template("1")
    catalogue = Catalogue(pq.read_table(corpus / "items" / "train.parquet"), "Tools", encoder, template)
    table = pq.read_table(corpus / "sft-tools" / "train.parquet", columns=COLUMNS)
    questions, negatives = Questions(catalogue, encoder, template), negatives_of(table, catalogue, 1, "key")
    sizes, titles = {"history_length": 6, "candidate_list_in_prompt": False}, titles_of(corpus)
    rows = pointwise.pointwise_rows(table, questions, negatives, sizes, 160)
    for i, row in enumerate(rows_of(corpus, "train")):
        other = catalogue.ids[int(negatives[i, 0])].as_py()
        for place, item, answer in ((2 * i, row["target"], "Yes\n"), (2 * i + 1, other, "No\n")):
            ids = rows[place]["input_ids"]
            assert encoder.decode(ids) == f"{row['prompt']}{QUESTION}{titles[item]}\n{answer}"
            n = len(encoder.segments([answer]).values)
            assert rows[place]["labels"] == [IGNORED] * (len(ids) - n) + ids[-n:]
    short = pointwise.pointwise_rows(table, questions, negatives, sizes, 70)
    assert max(map(len, short["input_ids"])) <= 70 < max(map(len, rows["input_ids"]))


def test_a_run_trains_probes_and_ranks(flags, corpus, tmp_path):
    """It learns which answer is which, its probe is what the evaluation says, and its card shows how to ask it."""
    run = {"max_steps": 12, "eval_strategy": "steps", "eval_steps": 6, "probe_users": 8, "seed": 3}
    out = pointwise.main(flags("out", **run, per_device_train_batch_size=4))
    lines = log_lines(out)
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    probes = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "eval_ndcg@10" in line]
    assert [line["step"] for line in probes] == [6, 12]
    facts = json.loads((corpus / "cprec-corpus.json").read_text())
    encoder = Encoder(AutoTokenizer.from_pretrained(out))
    model, ranks = AutoModelForCausalLM.from_pretrained(out), []
    for row in rows_of(corpus, "validation"):
        with torch.no_grad():
            scores = np.array(brute_scores(model, encoder, corpus, row))
        ranks.append((scores > scores[row["candidates"].index(row["target"])]).sum())
    ndcg = np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks])
    assert probes[-1]["eval_ndcg@10"] == pytest.approx(ndcg, abs=1e-6)

    here = shutil.copytree(corpus, tmp_path / "whole")
    facts |= {"candidates": {"count": 11, "sha256": ""}, "source": {"kind": "table"}, "split": {"policy": "time"}}
    (here / "cprec-corpus.json").write_text(json.dumps(facts))
    methods = [MethodConfig("asked", "pointwise", str(out)), MethodConfig("random", "random")]
    config = EvaluateConfig(str(here), "Tools", str(tmp_path / "report"), methods, split="validation", k=[1, 10])
    results = json.loads((run_evaluation(config) / "results.json").read_text())["methods"][0]
    assert results["metrics"]["ndcg@10"]["mean"] == pytest.approx(ndcg, abs=1e-6)
    assert results["record"]["stage"] == "pointwise"
    card = (out / "README.md").read_text()
    assert "Stage: pointwise (" in card and "pointwise_scores(recommender, [history]" in card
    assert "recommender.recommend(" not in card and "log-likelihood of their titles" not in card
    sft = render_model_card({"record": results["record"] | {"stage": "sft"}, "model_name": "m"})
    assert "recommender.recommend(" in sft and "pointwise" not in sft


def test_interrupted_and_resumed_is_uninterrupted(flags, monkeypatch):
    options = {"max_steps": 4, "save_steps": 2, "negatives": 2}
    whole = pointwise.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(3, patch)
        pointwise.main(flags("stopped", **options))
    resumed = pointwise.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(whole) == untimed(resumed)


def test_the_kind_takes_no_score_and_needs_a_model():
    with pytest.raises(InputError, match="of kind pointwise, which takes no `score`"):
        MethodConfig("m", "pointwise", "model", score="mean")
    with pytest.raises(InputError, match="of kind pointwise; give `model`"):
        MethodConfig("m", "pointwise")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"negatives": 11}, "`negatives` is 11 and rows of 'Tools' have 11 candidates"),
        ({"completion_only_loss": "true"}, "`completion_only_loss` has no place in pointwise: the loss is over"),
        ({"max_length": 30}, "fit the model and its corpus' windows"),
        ({"eval_strategy": "steps", "eval_steps": 1, "probe_users": 0}, "`probe_users` 0 leaves no row to rank"),
        ({"beta": 0.1}, "`beta` has no place in pointwise"),
    ],
)
def test_bad_input(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        pointwise.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()
