import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.hub.markdown import number
from cprec_hf.training import cpt
from cprec_hf.training.progress import ProgressLog
from training.runs import half_written, interrupt_at, log_lines, untimed, weights


@pytest.fixture(scope="module")
def options():
    return {"max_steps": 6, "save_steps": 2, "gradient_accumulation_steps": 2, "warmup_steps": 2}


def test_a_trunk_and_what_it_leaves(flags, options, corpus, base_model, tmp_path):
    out = cpt.main(flags("trunk", **options, save_total_limit=2, eval_strategy="steps", eval_steps=3))
    assert out == tmp_path / "trunk"
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "README.md", "log.jsonl"} < names
    assert {name for name in names if "checkpoint" in name} == {"checkpoint-4", "checkpoint-6"}
    assert half_written(out) == []
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in out.rglob("*") if path.is_file()} == {(tmp_path / "new").stat().st_mode}
    assert weights(out) == weights(out / "checkpoint-6") != weights(base_model)
    assert (out / "README.md").read_text().count("Stage: cpt") == 1

    lines = log_lines(out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["phase"] for line in lines] == ["warmup"] * 2 + ["stable"] * 4
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01, 0.01])
    evaluations = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [3, 6]

    record = ModelRecord.load(out)
    assert (record.stage, record.base, record.parents) == ("cpt", str(base_model), [str(base_model)])
    assert (record.corpus, record.corpus_hash, record.domain) == (str(corpus), "0" * 64, None)
    assert (record.template_version, record.max_title_tokens, record.history_length) == ("1", 8, 6)
    assert (record.window_tokens, record.candidate_list_in_prompt) == (160, False)
    assert (record.seed, record.tokens) == (1, lines[-1]["tokens"])
    assert record.schedule["type"] == "wsa"
    assert [record.schedule[f"{p}_steps"] for p in ("warmup", "stable", "anneal")] == [2, 4, 0]
    assert (record.schedule["step"], ModelRecord.load(out / "checkpoint-4").schedule["step"]) == (6, 4)
    assert ModelRecord.load(out / "checkpoint-4").tokens == lines[3]["tokens"]
    items = pq.read_table(out / "items.parquet")
    assert items.equals(pq.read_table(corpus / "items" / "train.parquet").select(items.column_names))

    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    rows = Encoder(tokenizer).documents(pq.read_table(corpus / "cpt" / "train.parquet")["text"])
    losses = []
    for i in range(5):
        ids = torch.tensor(rows.row(i)[None].astype(np.int64))
        losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert np.mean(losses) < 5.0 < np.log(len(tokenizer))  # it has learnt something


def test_the_card_at_every_save_is_ours(flags, options, monkeypatch):
    seen = {}

    def look(self, args, state, control, **_):
        out = Path(args.output_dir)
        seen[state.global_step] = {p.relative_to(out).parent.name: p.read_text() for p in out.rglob("README.md")}

    monkeypatch.setattr(ProgressLog, "on_save", look)
    out = cpt.main(flags("trunk", **options))
    assert {step: set(cards) for step, cards in seen.items()} == {
        2: {"checkpoint-2"}, 4: {"checkpoint-2", "checkpoint-4"}, 6: {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    }  # fmt: skip
    lines = log_lines(out)
    for step, cards in seen.items():
        card, line = cards[f"checkpoint-{step}"], lines[step - 1]
        assert f"| steps | {step} |\n| tokens a step | {line['tokens'] // step:,} |\n" in card
        assert f"| last training loss, nats a token | {number(line['loss'])} |" in card
        assert card.count("Stage: cpt") == 1 and "recommender.recommend(" not in card  # it has no items
        assert "TRL" not in card and "training_args" not in card
    final = (out / "README.md").read_text()
    assert "recommender.recommend(" in final and "| steps | 6 |" in final


def test_the_licences_of_base_and_corpus_are_recorded(flags, base_model, tmp_path):
    unknown = cpt.main(flags("unknown", max_steps=1))
    assert ModelRecord.load(unknown).licences == ["that of its base model", "CC BY 4.0"]
    named = shutil.copytree(base_model, tmp_path / "named")
    (named / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    trunk = cpt.main(flags("trunk", model_name_or_path=named, max_steps=1))
    assert ModelRecord.load(trunk).licences == ["apache-2.0", "CC BY 4.0"]
    assert "license_name: apache-2.0-and-cc-by-4.0\n" in (trunk / "README.md").read_text()
    (named / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n")
    other = cpt.main(flags("other", model_name_or_path=named, max_steps=1))
    assert ModelRecord.load(other).licences == ["mine", "CC BY 4.0"]


def test_the_first_loss_is_the_base_models_on_those_documents(flags, corpus, base_model):
    """One step over every document once: the logged loss is the mean over all their predicted tokens."""
    out = cpt.main(flags("one", max_steps=1, per_device_train_batch_size=64, packing=False, save_strategy="no"))
    model = AutoModelForCausalLM.from_pretrained(base_model)
    rows = Encoder(AutoTokenizer.from_pretrained(base_model)).documents(
        pq.read_table(corpus / "cpt" / "train.parquet")["text"]
    )
    total = count = 0.0
    losses = []
    for i in range(len(rows)):
        ids = torch.tensor(rows.row(i)[None].astype(np.int64))
        losses.append(model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1))
        count += ids.shape[1] - 1
    total = sum(losses)
    first_epoch = log_lines(out)[0]
    assert first_epoch["tokens"] >= rows.lengths.sum()
    # 48 documents and 16 of the second epoch: between the two, the mean lies within those 16 documents' spread.
    assert first_epoch["loss"] == pytest.approx(total / count, rel=0.01)


def test_the_same_recipe_twice_is_the_same_model(flags, options):
    first, second = (cpt.main(flags(name, **options)) for name in ("a", "b"))
    other = cpt.main(flags("c", **{**options, "seed": 2}))
    assert weights(first) == weights(second) != weights(other)


@pytest.mark.parametrize("stop", [3, 4])
def test_interrupted_and_resumed_is_uninterrupted(flags, options, stop, monkeypatch, capsys):
    whole = cpt.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
        interrupt_at(stop, patch)
        cpt.main(flags("stopped", **options))
    assert done.value.code == 130
    said = capsys.readouterr().err
    out = whole.parent / "stopped"
    assert half_written(out) == []
    assert not (out / "cprec.json").exists()
    assert f"--resume_from_checkpoint {out}/checkpoint-2" in said
    assert len(log_lines(out)) >= stop - 1

    (out / ".saving.tmp").mkdir()  # as a killed run would leave it
    resumed = cpt.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert half_written(out) == []
    assert untimed(whole) == untimed(resumed)
    assert ModelRecord.load(resumed).tokens == ModelRecord.load(whole).tokens


def test_killed_as_its_last_checkpoint_took_the_place_of_an_old_one(flags):
    argv = [*flags("out", max_steps=3, save_steps=1, save_total_limit=2), "--resume_from_checkpoint", "true"]
    out = cpt.main(argv)
    before = weights(out)
    shutil.copytree(out / "checkpoint-2", out / "checkpoint-1")
    (out / "checkpoint-1" / "model.safetensors").unlink()
    (out / "cprec.json").unlink()
    assert weights(cpt.main(argv)) == before
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def test_batches_accumulated_are_one_batch(flags):
    """4 rows at once and 4 times 1 row: the same mean over tokens, though rows differ in length."""
    shapes = [(4, 1), (1, 4)]
    outs = [
        cpt.main(flags(f"{b}x{a}", per_device_train_batch_size=b, gradient_accumulation_steps=a, save_strategy="no"))
        for b, a in shapes
    ]
    losses = [[line["loss"] for line in log_lines(out)] for out in outs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_an_adapter(flags, base_model):
    out = cpt.main(flags("lora", use_peft="true", lora_r=2, save_steps=2))
    assert {"adapter_model.safetensors", "adapter_config.json", "cprec.json", "items.parquet"} < {
        path.name for path in out.iterdir()
    }
    assert not (out / "model.safetensors").exists()
    assert "library_name: peft" in (out / "README.md").read_text()
    from peft import AutoPeftModelForCausalLM

    loaded = AutoPeftModelForCausalLM.from_pretrained(out)
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in loaded.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    ids = torch.tensor([[5, 6, 7, 8]])
    before = AutoModelForCausalLM.from_pretrained(base_model)(ids).logits
    assert not torch.allclose(loaded(ids).logits, before)
    with loaded.disable_adapter():
        torch.testing.assert_close(loaded(ids).logits, before)


@pytest.mark.parametrize("name", ["tinystories-neo-3m", "stories-260k"])
def test_real_models_go_through(flags, shared, corpus, name):
    """GPT-Neo has positions for 256 tokens and local attention; the other is a Llama with a SentencePiece tokenizer."""
    source = shared / "weights" / name
    options = {"max_steps": 2, "max_length": 256, "learning_rate": 1e-3, "save_strategy": "no"}
    out = cpt.main(flags("out", model_name_or_path=source, **options))
    tokenizer = AutoTokenizer.from_pretrained(out)
    rows = Encoder(tokenizer).documents(pq.read_table(corpus / "cpt" / "train.parquet")["text"])
    ids = torch.tensor(rows.row(0)[None].astype(np.int64))
    losses = [AutoModelForCausalLM.from_pretrained(f)(input_ids=ids, labels=ids).loss.item() for f in (source, out)]
    assert losses[1] < losses[0]
    assert ModelRecord.load(out).window_tokens is None  # the corpus counts in another tokenizer's tokens
    with pytest.raises(InputError, match="tokens at most, and `max_length` is 600"):
        cpt.main(flags("long", model_name_or_path=source, max_length=600))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rat": 1}, "unknown key `learning_rat`; did you mean `learning_rate`?"),
        (
            {"warmup_steps": 3, "lr_scheduler_kwargs": {"num_anneal_steps": 2}},
            "3 warmup + 2 anneal steps = 5 do not fit",
        ),
        ({"lr_scheduler_kwargs": {"aneal_ratio": 0.2}}, "unknown key `aneal_ratio`; did you mean `anneal_ratio`?"),
        ({"resume_from_checkpoint": "/nowhere/at/all"}, "no such folder"),
        ({"max_length": 1024}, "reads 512 tokens at most, and `max_length` is 1024"),
        ({"model_name_or_path": None}, "missing key `model_name_or_path`"),
        ({"model_name_or_path": "/nowhere/at/all"}, "`model_name_or_path`: no such folder: '/nowhere/at/all'"),
        (
            {"lr_scheduler_kwargs": {"anneal_ratio": "much"}},
            "`lr_scheduler_kwargs` {'anneal_ratio': 'much'} do not suit",
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}}, "do not suit cosine"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "do not suit cosine_with_min_lr"),
        ({"corpus": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"kinds": "mixed"}, "`kinds` names 'mixed'"),
        ({"item_share": 1.0}, "`item_share` is 1.0; give 0 or more and less than 1"),
        ({"packing": "false", "max_length": 50}, "rows are longer than `max_length` 50"),
    ],
)
def test_bad_input_is_one_message_before_any_work(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        cpt.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_full_disk(flags, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(InputError, match="MB are needed"):
        cpt.main(flags("out"))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_taken(flags):
    out = cpt.main(flags("out", max_steps=2))
    before = weights(out)
    with pytest.raises(InputError, match="exists already"):
        cpt.main(flags("out", max_steps=1))
    assert weights(out) == before
    cpt.main([*flags("out", max_steps=1), "--overwrite"])
    assert weights(out) != before
    assert not (out / "checkpoint-2").exists()
