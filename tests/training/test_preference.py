"""Preference learning against a brute force that reads one sequence at a time, and against TRL's own DPO."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trl
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import Catalogue
from cprec_hf.training import preference
from cprec_hf.training.negatives import COLUMNS, negatives_of
from cprec_hf.training.preference_rows import ChoiceCollator, preference_rows, tokens_read
from cprec_hf.training.preference_trainer import PreferenceTrainer, softmax_dpo_losses
from training.runs import half_written, interrupt_at, log_lines, untimed, weights

BETA = 0.3
WHOLE = {"per_device_train_batch_size": 30, "beta": BETA, "max_grad_norm": 0}


@given(
    st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(1, 3),
    st.floats(0.01, 2),
)
def test_the_loss_in_the_words_of_the_papers(ratios, negatives, beta):
    """S-DPO's -log sigma(-log sum exp(...)), and DPO's -log sigma(...) of one negative."""
    rows = [row[: 1 + negatives] for row in ratios]
    got = softmax_dpo_losses(torch.tensor(rows, dtype=torch.float64), beta)

    def minus_log_sigmoid(x):
        return max(-x, 0) + math.log1p(math.exp(-abs(x)))

    for (chosen, *rejected), loss in zip(rows, got.tolist(), strict=True):
        inner = math.log(sum(math.exp(beta * (r - chosen)) for r in rejected))
        assert loss == pytest.approx(minus_log_sigmoid(-inner), rel=1e-9, abs=1e-12)
        if negatives == 1:
            assert loss == pytest.approx(minus_log_sigmoid(beta * (chosen - rejected[0])), rel=1e-9, abs=1e-12)


@pytest.fixture
def catalogue(corpus, byte_level_tokenizer):
    items = pq.read_table(corpus / "items" / "train.parquet")
    return Catalogue(items, "Tools", Encoder(byte_level_tokenizer), load_template("1"))


def train_rows(corpus):
    return pq.read_table(corpus / "sft-tools" / "train.parquet", columns=COLUMNS)


def without_candidates(rows):
    return rows.set_column(3, "candidates", pa.array([[]] * len(rows), rows["candidates"].type))


def test_negatives_are_the_frozen_candidates_where_there_are_some(corpus, catalogue):
    rows = train_rows(corpus)
    for count in (1, 4, 9):
        got = negatives_of(rows, catalogue, count, "any")
        for row, items in zip(rows.to_pylist(), catalogue.ids.to_numpy(zero_copy_only=False)[got], strict=True):
            assert items.tolist() == [item for item in row["candidates"] if item != row["target"]][:count]
    with pytest.raises(InputError, match=r"`negatives` is 11 .*give at most 10"):
        negatives_of(rows, catalogue, 11, "any")
    with pytest.raises(InputError, match="`negatives` is 0"):
        negatives_of(rows, catalogue, 0, "any")


def test_drawn_negatives_avoid_all_that_the_user_did_in_training(corpus, catalogue):
    rows = without_candidates(train_rows(corpus))
    names = np.array(["ann", "bob", "eve", "joe"])[np.arange(len(rows)) % 4]  # several rows a user
    rows = rows.slice(0, 8).set_column(0, "user_id", [names[:8].tolist()])
    got = negatives_of(rows, catalogue, 3, "key")
    ids, seen = catalogue.ids.to_pylist(), {}
    for row in rows.to_pylist():
        seen.setdefault(row["user_id"], set()).update([*row["history"], row["target"]])
    for row, items in zip(rows.to_pylist(), got.tolist(), strict=True):
        assert len(set(items)) == 3
        assert not {ids[i] for i in items} & seen[row["user_id"]]
    assert len(np.unique(got, axis=0)) > 4
    np.testing.assert_array_equal(got, negatives_of(rows, catalogue, 3, "key"))
    assert (got != negatives_of(rows, catalogue, 3, "another")).any()
    # A row's draw is its own: a user's rows alone give the same, in whatever order the users come.
    one = rows.filter(np.asarray(names[:8] == "bob"))
    np.testing.assert_array_equal(negatives_of(one, catalogue, 3, "key"), got[names[:8] == "bob"])
    with pytest.raises(InputError, match=r"`negatives` 30, domain 'Tools': row .*: 31 candidates need 30 items"):
        negatives_of(rows, catalogue, 30, "key")


def test_rows_read_as_the_corpus_does_and_make_room_for_the_longest_title(corpus, catalogue):
    table = pq.read_table(corpus / "sft-tools" / "train.parquet")
    negatives = negatives_of(table, catalogue, 9, "any")
    sizes = {"history_length": 6, "candidate_list_in_prompt": False}
    titles, encoder = catalogue.names.to_pylist(), Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    rows = preference_rows(table, catalogue, negatives, sizes, 160)
    reads = tokens_read(rows)
    for i, row in enumerate(table.to_pylist()):
        assert rows[i]["prompt_ids"] == encoder.documents([row["prompt"]]).row(0).tolist()
        assert rows[i]["chosen_ids"] == encoder.segments([row["completion"]]).row(0).tolist()
        expected = [encoder.segments([titles[item] + "\n"]).row(0).tolist() for item in negatives[i]]
        assert rows[i]["rejected_ids"] == expected
        lengths = [len(ids) for ids in (rows[i]["chosen_ids"], *expected)]
        assert reads[i] == 10 * len(rows[i]["prompt_ids"]) + sum(lengths)
    short = preference_rows(table, catalogue, negatives, sizes, 60)
    widths = [len(r["prompt_ids"]) + max(map(len, [r["chosen_ids"], *r["rejected_ids"]])) for r in short]
    assert max(widths) <= 60 and sum(map(len, short["prompt_ids"])) < sum(map(len, rows["prompt_ids"]))
    for whole, cut in zip(rows["prompt_ids"], short["prompt_ids"], strict=True):  # the oldest items gave way
        header = len(encoder.documents(["A user's history in Tools, oldest first:\n"]).row(0))
        rest = cut[header:]
        assert whole[len(whole) - len(rest) :] == rest
    with pytest.raises(InputError, match="more than the 20"):
        preference_rows(table, catalogue, negatives, sizes, 20)


def test_where_prompts_show_their_candidates_the_frozen_list_stands_in_its_order(corpus, catalogue):
    table = pq.read_table(corpus / "sft-tools" / "train.parquet").slice(0, 4)
    titles = dict(zip(catalogue.ids.to_pylist(), catalogue.names.to_pylist(), strict=True))
    sizes = {"history_length": 6, "candidate_list_in_prompt": True}
    rows = preference_rows(table, catalogue, negatives_of(table, catalogue, 2, "any"), sizes, 400)
    encoder = Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    for i, row in enumerate(table.to_pylist()):
        names = [[titles[item] for item in row[key]] for key in ("history", "candidates")]
        assert encoder.decode(rows[i]["prompt_ids"]) == load_template("1").prompt("Tools", *names)


def brute_force(policy, reference, corpus, negatives, beta=BETA):
    """The mean loss over all training rows, one sequence at a time, in float64, with its graph; and the margins."""
    encoder = Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    items = pq.read_table(corpus / "items" / "train.parquet").to_pylist()
    titles = {item["item_id"]: item["title"] for item in items}

    def log_prob(model, prompt, title):
        line = encoder.segments([title + "\n"]).row(0)
        ids = torch.tensor(np.concatenate([prompt, line]).astype(np.int64)[None])
        found = model(ids).logits[0, :-1].double().log_softmax(-1).gather(1, ids[0, 1:, None])
        return found[-len(line) :].sum()

    losses, margins = [], []
    for row in pq.read_table(corpus / "sft-tools" / "train.parquet").to_pylist():
        prompt = encoder.documents([row["prompt"]]).row(0)
        rejected = [item for item in row["candidates"] if item != row["target"]][:negatives]
        ratios = []
        for item in (row["target"], *rejected):
            with torch.no_grad():
                before = log_prob(reference, prompt, titles[item])
            ratios.append(beta * (log_prob(policy, prompt, titles[item]) - before))
        losses.append(torch.log(sum(torch.exp(r - ratios[0]) for r in ratios)))
        margins.append((ratios[0] - sum(ratios[1:]) / negatives).item())
    return torch.stack(losses).mean(), np.mean(margins)


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("negatives", [1, 4])
def test_loss_and_gradient_of_a_run_against_one_sequence_at_a_time(flags, corpus, base_model, negatives):
    options = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "save_steps": 1, "max_steps": 2}
    out = preference.main(flags("out", **WHOLE, **options, negatives=negatives))
    first, second = log_lines(out)
    assert first["loss"] == pytest.approx(math.log(1 + negatives), rel=1e-6)  # the policy is the reference
    assert first["rewards/margins"] == 0
    policy = load(out / "checkpoint-1")
    expected, margin = brute_force(policy, load(base_model), corpus, negatives)
    assert second["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert second["rewards/margins"] == pytest.approx(margin, rel=1e-3, abs=1e-6)
    expected.backward()
    after = load(out).state_dict()
    for name, values in policy.named_parameters():
        got = (values.detach() - after[name]) / 0.5
        torch.testing.assert_close(got, values.grad, rtol=2e-3, atol=2e-6, msg=name)


def test_with_one_negative_it_is_trls_own_dpo(flags, corpus, monkeypatch):
    seen = []
    monkeypatch.setattr(PreferenceTrainer, "run", lambda self: seen.append(self) or Path())
    preference.main(flags("out", negatives=1, beta=BETA))
    (trainer,) = seen
    batch = trainer.data_collator(list(trainer.train_dataset))
    theirs = trl.trainer.dpo_trainer.DataCollatorForPreference(trainer.data_collator.pad_token_id)(
        [row | {"rejected_ids": row["rejected_ids"][0]} for row in trainer.train_dataset]
    )
    for name, values in batch.items():
        torch.testing.assert_close(values, theirs[name])
    torch.manual_seed(0)
    with torch.no_grad():
        for values in trainer.model.parameters():
            values += 0.05 * torch.randn_like(values)
    ours = trainer.compute_loss(trainer.model, batch)
    stock = trl.DPOTrainer._compute_loss(trainer, trainer.model, batch, False)
    torch.testing.assert_close(ours, stock)
    assert abs(ours.item() - math.log(2)) > 1e-3


def test_rows_accumulated_are_one_batch(flags):
    outs = [
        preference.main(
            flags(f"{b}x{a}", per_device_train_batch_size=b, gradient_accumulation_steps=a, save_strategy="no")
        )
        for b, a in ((4, 1), (1, 4))
    ]
    one, four = ([line["loss"] for line in log_lines(out)] for out in outs)
    assert one == pytest.approx(four, rel=1e-4)


def test_a_short_run_raises_the_targets_margin(flags):
    out = preference.main(
        flags("out", **WHOLE, max_steps=8, learning_rate=0.005, negatives=3, eval_strategy="steps", eval_steps=4)
    )
    lines = log_lines(out)
    assert lines[-1]["rewards/margins"] > 0.5 and lines[-1]["rewards/accuracies"] > 0.5
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    evaluations = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [4, 8]
    assert {"eval_hr@1", "eval_ndcg@10", "eval_rewards/margins"} <= evaluations[0].keys()


def test_what_it_leaves(flags, corpus, base_model):
    out = preference.main(flags("out", max_steps=2, save_steps=1, negatives=2, train_share=0.5))
    assert half_written(out) == []
    record = ModelRecord.load(out)
    assert (record.stage, record.base, record.domain) == ("preference", str(base_model), "Tools")
    about = {"rows": 15, "negatives": 2, "beta": 0.1, "train_share": 0.5, "subset_seed": None, "batch": 2}
    assert record.schedule["data"].items() >= about.items()
    assert record.tokens == log_lines(out)[-1]["tokens"]
    card = (out / "README.md").read_text()
    assert "Stage: preference (" in card and "recommender.recommend(" in card and "TRL" not in card
    assert (out / "catalogue.safetensors").exists() and weights(out) == weights(out / "checkpoint-2")


def test_interrupted_and_resumed_is_uninterrupted(flags, monkeypatch, capsys):
    options = {"max_steps": 6, "save_steps": 2, "gradient_accumulation_steps": 2, "warmup_steps": 2}
    whole = preference.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
        interrupt_at(3, patch)
        preference.main(flags("stopped", **options))
    assert done.value.code == 130
    assert f"--resume_from_checkpoint {whole.parent}/stopped/checkpoint-2" in capsys.readouterr().err
    resumed = preference.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(whole) == untimed(resumed)
    assert half_written(resumed) == []


def test_an_adapters_reference_is_its_base(flags, corpus, base_model):
    from peft import AutoPeftModelForCausalLM

    lora = {"use_peft": "true", "lora_r": 4, "learning_rate": 0.05, "max_steps": 3, "save_steps": 1}
    out = preference.main(flags("lora", **WHOLE, **lora, negatives=3))
    lines = log_lines(out)
    assert lines[0]["loss"] == pytest.approx(math.log(4), rel=1e-6)
    policy = AutoPeftModelForCausalLM.from_pretrained(out / "checkpoint-2")
    expected, _ = brute_force(policy, load(base_model), corpus, 3)
    assert lines[2]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert lines[2]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"negatives": 11}, "`negatives` is 11 and rows of 'Tools' have 11 candidates"),
        ({"negatives": 0}, "`negatives` is 0; give at least 1"),
        ({"train_share": 1.5}, "`train_share` is 1.5"),
        ({"loss_type": "ipo"}, "`loss_type` has no place in preference: the loss is the softmax DPO loss"),
        ({"sync_ref_model": "true"}, "the reference is the start"),
        ({"loss_head": "torch"}, "`loss_head` has no place in preference: its log-probabilities are those of TRL"),
        ({"precompute_ref_log_probs": "true"}, "the reference is the start"),
        ({"packing": "true"}, "unknown key `packing`"),
        ({"domain": "Books"}, "`domain` is 'Books'; "),
        ({"max_length": 1024}, "reads 512 tokens at most"),
        ({"max_length": 20}, "more than the 20"),
        ({"hub_always_push": "true"}, "every save is pushed, in order"),
    ],
)
def test_bad_input(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        preference.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_collator_pads_where_no_token_sees_it():
    rows = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [[4, 5], [6]]},
        {"prompt_ids": [7], "chosen_ids": [8, 9], "rejected_ids": [[5], [4]]},
    ]
    got = ChoiceCollator(0)(rows)
    assert got["input_ids"].tolist() == [
        [1, 2, 3, 0], [7, 8, 9, 0], [1, 2, 4, 5], [7, 5, 0, 0], [1, 2, 6, 0], [7, 4, 0, 0]
    ]  # fmt: skip
    assert got["completion_mask"].tolist() == [
        [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]
    ]  # fmt: skip
    assert (got["attention_mask"] == (got["input_ids"] > 0)).all()
