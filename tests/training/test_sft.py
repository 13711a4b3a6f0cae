import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.hub.kinds import plan_trunk
from cprec_hf.hub.publish import publish
from cprec_hf.training import cpt, sft
from cprec_hf.training.probe import RankingProbe
from cprec_hf.training.subset import few_users
from training.runs import half_written, log_lines, weights


def probes(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_ndcg@10"] for line in lines if "eval_ndcg@10" in line}


def test_fine_tuning_on_the_only_downstream_domain(flags):
    out = sft.main(flags("sft", max_steps=3))
    assert half_written(out) == []
    assert ModelRecord.load(out).domain == "Tools"
    assert len(log_lines(out)) == 3
    assert [line["phase"] for line in log_lines(out)] == ["stable", "stable", "anneal"]  # a whole WSA run by default


@pytest.mark.parametrize("completion_only", [True, False])
def test_the_loss_is_over_the_positions_asked_for(flags, corpus, base_model, completion_only):
    """One step over all 30 rows: the logged loss against the model's own logits, row by row."""
    out = sft.main(
        flags("sft", max_steps=1, per_device_train_batch_size=30, packing=False, completion_only_loss=completion_only)
    )
    model, encoder = (
        AutoModelForCausalLM.from_pretrained(base_model),
        Encoder(AutoTokenizer.from_pretrained(base_model)),
    )
    total = count = 0
    for row in pq.read_table(corpus / "sft-tools" / "train.parquet").to_pylist():
        prompt = encoder.documents([row["prompt"]]).row(0)
        ids = np.concatenate([prompt, encoder.segments([row["completion"]]).row(0)]).astype(np.int64)
        log_probs = model(torch.tensor(ids[None])).logits[0, :-1].log_softmax(-1)
        first = len(prompt) - 1 if completion_only else 0
        picked = log_probs[np.arange(len(ids) - 1), ids[1:]][first:]
        total, count = total - picked.sum().item(), count + len(picked)
    assert log_lines(out)[0]["loss"] == pytest.approx(total / count, rel=1e-5)


def test_early_stopping_keeps_the_best_by_ranking(flags, corpus):
    options = {"max_steps": 40, "learning_rate": 0.05, "save_total_limit": 40}
    out = sft.main(flags("sft", **options, eval_steps=2, early_stopping_patience=2, probe_users=6))
    found = probes(out)
    best = max(found, key=lambda step: (found[step], -step))
    assert max(found) == min(best + 4, 40)  # stopped two evaluations after the best
    assert weights(out) == weights(out / f"checkpoint-{best}")
    record = ModelRecord.load(out)
    assert record.schedule["step"] == best
    assert record.tokens == log_lines(out)[best - 1]["tokens"]
    # The probe's number is that of the saved model.
    probe = RankingProbe(str(corpus), None, "Tools", "sft-tools", Encoder(AutoTokenizer.from_pretrained(out)), 6)
    assert probe(AutoModelForCausalLM.from_pretrained(out))["ndcg@10"] == pytest.approx(found[best], abs=1e-6)


def test_the_probe_against_one_candidate_at_a_time(corpus, base_model):
    model, encoder = (
        AutoModelForCausalLM.from_pretrained(base_model),
        Encoder(AutoTokenizer.from_pretrained(base_model)),
    )
    titles = {row["item_id"]: row["title"] for row in pq.read_table(corpus / "items" / "train.parquet").to_pylist()}
    hits, gains = [], []
    for row in pq.read_table(corpus / "sft-tools" / "validation.parquet").to_pylist():
        scores = []
        prompt = encoder.documents([row["prompt"]]).row(0)
        for item in row["candidates"]:
            ids = np.concatenate([prompt, encoder.segments([titles[item] + "\n"]).row(0)]).astype(np.int64)
            log_probs = model(torch.tensor(ids[None])).logits[0, :-1].log_softmax(-1)
            scores.append(log_probs[np.arange(len(ids) - 1), ids[1:]][len(prompt) - 1 :].sum().item())
        rank = sum(score > scores[row["candidates"].index(row["target"])] for score in scores)
        hits.append(rank == 0)
        gains.append(1 / np.log2(rank + 2) if rank < 10 else 0)
    got = RankingProbe(str(corpus), None, "Tools", "sft-tools", encoder, 100)(model)
    assert got == pytest.approx({"hr@1": np.mean(hits), "ndcg@10": np.mean(gains)})


def test_an_adapter_and_a_model_built_on_it(flags):
    adapter = sft.main(flags("lora", use_peft="true", lora_r=2, max_steps=2))
    assert (adapter / "adapter_model.safetensors").exists()
    with pytest.raises(InputError, match="would put a second on it"):
        sft.main(flags("twice", model_name_or_path=adapter, use_peft="true"))
    merged = sft.main(flags("merged", model_name_or_path=adapter, max_steps=1, learning_rate=0))
    ids = torch.tensor([[5, 6, 7, 8]])
    from peft import AutoPeftModelForCausalLM

    expected = AutoPeftModelForCausalLM.from_pretrained(adapter)(ids).logits
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(merged)(ids).logits, expected)


def test_from_a_trunks_revision_on_the_hub(flags, hub_machine, tmp_path):
    """The branch trunk-step-2 of a repo whose main branch is empty, read at its commit."""
    trunk = cpt.main(flags("trunk", max_steps=4, save_steps=2))
    api = HfApi(endpoint=hub_machine.hub.url, token=hub_machine.hub.token)
    pushed = publish(plan_trunk(trunk / "checkpoint-2", "trunk", endpoint=hub_machine.hub.url), api)
    keys = {"model_name_or_path": pushed.repo_id, "model_revision": "trunk-step-2", "max_steps": 2}
    hub_machine.run(
        "import json, sys; from cprec_hf.training import sft; sft.main(json.loads(sys.argv[1])); print('null')",
        json.dumps(flags("far", **keys)),
    )
    near = sft.main(flags("near", model_name_or_path=trunk / "checkpoint-2", max_steps=2))
    assert weights(tmp_path / "far") == weights(near)
    record = ModelRecord.load(tmp_path / "far")
    assert (record.base, record.base_revision) == (pushed.repo_id, pushed.commit)


def test_a_smaller_share_of_the_users_is_among_a_larger_one():
    users = [f"u{i}" for i in range(40) for _ in range(1 + i % 3)]
    rows = pa.table({"user_id": users, "row": range(len(users))})
    kept = {share: few_users(rows, share, 0) for share in (0.01, 0.1, 0.3, 1.0)}
    chosen = {share: set(table["user_id"].to_pylist()) for share, table in kept.items()}
    assert [len(names) for names in chosen.values()] == [1, 4, 12, 40]
    assert chosen[0.01] < chosen[0.1] < chosen[0.3] < chosen[1.0]
    for share, table in kept.items():  # whole users, in the order of the rows
        assert table["row"].to_pylist() == [i for i, user in enumerate(users) if user in chosen[share]]
    order = np.random.default_rng(0).permutation(len(users))
    assert set(few_users(rows.take(order), 0.1, 0)["user_id"].to_pylist()) == chosen[0.1]
    assert set(few_users(rows, 0.1, 1)["user_id"].to_pylist()) != chosen[0.1]
    assert few_users(rows, None, 0) is rows
    assert few_users(rows, 0.3, None).equals(kept[0.3])  # of a corpus that froze no line


def test_the_users_of_a_share_are_those_that_the_corpus_froze_unless_a_seed_says_otherwise():
    users = [f"u{i}" for i in range(30) for _ in range(1 + i % 3)]
    rank = [(7 * int(user[1:]) % 30) / 30 for user in users]
    rows = pa.table({"user_id": users, "row": range(len(users)), "user_rank": rank})
    for share, n in ((0.01, 1), (0.1, 3), (0.3, 9), (1.0, 30)):
        first = {f"u{i}" for i in range(30) if 7 * i % 30 < n}
        assert few_users(rows, share, None).equals(rows.filter(pc.is_in(rows["user_id"], pa.array(sorted(first)))))
    assert few_users(rows, 0.3, 0).equals(
        rows.filter(pc.is_in(rows["user_id"], few_users(rows.drop_columns(["user_rank"]), 0.3, 0)["user_id"]))
    )
    assert not few_users(rows, 0.3, 0).equals(few_users(rows, 0.3, None))


def test_a_few_shot_run_reads_and_records_its_users_rows(flags, corpus):
    """The tokens of the run are those of the subset's rows, whatever its seed and batch."""
    table = pq.read_table(corpus / "sft-tools" / "train.parquet")
    mine = few_users(table, 0.1, 3)
    assert len(mine) == 3
    encoder = Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    tokens = encoder.documents([row["prompt"] + row["completion"] for row in mine.to_pylist()]).lengths.sum()
    for seed, batch in ((1, 3), (2, 1)):
        steps = 3 // batch
        run = {"max_steps": steps, "per_device_train_batch_size": batch, "packing": False, "seed": seed}
        out = sft.main(flags(f"few-{seed}", **run, train_share=0.1, subset_seed=3))
        record = ModelRecord.load(out)
        assert record.schedule["data"].items() >= {"train_share": 0.1, "subset_seed": 3, "rows": 3}.items()
        assert record.tokens == tokens
    assert "train_share" not in ModelRecord.load(sft.main(flags("all", max_steps=1))).schedule["data"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_share": 0}, "`train_share` is 0.0; give a share of the users"),
        ({"domain": "Books"}, "`domain` is 'Books'; "),
        ({"early_stopping_patience": 2}, "give at least 1, and `eval_steps`"),
        ({"eval_strategy": "steps", "eval_steps": 1, "probe_users": 0}, "`probe_users` 0 leaves no validation row"),
        ({"max_length": 50}, "rows are longer than `max_length` 50"),
        ({"load_in_4bit": "true"}, "not supported"),
    ],
)
def test_bad_input(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        sft.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()
