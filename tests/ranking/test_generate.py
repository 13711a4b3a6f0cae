"""Greedy answers equal those of a twin that reads everything again for each token; matching equals plain Python."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import Template
from cprec_hf.errors import InputError
from cprec_hf.metrics.candidate_match.candidate_match import candidate_match
from cprec_hf.ranking.generate import generate_and_match
from cprec_hf.ranking.recommender import Recommender

KINDS = ["qwen3", "mistral", "gpt2", "gpt_neo"]  # all that is seen; a window of 8; position tables
HISTORIES = [["Ga1", "Ga4"], [], ["Ga0", "Ga9", "Ga2", "Ga5", "Ga8", "Ga6"], ["Ga10"]]
CANDIDATES = [["Ga5", "Ga2", "Ga9"], ["Ga10", "Ga11", "Ga5"], ["Ga7", "Ga8", "Ga4"], ["Ga2", "Ga5", "Ga10"]]
HOSTILE = {
    "do_sample": True, "temperature": 5.0, "top_k": 3, "top_p": 0.4, "typical_p": 0.3, "min_p": 0.2,
    "repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "num_beams": 3, "num_return_sequences": 2,
    "length_penalty": 3.0, "min_new_tokens": 7, "min_length": 300, "max_new_tokens": 1, "max_length": 3,
    "suppress_tokens": list(range(5, 200)), "begin_suppress_tokens": list(range(200, 300)), "forced_bos_token_id": 350,
    "forced_eos_token_id": 351, "eos_token_id": list(range(20, 380)), "pad_token_id": 11, "bad_words_ids": [[30], [31]],
    "sequence_bias": [[[40], 50.0]], "exponential_decay_length_penalty": [1, 2.0], "guidance_scale": 3.0,
    "stop_strings": ["a", "e"], "use_cache": False, "cache_implementation": "static", "max_time": 1e-9,
    "prompt_lookup_num_tokens": 2, "return_dict_in_generate": True, "output_scores": True, "renormalize_logits": True,
    "watermarking_config": {"bias": 30.0}, "remove_invalid_values": True, "output_attentions": True,
}  # fmt: skip


@pytest.fixture(scope="session")
def make_sure(make_recommender: Callable[..., Recommender], make_tiny_model: Any) -> Callable[..., Recommender]:
    """`make_sure(tokenizer, kind, seed)`: models whose answers vary and end, "gpt2" among their kinds."""

    def make(tokenizer: Any, kind: str = "qwen3", seed: int = 0, **config: Any) -> Recommender:
        import transformers

        made = make_recommender(tokenizer, "qwen3" if kind == "gpt2" else kind, **({} if kind == "gpt2" else config))
        if kind == "gpt2":
            shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "vocab_size": len(tokenizer)}
            made.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape | config)).eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for weight in made.model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.3)
            # Now and then a line must end: without this, hardly any answer of random weights does.
            newline = int(Encoder(tokenizer).segments(["a\n"]).row(0)[-1])
            embeddings = made.model.get_output_embeddings().weight
            embeddings[newline] *= 1.8
        return made

    return make


@pytest.fixture(scope="session")
def make_scripted(make_scripted_model: Any, record: Any) -> Callable[..., Recommender]:
    """`make_scripted(tokenizer, ids, titles)`: items i0, i1, ... of these titles, and a model that writes `ids`."""

    def make(tokenizer: Any, ids: list[int], titles: list[str]) -> Recommender:
        rows = [{"item_id": f"i{n}", "domain": "Garden", "title": t, "full_title": t} for n, t in enumerate(titles)]
        return Recommender(make_scripted_model(tokenizer, ids), tokenizer, record, pa.Table.from_pylist(rows))

    return make


def twin(recommender: Recommender, history: list[str], candidates: list[str]) -> tuple[str, float]:
    """The answer by reading the whole text anew for each token, and by how much the closest token was preferred."""
    encoder, template, record = Encoder(recommender.tokenizer), Template(), recommender.record
    title = {row["item_id"]: row["title"] for row in recommender.items.to_pylist() if row["domain"] == "Garden"}
    listed = [title[item] for item in candidates] if record.candidate_list_in_prompt else None
    prompt = template.prompt("Garden", [title[item] for item in history[-record.history_length :]], listed)
    ids = encoder.documents([prompt]).row(0).tolist()
    longest = max(len(encoder.segments([template.line(title[item])]).row(0)) for item in candidates)
    new: list[int] = []
    margin = np.inf
    while len(new) < longest and not (new and "\n" in encoder.decode(new[-1:])):
        with torch.no_grad():
            logits = recommender.model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1]
        best, next_best = torch.topk(logits, 2)
        margin = min(margin, float(best[0] - best[1]))
        if int(next_best[0]) == recommender.tokenizer.eos_token_id:
            break
        new.append(int(next_best[0]))
    return encoder.decode(new).split("\n")[0], margin


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_twin(kind: str, any_tokenizer: Any, make_sure: Any) -> None:
    compared = 0

    @settings(max_examples=6)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        nonlocal compared
        recommender = made[data.draw(st.integers(0, len(made) - 1))]
        item = st.sampled_from([f"Ga{number}" for number in range(12)])
        n, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
        histories = data.draw(st.lists(st.lists(item, max_size=6), min_size=n, max_size=n))
        candidates = data.draw(st.lists(st.lists(item, min_size=width, max_size=width), min_size=n, max_size=n))
        tokens = data.draw(st.sampled_from([1, 150, 16384]))
        answers = generate_and_match(recommender, histories, candidates, max_batch_tokens=tokens)
        for user in range(n):
            expected, margin = twin(recommender, histories[user], candidates[user])
            if margin > 1e-4:
                assert answers.texts[user] == expected
                compared += bool(expected)

    made = [make_sure(any_tokenizer, kind, seed) for seed in range(2)]
    check()
    assert compared > 5


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo"])
def test_every_answer_of_a_batch_fits_the_positions(kind: str, byte_level_tokenizer: Any, make_sure: Any) -> None:
    """Prompts of all lengths and candidates short and long: no row may run past the table for another's sake."""
    recommender = make_sure(
        byte_level_tokenizer, kind, **{"n_positions" if kind == "gpt2" else "max_position_embeddings": 90}
    )
    recommender.record = dataclasses.replace(recommender.record, history_length=20)
    history = ["Ga1", "Ga4", "Ga9", "Ga6", "Ga2", "Ga8", "Ga11", "Ga3"]
    histories = [history[:length] for length in range(len(history) + 1)]
    candidates = [["Ga9"] if length % 2 else ["Ga5"] for length in range(len(histories))]
    together = generate_and_match(recommender, histories, candidates).texts
    alone = [generate_and_match(recommender, [h], [c]).texts[0] for h, c in zip(histories, candidates, strict=True)]
    assert together == alone


def test_a_token_that_ends_in_the_delimiter_ends_the_answer(llama3_style_tokenizer: Any, make_scripted: Any) -> None:
    """Llama 3's split keeps line breaks with punctuation: the end of "mug!" is one token, "!" and the line break."""
    encoder = Encoder(llama3_style_tokenizer)
    ids = encoder.segments(["mug!\n"]).row(0)
    assert encoder.decode(ids[-1:]) == "!\n", "the case must have such a token"
    recommender = make_scripted(llama3_style_tokenizer, [*ids, ids[0]], titles=["mug!", "mug"])
    answers = generate_and_match(recommender, [[]], [["i1", "i0"]])
    assert (answers.texts, answers.chosen.tolist()) == (["mug!"], [1])


def test_the_end_of_text_ends_an_answer_too(any_tokenizer: Any, make_scripted: Any) -> None:
    ids = Encoder(any_tokenizer).segments(["red lamp\n"]).row(0)[:-1]
    recommender = make_scripted(any_tokenizer, [*ids, any_tokenizer.eos_token_id], titles=["mug", "red lamp"])
    answers = generate_and_match(recommender, [["i0"]], [["i0", "i1"]])
    assert (answers.texts, answers.chosen.tolist()) == (["red lamp"], [1])


def test_an_answer_has_room_for_the_longest_of_its_own_candidates(any_tokenizer: Any, make_scripted: Any) -> None:
    """An answer has as many tokens as the user's own longest candidate, whoever shares the batch."""
    encoder = Encoder(any_tokenizer)
    titles = ["mug", "red lamp with a very long name of many words in it"]
    loop = encoder.segments(["red lamp\n"]).row(0)[:2]
    recommender = make_scripted(any_tokenizer, [*loop, loop[0]], titles=titles)
    tokens = encoder.segments([f"{title}\n" for title in titles]).lengths
    answers = generate_and_match(recommender, [["i0"]] * 3, [["i0", "i0"], ["i0", "i1"], ["i0", "i0"]])
    assert answers.texts == [encoder.decode(np.resize(loop, tokens[which])) for which in (0, 1, 0)]
    assert answers.chosen.tolist() == [-1, -1, -1]
    ends_later = encoder.segments(["red lamp\n"]).row(0)
    recommender = make_scripted(any_tokenizer, ends_later.tolist(), titles=titles)
    answers = generate_and_match(recommender, [["i0"]] * 2, [["i0"], ["i1"]])
    assert answers.texts == [encoder.decode(ends_later[: tokens[0]]), "red lamp"]


def test_the_longest_title_is_written_to_its_end(any_tokenizer: Any, make_scripted: Any) -> None:
    title = "red 猫 lamp cotton"
    ids = Encoder(any_tokenizer).segments([f"{title}\n"]).row(0)
    recommender = make_scripted(any_tokenizer, [*ids, ids[0]], titles=["mug", title])
    answers = generate_and_match(recommender, [["i0"]], [["i0", "i1"]])
    assert (answers.texts, answers.chosen.tolist()) == ([title], [1])


def test_candidates_that_share_a_title_are_all_named(any_tokenizer: Any, make_scripted: Any) -> None:
    """Exactly the same, and the same but for case and white space; metrics then take the mean over them."""
    titles = ["red lamp", "mug", "Red  lamp", "red lamps", "red lamp"]
    ids = Encoder(any_tokenizer).segments(["red lamp\n"]).row(0)
    recommender = make_scripted(any_tokenizer, [*ids, ids[0]], titles=titles)
    offered = [["i1", "i2", "i0", "i3", "i4"], ["i3", "i1", "i1", "i3", "i1"]]
    answers = generate_and_match(recommender, [[], ["i3"]], offered)
    assert answers.named.tolist() == [[False, True, True, False, True], [False] * 5]
    assert answers.chosen.tolist() == [1, -1]
    assert [[titles[int(item[1:])] for item in row] for row in offered] == answers.titles.tolist()
    per_row = candidate_match(answers.texts, ["Red  lamp", "mug"], answers.titles.tolist())
    assert per_row["valid"].tolist() == [1, 0]
    assert per_row["correct"].tolist() == [pytest.approx(1 / 3), 0]


def test_a_recurrent_model_reads_no_padding(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    """RWKV takes no mask: prompts of different lengths in one batch would be answered from the padding."""
    import transformers

    shape = {"vocab_size": len(byte_level_tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "context_length": 256}
    made = make_recommender(byte_level_tokenizer)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**shape)).eval()
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    recommender = Recommender(model, byte_level_tokenizer, made.record, made.items)
    answers = generate_and_match(recommender, HISTORIES, CANDIDATES)
    for user, text in enumerate(answers.texts):
        expected, margin = twin(recommender, HISTORIES[user], CANDIDATES[user])
        assert text == expected or margin < 1e-4


def test_a_list_in_the_prompt_is_part_of_it(byte_level_tokenizer: Any, make_sure: Any) -> None:
    recommender = make_sure(byte_level_tokenizer)
    recommender.record = dataclasses.replace(recommender.record, candidate_list_in_prompt=True)
    with_list = generate_and_match(recommender, HISTORIES, CANDIDATES)
    for user, text in enumerate(with_list.texts):
        expected, margin = twin(recommender, HISTORIES[user], CANDIDATES[user])
        assert text == expected or margin < 1e-4


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neo"])
def test_the_generation_config_beside_a_model_changes_nothing(
    kind: str, byte_level_tokenizer: Any, make_sure: Any, tmp_path: Path
) -> None:
    recommender = make_sure(byte_level_tokenizer, kind)
    expected = generate_and_match(recommender, HISTORIES, CANDIDATES)
    folder = recommender.save_pretrained(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps(HOSTILE))
    hostile = Recommender.from_pretrained(folder, device="cpu")
    inherited = hostile.model.generation_config
    before = copy.deepcopy(inherited.to_dict())
    assert before["repetition_penalty"] == 9.0 and before["suppress_tokens"], "the case must reach the model"
    hostile.model.train()
    got = generate_and_match(hostile, HISTORIES, CANDIDATES)
    assert got.texts == expected.texts and len(set(got.texts)) > 1
    assert (got.named == expected.named).all()
    assert hostile.model.generation_config is inherited and inherited.to_dict() == before
    assert hostile.model.training


def test_an_error_restores_the_generation_config(
    byte_level_tokenizer: Any, make_sure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = make_sure(byte_level_tokenizer)
    recommender.model.generation_config = inherited = GenerationConfig(temperature=3.0, do_sample=True)

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(recommender.model, "forward", fail)
    with pytest.raises(MemoryError):
        generate_and_match(recommender, HISTORIES, CANDIDATES)
    assert recommender.model.generation_config is inherited


def test_an_adapter_answers_as_its_merged_model(byte_level_tokenizer: Any, make_sure: Any) -> None:
    from peft import LoraConfig, get_peft_model

    recommender = make_sure(byte_level_tokenizer)
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=4, init_lora_weights=False)
    base = generate_and_match(recommender, HISTORIES, CANDIDATES).texts
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(copy.deepcopy(recommender.model), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.mul_(4)
    answers = [
        generate_and_match(
            Recommender(model, recommender.tokenizer, recommender.record, recommender.items), HISTORIES, CANDIDATES
        ).texts
        for model in (adapted, copy.deepcopy(adapted).merge_and_unload())
    ]
    assert answers[0] == answers[1] != base


def test_nobody_and_bad_input(byte_level_tokenizer: Any, make_sure: Any) -> None:
    recommender = make_sure(byte_level_tokenizer)
    nobody = generate_and_match(recommender, [], [])
    assert nobody.texts == [] and nobody.chosen.shape == (0,)
    with pytest.raises(InputError, match="1 histories but 2 lists"):
        generate_and_match(recommender, [[]], [["Ga1"], ["Ga1"]])
    with pytest.raises(InputError, match=r"candidates\[0\] has 1 items but candidates\[1\] 2"):
        generate_and_match(recommender, [[], []], [["Ga1"], ["Ga1", "Ga2"]])
    with pytest.raises(InputError, match="lists of candidates are empty"):
        generate_and_match(recommender, [[]], [[]])
    with pytest.raises(InputError, match=r"histories\[0\].*'Ga11'"):
        generate_and_match(recommender, [["Ga111"]], [["Ga1"]])
