"""New tokens, trained alone at first; and the embeddings under an adapter."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt, sft
from cprec_hf.training.vocabulary import extend_vocabulary
from training.runs import BRANCH, interrupt_at, untimed, weights

NEW = ["wooden", "puzzle", "across all"]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def base(request, make_tiny_model, byte_level_tokenizer, tmp_path):
    made = make_tiny_model("qwen3", byte_level_tokenizer, tie_word_embeddings=request.param)
    made.save_pretrained(tmp_path / "base")
    byte_level_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("spare", [0, 2, 5])
def test_new_rows_are_the_mean_of_their_pieces(base, spare):
    model, tokenizer = load(base), AutoTokenizer.from_pretrained(base)
    n, old = len(tokenizer), Encoder(tokenizer)
    model.resize_token_embeddings(n + spare)  # many models have rows that no token uses
    before = {name: values.detach().clone() for name, values in model.named_parameters()}
    ids = extend_vocabulary(model, tokenizer, NEW)
    assert ids == [n, n + 1, n + 2]
    for end, name in ((model.get_input_embeddings(), "model.embed_tokens.weight"), (model.lm_head, "lm_head.weight")):
        was = before.get(name, before["model.embed_tokens.weight"])
        assert len(end.weight) == max(n + spare, n + 3)
        torch.testing.assert_close(end.weight[:n], was[:n], rtol=0, atol=0)
        for token, row in zip(NEW, ids, strict=True):
            pieces = old.segments([token]).row(0)
            expected = torch.stack([was[int(piece)] for piece in pieces]).mean(0)
            torch.testing.assert_close(end.weight[row], expected)
    got = Encoder(tokenizer).segments(["wooden puzzle\n", "wood\n"])
    blank = old.segments([" "]).row(0).tolist()
    assert got.row(0).tolist()[: 2 + len(blank)] == [n, *blank, n + 1]
    assert got.row(1).tolist() == old.segments(["wood\n"]).row(0).tolist()


def options(base, **more):
    return {"model_name_or_path": base, "max_steps": 5, "weight_decay": 0.1, "new_token_steps": 3} | more


def test_only_new_rows_move_at_first_then_all(flags, base, corpus):
    argv = flags("out", **options(base), save_steps=1)
    out = cpt.main([*argv, "--new_tokens", *NEW])
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer.convert_tokens_to_ids(NEW)
    start = load(base)
    extend_vocabulary(start, AutoTokenizer.from_pretrained(base), NEW)
    before = start.state_dict()
    for step in (1, 3):
        for name, values in load(out / f"checkpoint-{step}").state_dict().items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                assert torch.equal(values[: ids[0]], before[name][: ids[0]])
                assert (values[ids] != before[name][ids]).any(dim=1).all(), (name, step)
            else:
                assert torch.equal(values, before[name]), (name, step)
    after = load(out / "checkpoint-4").state_dict()
    assert all(not torch.equal(values, before[name]) for name, values in after.items())
    assert not torch.equal(after["lm_head.weight"][:200], before["lm_head.weight"][:200])
    record = ModelRecord.load(out)
    assert (record.schedule["new_tokens"], record.schedule["new_token_steps"]) == (3, 3)
    assert record.window_tokens is None  # the corpus counts otherwise
    # What is saved reads text as the run did: fewer tokens than before, and the new ones among them.
    text = pq.read_table(corpus / "cpt" / "train.parquet")["text"]
    rows, old = (Encoder(AutoTokenizer.from_pretrained(folder)).documents(text) for folder in (out, base))
    assert np.isin(ids, rows.values).all() and len(rows.values) < len(old.values)
    branch = anneal.main(flags("branch", **BRANCH, init_from=out, anneal_steps=1))
    assert len(load(branch).get_input_embeddings().weight) == ids[-1] + 1
    assert json.loads((branch / "config.json").read_text())["vocab_size"] == ids[-1] + 1


@pytest.mark.parametrize("stop", [3, 4])
def test_interrupted_and_resumed_across_the_switch_is_uninterrupted(flags, base_model, stop, monkeypatch):
    """Stopped behind checkpoint 2, within the warm-up, and behind checkpoint 3, where it ends."""
    keys = options(base_model, max_steps=6, save_steps=stop - 1, optim="adamw_torch")
    whole = cpt.main([*flags("whole", **keys), "--new_tokens", *NEW])
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(stop, patch)
        cpt.main([*flags("stopped", **keys), "--new_tokens", *NEW])
    argv = [*flags("stopped", **keys), "--new_tokens", *NEW, "--resume_from_checkpoint", "true"]
    resumed = cpt.main(argv)
    assert weights(resumed) == weights(whole)
    assert untimed(resumed) == untimed(whole)


def test_the_embeddings_moments_begin_anew_at_the_switch(flags, base_model):
    """The first step of old rows is Adam's first: as large as the rate, wherever there is a gradient."""
    keys = options(base_model, weight_decay=0, max_steps=4, save_steps=3, lr_scheduler_type="constant")
    out = cpt.main([*flags("out", **keys, learning_rate=1e-3, max_grad_norm=0), "--new_tokens", *NEW])
    table = "model.embed_tokens.weight"
    moved = (load(out).state_dict()[table] - load(out / "checkpoint-3").state_dict()[table]).abs()
    assert moved.max() == pytest.approx(1e-3, rel=1e-3)
    assert moved.median() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("tokens", "change", "said"),
    [
        ([""], {}, "`new_tokens[0]` is ''"),
        (["wooden", "a\nb"], {}, "`new_tokens[1]` is 'a\\nb'; a token has some text and no line break"),
        (["wooden", "wooden"], {}, "`new_tokens[1]`, 'wooden', is in the vocabulary already"),
        (["a"], {}, "`new_tokens[0]`, 'a', is in the vocabulary already"),
        (["wooden"], {"new_token_steps": 5}, "`new_token_steps` is 5; give 0 or more, and fewer than the run's 5"),
        (["wooden"], {"new_token_steps": -1}, "`new_token_steps` is -1"),
        ([], {}, "`new_token_steps` trains `new_tokens` first, and none are given"),
        (["wooden"], {"use_peft": "true"}, "an adapter's base would lack their rows"),
        (["wooden"], {"fsdp": "full_shard"}, "needs whole weights in each process"),
    ],
)
def test_bad_input(flags, base_model, tmp_path, tokens, change, said):
    argv = flags("out", **options(base_model, **change))
    with pytest.raises(InputError) as error:
        cpt.main([*argv, "--new_tokens", *tokens] if tokens else argv)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_embeddings_under_an_adapter(flags, base, monkeypatch):
    """Trained, saved, loaded and merged whole, and tied where they were."""
    from peft import AutoPeftModelForCausalLM

    tied = load(base).config.tie_word_embeddings
    lora = {"model_name_or_path": base, "use_peft": "true", "lora_r": 2, "save_steps": 2}
    saved = ["--lora_modules_to_save", "embed_tokens", *([] if tied else ["lm_head"])]
    out = cpt.main([*flags("lora", **lora), *saved])
    before, got = load(base), AutoPeftModelForCausalLM.from_pretrained(out)
    inner = got.get_base_model()
    ends = [end.weight for end in (inner.get_input_embeddings(), inner.get_output_embeddings())]
    assert torch.equal(*ends) == tied
    for end, was in zip(ends, (before.get_input_embeddings(), before.get_output_embeddings()), strict=True):
        assert not torch.equal(end, was.weight)
    ids = torch.tensor([[5, 6, 7, 8]])
    logits = got(ids).logits
    with got.disable_adapter():
        torch.testing.assert_close(got(ids).logits, before(ids).logits)
    merged = sft.main(flags("merged", model_name_or_path=out, max_steps=1, learning_rate=0))
    torch.testing.assert_close(load(merged)(ids).logits, logits, rtol=1e-4, atol=1e-5)
    assert load(merged).config.tie_word_embeddings == tied

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(3, patch)
        cpt.main([*flags("stopped", **lora), *saved])
    resumed = cpt.main([*flags("stopped", **lora), *saved, "--resume_from_checkpoint", "true"])
    assert (resumed / "adapter_model.safetensors").read_bytes() == (out / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_modules_to_save", "`lora_modules_to_save` names 'embeds', and Qwen3ForCausalLM has no such module"),
        ("lora_target_modules", "`lora_target_modules` names 'embed_tokens'; to train it, give `lora_modules_to_save"),
    ],
)
def test_modules_that_an_adapter_cannot_take(flags, tmp_path, key, said):
    names = ["embeds"] if key == "lora_modules_to_save" else ["q_proj", "embed_tokens"]
    with pytest.raises(InputError) as error:
        cpt.main([*flags("out", use_peft="true"), f"--{key}", *names])
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()
