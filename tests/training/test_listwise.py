"""List-wise training against a brute force that reads one sequence at a time, and against TRL's own DPO."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.cli import main as cli
from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import listwise, listwise_rows
from cprec_hf.training.listwise_trainer import ListwiseTrainer
from training.runs import half_written, interrupt_at, log_lines, untimed, weights

WHOLE = {"per_device_train_batch_size": 6, "train_share": 0.2, "max_grad_norm": 0}  # all of six rows a step
ONE_STEP = {"optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "save_steps": 1, "max_steps": 2}


def load(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder)


def caught(flags, monkeypatch, **values):
    """The trainer of a run that is not run."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(ListwiseTrainer, "run", lambda self: seen.append(self) or Path())
        listwise.main(flags("caught", **{"overwrite": "true"} | values))
    return seen[0]


def brute_force(policy, start, batches, epoch, options):
    """Rank loss, LM loss and nats per item of one pass over all rows, one sequence at a time, with their graph."""
    trunks, codes, siblings = batches.trunks, batches.catalogue.codes, batches.siblings
    beta, log_q = options.get("beta", 1.0), siblings.log_q
    rank, nll, nats = [], [], []

    def log_probs(model, before, after):
        ids = torch.tensor(np.concatenate([before, after]).astype(np.int64)[None])
        found = model(ids[:, :-1]).logits[0].double().log_softmax(-1).gather(1, ids[0, 1:, None])
        return found[len(before) - 1 :, 0]

    for row in range(len(trunks)):
        ids = trunks.ids.row(row)
        nll.append(-log_probs(policy, ids[:1], ids[1:]))
        for number in trunks.lists.row(row):
            key = listwise_rows_key(trunks, row, epoch, number)
            target, seen = trunks.target[[number]], trunks.seen.take(np.array([row]))
            drawn = siblings.draw(target, seen, key, None)[0]
            scores = []
            for title in (target[0], *drawn):
                after = codes.row(title)
                found = log_probs(policy, ids[: trunks.begin[number]], after).sum()
                score = found
                if title == target[0]:
                    nats.append(-found)
                if options.get("reference"):
                    with torch.no_grad():
                        before = log_probs(start, ids[: trunks.begin[number]], after).sum()
                    score = found - before
                if options.get("length_normalise"):
                    score = score / len(after)
                scores.append(beta * score - (0 if log_q is None else float(log_q[title])))
            rank.append(torch.logsumexp(torch.stack(scores), 0) - scores[0])
    return torch.stack(rank).mean(), torch.cat(nll).mean(), torch.stack(nats).mean()


def listwise_rows_key(trunks, row, epoch, number):
    from cprec_hf.training.listwise_negatives import list_keys

    return list_keys(trunks.keys[[row]], np.array([epoch]), trunks.place[[number]])


@pytest.mark.parametrize(
    "options",
    [
        {"negatives": 3},
        {"negatives": 1, "reference": "true", "beta": 0.4, "lm_weight": 0.0, "negative_source": "popularity"},
        {"negatives": 4, "reference": "true", "length_normalise": "true", "positions": "last", "lm_weight": 2.0},
    ],
)
def test_loss_and_gradient_of_a_run_against_one_sequence_at_a_time(flags, base_model, options, monkeypatch):
    trainer = caught(flags, monkeypatch, **WHOLE, **ONE_STEP, **options)
    batches = trainer.data_collator
    out = listwise.main(flags("out", **WHOLE, **ONE_STEP, **options))
    second = log_lines(out)[1]
    policy = load(out / "checkpoint-1")
    rank, nll, nats = brute_force(policy, load(base_model), batches, 1, options)
    assert second["listwise/rank_loss"] == pytest.approx(rank.item(), rel=2e-5)
    assert second["listwise/lm_loss"] == pytest.approx(nll.item(), rel=2e-5)
    assert second["listwise/nats_per_item"] == pytest.approx(nats.item(), rel=2e-5)
    assert second["listwise/log_catalogue_size"] == pytest.approx(math.log(20))
    loss = rank + options.get("lm_weight", 0.3) * nll
    assert second["loss"] == pytest.approx(loss.item(), rel=2e-5)
    loss.backward()
    after = load(out).state_dict()
    for name, values in policy.named_parameters():
        got = (values.detach() - after[name]) / ONE_STEP["learning_rate"]
        torch.testing.assert_close(
            got, values.grad, rtol=2e-3, atol=2e-6, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_with_one_sibling_at_the_last_position_it_is_trls_own_dpo(flags, monkeypatch):
    beta = 0.3
    options = {"negatives": 1, "positions": "last", "reference": "true", "beta": beta, "lm_weight": 0.0}
    trainer = caught(flags, monkeypatch, **options)
    torch.manual_seed(0)
    with torch.no_grad():
        for values in trainer.model.parameters():
            values += 0.05 * torch.randn_like(values)
    rows, trunks, codes = [*range(len(trainer.data_collator.trunks))], trainer.data_collator.trunks, None
    codes = trainer.data_collator.catalogue.codes
    ours = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))

    pairs = []
    for row in rows:
        (number,) = trunks.lists.row(row)
        key = listwise_rows_key(trunks, row, 0, number)
        (drawn,) = trainer.data_collator.siblings.draw(
            trunks.target[[number]], trunks.seen.take(np.array([row])), key, None
        )
        chosen, rejected = (codes.row(title).tolist() for title in (trunks.target[number], drawn[0]))
        prompt = trunks.ids.row(row)[: trunks.begin[number]].tolist()
        pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    batch = trl.trainer.dpo_trainer.DataCollatorForPreference(0)(pairs)
    args = trl.DPOConfig(
        str(trainer.args.output_dir),
        beta=beta,
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
    )
    import datasets

    stock = trl.DPOTrainer(
        trainer.model, trainer.reference, args,
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=trainer.processing_class,
    )  # fmt: skip
    stock.model.eval()
    theirs = stock._compute_loss(stock.model, batch, False)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert abs(ours.item() - math.log(2)) > 1e-3


def test_rows_accumulated_are_one_batch_whatever_keeps_branches_apart(flags):
    options = {"save_strategy": "no", "max_steps": 3, "negatives": 3}
    shapes = {"one": (4, 1, {}), "four": (1, 4, {}), "mask": (2, 2, {"attn_implementation": "sdpa"})}
    losses = {}
    for name, (batch, steps, more) in shapes.items():
        out = listwise.main(
            flags(name, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **options, **more)
        )
        losses[name] = [line["loss"] for line in log_lines(out)]
    assert losses["one"] == pytest.approx(losses["four"], rel=1e-4)
    assert losses["one"] == pytest.approx(losses["mask"], rel=1e-4)


def test_a_short_run_puts_targets_ahead(flags):
    out = listwise.main(
        flags("out", **WHOLE, max_steps=12, learning_rate=0.01, eval_strategy="steps", eval_steps=6, probe_users=5)
    )
    lines = log_lines(out)
    assert lines[-1]["listwise/rank_loss"] < 0.8 * lines[0]["listwise/rank_loss"]
    assert lines[-1]["listwise/accuracy"] > lines[0]["listwise/accuracy"]
    evaluations = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [6, 12]
    names = {"eval_hr@1", "eval_ndcg@10", "eval_rank_loss", "eval_lm_loss", "eval_nats_per_item", "eval_accuracy"}
    assert names <= evaluations[0].keys()


def test_evaluation_is_exact_whatever_its_batches(flags, monkeypatch):
    found = []
    for size in (1, 3, 8):
        trainer = caught(flags, monkeypatch, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=size)
        found.append(trainer.evaluate())
    assert found[0]["eval_loss"] == pytest.approx(found[0]["eval_rank_loss"] + 0.3 * found[0]["eval_lm_loss"])
    for name in ("eval_loss", "eval_nats_per_item", "eval_hr@1"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-5) == pytest.approx(found[2][name], rel=1e-5)


def test_interrupted_and_resumed_is_uninterrupted(flags, monkeypatch, capsys):
    """Over more than an epoch: what a row is compared with differs from pass to pass."""
    options = {"max_steps": 6, "save_steps": 2, "gradient_accumulation_steps": 2, "warmup_steps": 2, "negatives": 2}
    options["train_share"] = 0.2  # six rows, four a step
    whole = listwise.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
        interrupt_at(5, patch)
        listwise.main(flags("stopped", **options))
    assert done.value.code == 130
    assert f"--resume_from_checkpoint {whole.parent}/stopped/checkpoint-4" in capsys.readouterr().err
    resumed = listwise.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(whole) == untimed(resumed)
    assert half_written(resumed) == []
    with pytest.raises(InputError, match="`negatives` was 2 and is 3"):
        listwise.main([*flags("stopped", **options | {"negatives": 3}), "--resume_from_checkpoint", "true"])


def test_what_it_leaves(flags, corpus, base_model):
    out = flags("out")[flags("out").index("--output_dir") + 1]
    cli(["train", "listwise", *flags("out", max_steps=2, save_steps=1, train_share=0.5, seed=3)])
    out = Path(out)
    assert half_written(out) == []
    record = ModelRecord.load(out)
    assert (record.stage, record.base, record.domain) == ("listwise", str(base_model), "Tools")
    about = {"rows": 15, "negatives": 6, "negative_source": "uniform", "positions": "every", "lm_weight": 0.3}
    about |= {"reference": False, "beta": 1.0, "length_normalise": False, "train_share": 0.5, "batch": 2}
    assert record.schedule["data"].items() >= about.items()
    assert record.tokens == log_lines(out)[-1]["tokens"] > 0
    card = (out / "README.md").read_text()
    assert "Stage: listwise (" in card and "not the paper's" in card and "recommender.recommend(" in card
    assert (out / "catalogue.safetensors").exists() and weights(out) == weights(out / "checkpoint-2")
    assert load(out).config._attn_implementation == "sdpa"


def test_an_adapters_reference_is_its_base(flags, base_model, monkeypatch):
    from peft import AutoPeftModelForCausalLM

    options = {"negatives": 2, "reference": "true", "beta": 0.5}
    lora = {
        "use_peft": "true",
        "lora_r": 4,
        "lora_dropout": 0.0,
        "learning_rate": 0.05,
        "max_steps": 3,
        "save_steps": 1,
    }
    batches = caught(flags, monkeypatch, **WHOLE, **options).data_collator
    out = listwise.main(flags("lora", **WHOLE, **lora, **options))
    lines = log_lines(out)
    assert lines[0]["listwise/rank_loss"] == pytest.approx(math.log(3), rel=1e-6)
    policy = AutoPeftModelForCausalLM.from_pretrained(out / "checkpoint-2")
    with torch.no_grad():
        rank, nll, _ = brute_force(policy, load(base_model), batches, 2, options)
    assert lines[2]["listwise/rank_loss"] == pytest.approx(rank.item(), rel=1e-4)
    assert lines[2]["listwise/lm_loss"] == pytest.approx(nll.item(), rel=1e-4)
    assert (out / "adapter_model.safetensors").exists()


def scrambled(corpus, folder):
    """The corpus with other validation and test rows: the targets and candidates of the rows after them."""
    shutil.copytree(corpus, folder)
    for split in ("validation", "test"):
        path = folder / "sft-tools" / f"{split}.parquet"
        rows = pq.read_table(path)
        rolled = rows.take(pa.array(np.roll(np.arange(len(rows)), 1)))
        for name in ("completion", "target", "candidates"):
            rows = rows.set_column(rows.column_names.index(name), name, rolled[name])
        pq.write_table(rows, path)
    return folder


def test_what_is_held_out_changes_nothing_and_a_planted_leak_shows(flags, corpus, tmp_path, monkeypatch):
    """Same bytes whatever validation and test ask; not so once negatives leave the candidates of validation out."""
    other, options = scrambled(corpus, tmp_path / "other"), {"max_steps": 2, "save_strategy": "no"}
    honest = [weights(listwise.main(flags(f"honest-{c.name}", corpus=c, **options))) for c in (corpus, other)]
    assert honest[0] == honest[1]

    whole = listwise_rows._taken

    def leaking(here):
        def taken(user_of, titles):
            rows = pq.read_table(here / "sft-tools" / "validation.parquet", columns=["target"])
            held = np.array([int(item.split("-")[1]) for item in rows["target"].to_pylist()], dtype=np.int32)
            seen = whole(user_of, titles)
            extra = held[np.arange(len(seen)) % len(held)]
            return seen.join(Ragged(extra, np.arange(len(seen) + 1)))

        return taken

    leaked = []
    for c in (corpus, other):
        with monkeypatch.context() as patch:
            patch.setattr(listwise_rows, "_taken", leaking(c))
            leaked.append(weights(listwise.main(flags(f"leaking-{c.name}", corpus=c, **options))))
    assert leaked[0] != leaked[1]


def with_facts(corpus, folder, change):
    shutil.copytree(corpus, folder)
    facts = json.loads((folder / "cprec-corpus.json").read_text())
    (folder / "cprec-corpus.json").write_text(json.dumps(change(facts)))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"negatives": 19}, "`negatives` is 19 and domain 'Tools' has 20 different titles; give at most 18"),
        ({"negatives": 0}, "`negatives` is 0; give at least 1"),
        ({"negatives": 18}, "no rows of 'Tools' to train on: 30 users who leave fewer than 18 titles"),
        ({"negative_source": "hard"}, "`negative_source` is 'hard'"),
        ({"negative_source": "category"}, "no item of 'Tools' has one in this corpus"),
        ({"positions": "all"}, "`positions` is 'all'; choose one of every, last"),
        ({"beta": 0}, "`beta` is 0.0; give more than 0"),
        ({"lm_weight": -1}, "`lm_weight` is -1.0; give 0 or more"),
        ({"min_history": 9}, "30 histories of 9 items or fewer"),
        ({"max_length": 20}, "more than the 20 that fit"),
        ({"train_share": 1.5}, "`train_share` is 1.5"),
        ({"loss_head": "liger"}, "`loss_head: liger` gives a sum"),
        ({"packing": "true"}, "`packing` has no place in listwise"),
        ({"attn_implementation": "cprec_varlen"}, "`attn_implementation: cprec_varlen` takes no mask as it is"),
    ],
)
def test_bad_input(flags, change, said):
    with pytest.raises(InputError, match=said):
        listwise.main(flags("out", **change))


def test_corpora_it_is_not_for(flags, corpus, tmp_path):
    def listing(facts):
        return facts | {"template": facts["template"] | {"candidate_list_in_prompt": True}}

    with pytest.raises(InputError, match="list the candidates of one target"):
        listwise.main(flags("out", corpus=with_facts(corpus, tmp_path / "listing", listing)))
    untitled = shutil.copytree(corpus, tmp_path / "untitled")
    items = pq.read_table(untitled / "items" / "train.parquet").to_pylist()
    for item in items:
        item["title"] = "" if item["item_id"] == "Tools-7" else item["title"]
    pq.write_table(pa.Table.from_pylist(items), untitled / "items" / "train.parquet")
    with pytest.raises(InputError, match="item 'Tools-7' of 'Tools' has no title after the cut"):
        listwise.main(flags("out", corpus=untitled))


def test_models_it_is_not_for(flags, make_tiny_model, byte_level_tokenizer, tmp_path):
    folder = tmp_path / "neo"
    make_tiny_model("gpt_neo", byte_level_tokenizer).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=r"GPTNeoForCausalLM .*does not read branches of a history as it reads each"):
        listwise.main(flags("out", model_name_or_path=folder))


def test_every_corpus_reads_each_event_once(flags, corpus, tmp_path, capsys):
    every = with_facts(corpus, tmp_path / "every", lambda facts: facts | {"recipe": {"train_targets": "every"}})
    path = every / "sft-tools" / "train.parquet"
    row = pq.read_table(path).slice(0, 1).to_pylist()[0]
    items = [*row["history"], row["target"]]
    rows = [row | {"history": items[:t], "target": items[t]} for t in range(1, len(items))]
    pq.write_table(pa.Table.from_pylist(rows), path)
    listwise.main(flags("out", corpus=every, max_steps=1, save_strategy="no"))
    assert f"1 histories, {len(items) - 1} targets with 6 siblings each" in capsys.readouterr().out


def test_the_encoders_of_runs_are_the_corpus_own(flags, corpus, monkeypatch):
    """A batch's trunks and branches decode to the corpus' own lines."""
    trainer = caught(flags, monkeypatch, negatives=2)
    batch = trainer.data_collator([0])
    encoder = Encoder(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    row = pq.read_table(corpus / "sft-tools" / "train.parquet").slice(0, 1).to_pylist()[0]
    tokens = batch["tokens"][batch["trunks"]]
    whole = encoder.documents([row["prompt"] + row["completion"]]).row(0)
    assert tokens.tolist() == whole[1:].tolist()
    items = pq.read_table(corpus / "items" / "train.parquet").filter(pa.compute.field("domain") == "Tools")
    titles = {title + "\n" for title in items["title"].to_pylist()}
    for rows in batch["lists"]:
        lines = [encoder.decode(batch["tokens"][places[places >= 0]].tolist()) for places in rows]
        assert {*lines} <= titles and len({*lines}) == 3
