"""Scores are those of the text that the template writes, read by the model, for items by their ids."""

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import Template
from cprec_hf.errors import InputError
from cprec_hf.ranking.catalogue import read_items
from cprec_hf.ranking.recommender import Recommender
from cprec_hf.ranking.trie import Trie

HISTORIES = [["Ga1", "Ga4"], [], ["Ga0", "Ga9", "Ga2", "Ga5", "Ga8", "Ga6"]]
CANDIDATES = [["Ga0", "Ga3", "Ga9"], ["Ga10", "Ga11", "Ga5"], ["Ga7", "Ga8", "Ga4"]]


def test_rank_is_the_log_probability_of_the_title_after_the_prompt(any_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(any_tokenizer)
    scores = recommender.rank(HISTORIES, CANDIDATES)
    kept = [history[-4:] for history in HISTORIES]  # the record's history_length
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, log_probabilities(recommender, "Garden", kept, CANDIDATES), atol=1e-4)


def test_mean_and_pmi(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    total = log_probabilities(recommender, "Garden", [history[-4:] for history in HISTORIES], CANDIDATES)
    without = log_probabilities(recommender, "Garden", [[], [], []], CANDIDATES)
    tokens = [[len(line_ids(recommender, title_of(recommender, item))) for item in row] for row in CANDIDATES]
    mean = recommender.rank(HISTORIES, CANDIDATES, score="mean")
    np.testing.assert_allclose(mean, total / np.array(tokens), atol=1e-4)
    pmi = recommender.rank(HISTORIES, CANDIDATES, score="pmi")
    np.testing.assert_allclose(pmi, total - without, atol=2e-4)
    np.testing.assert_allclose(pmi[1], 0, atol=1e-4)  # an empty history tells nothing
    assert np.abs(pmi[0]).max() > 0.1


@pytest.mark.parametrize(("kind", "positions"), [("qwen3", 90), ("gpt_neo", 90)])
def test_histories_are_trimmed_to_the_context_whole_items_from_the_left(
    kind: str, positions: int, byte_level_tokenizer: Any, make_recommender: Any, record: Any, items: pa.Table
) -> None:
    model = make_recommender(byte_level_tokenizer, kind, max_position_embeddings=positions).model
    recommender = Recommender(model, byte_level_tokenizer, dataclasses.replace(record, history_length=20), items)
    history = ["Ga1", "Ga4", "Ga9", "Ga6", "Ga2", "Ga8", "Ga11"]
    candidates = ["Ga10", "Ga1"]
    widest = max(len(line_ids(recommender, title_of(recommender, item))) for item in candidates)
    fitting = [  # by brute force, from the text
        start
        for start in range(len(history) + 1)
        if len(prompt_ids(recommender, "Garden", history[start:])) + widest - 1 <= positions
    ]
    assert 0 < fitting[0] < len(history), "the case must trim something and keep something"
    scores = recommender.rank([history], [candidates])
    expected = log_probabilities(recommender, "Garden", [history[fitting[0] :]], [candidates])
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    longer = log_probabilities(recommender, "Garden", [history[fitting[0] + 1 :]], [candidates])
    assert np.abs(longer - expected).max() > 0.01


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neo"])
def test_recommend_is_the_exact_best_of_the_whole_catalogue(
    kind: str, llama3_style_tokenizer: Any, make_recommender: Any
) -> None:
    recommender = make_recommender(llama3_style_tokenizer, kind)
    everything = [f"Ga{number}" for number in range(12)]
    scores = recommender.rank(HISTORIES, [everything] * len(HISTORIES))
    for exclude in (True, False):
        found = recommender.recommend(HISTORIES, k=5, exclude_history=exclude)
        for user, history in enumerate(HISTORIES):
            allowed = [i for i in everything if not (exclude and i in history)]
            best = sorted(allowed, key=lambda item: -scores[user][everything.index(item)])[:5]
            assert [item.item_id for item in found[user]] == best
            assert [item.title for item in found[user]] == [f"{title_of(recommender, item)} (full)" for item in best]
            np.testing.assert_allclose(
                [item.score for item in found[user]], [scores[user][everything.index(i)] for i in best], atol=1e-4
            )


def test_items_that_share_a_title_share_a_score_and_stay_items(
    byte_level_tokenizer: Any, make_recommender: Any
) -> None:
    found = make_recommender(byte_level_tokenizer).recommend([["Ga0"]], k=100)[0]
    assert sorted(item.item_id for item in found) == sorted(
        f"Ga{n}" for n in range(12) if n != 0
    )  # k beyond what is left
    score = {item.item_id: item.score for item in found}
    assert score["Ga3"] == score["Ga7"] != score["Ga5"]
    place = [item.item_id for item in found].index("Ga3")
    assert found[place + 1].item_id == "Ga7"  # equal scores in the catalogue's order


def test_candidates_that_share_a_title_tie_exactly(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    everything = [f"Ga{number}" for number in range(12)]
    scores = make_recommender(byte_level_tokenizer).rank(HISTORIES, [everything] * 3)
    assert (scores[:, [0, 0]] == scores[:, [3, 7]]).all()


def test_titles_that_the_tokenizer_cannot_tell_apart_tie_exactly(
    byte_level_tokenizer: Any, make_recommender: Any, record: Any
) -> None:
    from tokenizers.normalizers import Lowercase
    from transformers import PreTrainedTokenizerFast

    backend = copy.deepcopy(byte_level_tokenizer.backend_tokenizer)
    backend.normalizer = Lowercase()
    uncased = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    titles = ["red lamp", "Red Lamp", "green mug", "a RED lamp", "Green mug"]
    items = pa.table({"item_id": list("abcde"), "domain": ["Garden"] * 5, "title": titles, "full_title": titles})
    recommender = Recommender(make_recommender(uncased).model, uncased, record, items)
    scores = recommender.rank([["b"]], [list("abcde")])[0]
    assert scores[0] == scores[1] and scores[2] == scores[4]
    assert len(set(scores.tolist())) == 3
    assert [item.title for item in recommender.recommend([[]], k=5)[0] if item.item_id in "ab"] == titles[:2]


def test_the_catalogue_is_encoded_once_and_users_may_come_in_blocks(
    byte_level_tokenizer: Any, make_recommender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    whole = recommender.recommend(HISTORIES, k=3, score="mean")
    monkeypatch.setattr("cprec_hf.ranking.scorer._SCORES", 1)  # users one at a time
    encoded: list[int] = []
    segments = Encoder.segments
    monkeypatch.setattr(Encoder, "segments", lambda self, lines: encoded.append(len(lines)) or segments(self, lines))
    blocks = recommender.recommend(HISTORIES, k=3, score="mean")
    assert [[i.item_id for i in row] for row in blocks] == [[i.item_id for i in row] for row in whole]
    assert encoded == []  # the catalogue's encodings were kept


def test_the_domain_is_the_models_own_unless_given(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    assert recommender.domains == ["Games", "Garden"]
    scores = recommender.rank([["Ga2"]], [["Ga0"]])
    np.testing.assert_array_equal(recommender.rank([["Ga2"]], [["Ga0"]], domain="Garden"), scores)
    games = recommender.rank([["Ga2"]], [["Ga1"]], domain="Games")
    expected = log_probabilities(recommender, "Games", [["Ga2"]], [["Ga1"]])
    np.testing.assert_allclose(games, expected, atol=1e-4)


def test_titles_to_show_are_the_full_ones(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    assert recommender.titles(["Ga5", "Ga0"]) == ["glove (full)", "red lamp (full)"]
    assert recommender.titles([]) == []
    with pytest.raises(InputError, match="no item 'Ga1x'"):
        recommender.titles(["Ga1x"])


def test_a_model_of_all_domains_asks_for_one(
    byte_level_tokenizer: Any, make_recommender: Any, record: Any, items: pa.Table
) -> None:
    model, anywhere = make_recommender(byte_level_tokenizer).model, dataclasses.replace(record, domain=None)
    with pytest.raises(InputError, match=r"which domain.*Games, Garden"):
        Recommender(model, byte_level_tokenizer, anywhere, items).rank([[]], [["Ga0"]])
    only = Recommender(model, byte_level_tokenizer, anywhere, items.slice(12))
    assert only.rank([[]], [["Ga0"]]).shape == (1, 1)


def test_nobody_and_nothing(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    assert recommender.recommend([]) == []
    assert recommender.rank([], []).shape == (0, 0)
    assert recommender.rank([["Ga1"]], [[]]).shape == (1, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda r: r.rank([["Ga1"], ["Ga2", "Ga99"]], [["Ga1"]] * 2),
            r"histories\[1\]: no item 'Ga99'.*did you mean 'Ga9'",
        ),
        (lambda r: r.rank([["Ga1"]], [["sofa"]]), r"candidates\[0\]: no item 'sofa'.*look like 'Ga0'"),
        (lambda r: r.rank([[None]], [["Ga1"]]), r"histories\[0\]: no item None"),
        (lambda r: r.rank(["Ga1"], [["Ga1"]]), "histories: expected one list of item ids a user"),
        (lambda r: r.rank([[1]], [["Ga1"]]), "histories: expected one list of item ids"),
        (lambda r: r.rank([["Ga1"]], [["Ga1"], ["Ga2"]]), "1 histories but 2 lists of candidates"),
        (lambda r: r.rank([[], []], [["Ga1"], ["Ga2", "Ga3"]]), r"candidates\[0\] has 1 items but candidates\[1\] 2"),
        (lambda r: r.rank([[]], [["Ga1"]], score="best"), "score is 'best'; choose sum, mean or pmi"),
        (lambda r: r.recommend([[]], domain="Cars"), "no items of domain 'Cars'; .* Games, Garden"),
        (lambda r: r.recommend([[]], k=0), "k is 0"),
    ],
)
def test_bad_input_is_said(
    call: Callable[[Recommender], Any], message: str, byte_level_tokenizer: Any, make_recommender: Any
) -> None:
    with pytest.raises(InputError, match=message):
        call(make_recommender(byte_level_tokenizer))


def test_a_title_longer_than_the_context_is_said(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer, max_position_embeddings=40)
    with pytest.raises(InputError, match=r"the title 'big cotton .* printer' takes .*max_title_tokens"):
        recommender.rank([[]], [["Ga9"]])
    assert recommender.rank([["Ga9", "Ga1"]], [["Ga5"]]).shape == (1, 1)


def test_a_catalogue_without_a_column_is_said(
    byte_level_tokenizer: Any, make_recommender: Any, items: pa.Table, record: Any, tmp_path: Path
) -> None:
    model = make_recommender(byte_level_tokenizer).model
    with pytest.raises(InputError, match="no column 'title'"):
        Recommender(model, byte_level_tokenizer, record, items.drop_columns("title"))
    pa.parquet.write_table(items.drop_columns("domain"), tmp_path / "items.parquet")
    with pytest.raises(InputError, match=r"items\.parquet: no column 'domain'"):
        read_items(tmp_path / "items.parquet")


def test_a_saved_recommender_loads_and_ranks_alike(
    llama3_style_tokenizer: Any, make_recommender: Any, tmp_path: Path
) -> None:
    recommender = make_recommender(llama3_style_tokenizer)
    folder = recommender.save_pretrained(tmp_path / "model")
    (tmp_path / "new").touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {(tmp_path / "new").stat().st_mode}
    loaded = Recommender.from_pretrained(folder, device="cpu")
    np.testing.assert_array_equal(loaded.rank(HISTORIES, CANDIDATES), recommender.rank(HISTORIES, CANDIDATES))
    assert loaded.record == recommender.record
    assert loaded.model.training is False
    with pytest.raises(InputError, match="exists already"):
        recommender.save_pretrained(folder)


def test_an_adapter_folder_loads_with_its_base(
    byte_level_tokenizer: Any, make_recommender: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    recommender = make_recommender(byte_level_tokenizer)
    recommender.save_pretrained(tmp_path / "base")
    plain = recommender.rank(HISTORIES, CANDIDATES)
    base = Recommender.from_pretrained(tmp_path / "base", device="cpu")
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned = Recommender(adapted, byte_level_tokenizer, base.record, base.items)
    folder = tuned.save_pretrained(tmp_path / "adapter")
    assert not (folder / "model.safetensors").exists()
    scores = Recommender.from_pretrained(folder, device="cpu").rank(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(scores, tuned.rank(HISTORIES, CANDIDATES), atol=1e-5)
    assert np.abs(scores - plain).max() > 0.01

    weights = folder / "adapter_model.safetensors"
    weights.unlink()
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"no file adapter_model\.safetensors"):
        Recommender.from_pretrained(folder, device="cpu")


def test_what_a_folder_lacks_is_said(byte_level_tokenizer: Any, make_recommender: Any, tmp_path: Path) -> None:
    folder = make_recommender(byte_level_tokenizer).save_pretrained(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "weights")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="no safetensors weights"):
        Recommender.from_pretrained(folder)
    (tmp_path / "weights").rename(folder / "model.safetensors")
    (folder / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"no file items\.parquet"):
        Recommender.from_pretrained(folder)
    (folder / "cprec.json").unlink()
    with pytest.raises(InputError, match=r"no file cprec\.json"):
        Recommender.from_pretrained(folder)
    with pytest.raises(InputError, match="no such folder"):
        Recommender.from_pretrained(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
def test_a_recommender_loads_by_repo_id_and_revision(
    byte_level_tokenizer: Any, make_recommender: Any, hub_machine: Any, tmp_path: Path
) -> None:
    """Two states of a repo, and an adapter whose base is a repo: each is read at its own commit."""
    from peft import LoraConfig, get_peft_model

    first, second = make_recommender(byte_level_tokenizer), make_recommender(byte_level_tokenizer, "llama")
    _, commit = hub_machine.push(first.save_pretrained(tmp_path / "first"), "model")
    repo, newest = hub_machine.push(second.save_pretrained(tmp_path / "second"), "model")
    adapted = get_peft_model(copy.deepcopy(first.model), LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned = Recommender(adapted, byte_level_tokenizer, first.record, first.items)
    config = tuned.save_pretrained(tmp_path / "adapter") / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": repo, "revision": commit})
    )
    adapter, _ = hub_machine.push(config.parent, "adapter")
    got = hub_machine.run(
        """
        import json, sys
        from cprec_hf.ranking import Recommender
        repo, commit, adapter = sys.argv[1:]
        loaded = [Recommender.from_pretrained(*a, device="cpu") for a in ((repo, commit), (repo,), (adapter,))]
        print(json.dumps([r.rank([["Ga1", "Ga4"]], [["Ga0", "Ga9"]]).tolist() for r in loaded]))
        """,
        repo, commit, adapter,
    )  # fmt: skip
    assert commit != newest
    expected = [r.rank([["Ga1", "Ga4"]], [["Ga0", "Ga9"]]) for r in (first, second, tuned)]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(expected[2] - expected[0]).max() > 0.01


def title_of(recommender: Recommender, item: str, domain: str = "Garden") -> str:
    rows = recommender.items.to_pylist()
    return next(row["title"] for row in rows if (row["domain"], row["item_id"]) == (domain, item))


def prompt_ids(recommender: Recommender, domain: str, history: Sequence[str]) -> np.ndarray:
    """From the text of the prompt, start ids included."""
    titles = [title_of(recommender, item, domain) for item in history]
    return Encoder(recommender.tokenizer).documents([Template().prompt(domain, titles)]).row(0)


def line_ids(recommender: Recommender, title: str) -> np.ndarray:
    return Encoder(recommender.tokenizer).segments([title + "\n"]).row(0)


def log_probabilities(
    recommender: Recommender, domain: str, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]
) -> np.ndarray:
    """Text to ids, one candidate a forward pass."""
    scores = []
    for history, row in zip(histories, candidates, strict=True):
        prefix = prompt_ids(recommender, domain, history)
        for item in row:
            line = line_ids(recommender, title_of(recommender, item, domain))
            ids = torch.tensor(np.concatenate([prefix, line]).astype(np.int64))
            with torch.no_grad():
                logits = recommender.model(ids[None, :-1], use_cache=False).logits[0].double()
            predicted = logits.log_softmax(-1)[len(prefix) - 1 :]
            scores.append(predicted.gather(1, ids[len(prefix) :, None]).sum().item())
    return np.array(scores).reshape(len(histories), -1)


def test_items_nobody_saw_are_ranked_by_their_titles(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    wider = recommender.with_items(["new1", "new2", "new3"], ["red&nbsp; lamp", "a very small green mug", "x" * 300])
    assert wider.titles(["new1", "new2"]) == ["red lamp", "a very small green mug"]
    scores = wider.rank([["Ga1", "new2"]], [["Ga0", "new1", "new2", "new3"]])
    assert scores[0, 0] == scores[0, 1], "one title, one score"
    expected = log_probabilities(wider, "Garden", [["Ga1", "new2"]], [["new1", "new2", "new3"]])
    np.testing.assert_allclose(scores[:, 1:], expected, atol=1e-4)
    everything = [item.item_id for item in wider.recommend([["Ga1"]], k=20)[0]]
    assert {"new1", "new2", "new3"} < set(everything) and len(everything) == 14
    with pytest.raises(InputError, match="no item 'new1'"):
        recommender.rank([["new1"]], [["Ga0"]])
    for ids, titles, message in (
        (["Ga0"], ["a"], "'Ga0' is in domain 'Garden' already"),
        (["n", "n"], ["a", "b"], "'n' is in domain 'Garden' already"),
        (["n"], [" \n"], "'n' has no title"),
        (["n", "m"], ["a"], "2 item ids but 1 titles"),
    ):
        with pytest.raises(InputError, match=message):
            recommender.with_items(ids, titles)


def test_unknown_history_items_are_refused_or_left_out(byte_level_tokenizer: Any, make_recommender: Any) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    with pytest.raises(InputError, match=r"histories\[1\]: no item 'gone'"):
        recommender.rank([["Ga1"], ["gone", "Ga2"]], [["Ga0"], ["Ga0"]])
    mine = [["gone"], ["gone", "Ga2", "gone", "Ga4", "x"]], [["Ga0", "Ga3"], ["Ga0", "Ga9"]]
    np.testing.assert_array_equal(
        recommender.rank(*mine, skip_unknown=True), recommender.rank([[], ["Ga2", "Ga4"]], mine[1])
    )
    assert recommender.recommend(mine[0], k=3, skip_unknown=True) == recommender.recommend([[], ["Ga2", "Ga4"]], k=3)
    with pytest.raises(InputError, match=r"candidates\[0\]: no item 'gone'"):
        recommender.rank([[]], [["gone"]], skip_unknown=True)


def test_searching_and_scoring_everything_recommend_alike(
    byte_level_tokenizer: Any, make_recommender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Titles that several items share, some of them seen, and users whom a search of few nodes can prove nothing."""
    recommender = make_recommender(byte_level_tokenizer)
    histories = [*HISTORIES, ["Ga0", "Ga3", "Ga7"], ["Ga0", "Ga3"], [f"Ga{n}" for n in range(11)]]
    monkeypatch.setattr("cprec_hf.ranking.scorer._SHARE", 1)
    found = {}
    for nodes in (0, 4, 10_000):
        monkeypatch.setattr("cprec_hf.ranking.scorer.MAX_NODES", nodes)
        for exclude in (True, False):
            rows = recommender.recommend(histories, k=4, exclude_history=exclude)
            found[nodes, exclude] = [[item.item_id for item in row] for row in rows]
    for exclude in (True, False):
        assert found[4, exclude] == found[10_000, exclude] == found[0, exclude]
    assert found[4, True][-1] == ["Ga11"]


def test_the_catalogue_is_saved_and_loaded_without_encoding(
    byte_level_tokenizer: Any, make_recommender: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = make_recommender(byte_level_tokenizer)
    recommender.save_pretrained(tmp_path / "model")
    expected = recommender.recommend(HISTORIES, k=4)
    built: list[int] = []
    of = Trie.of
    monkeypatch.setattr(Trie, "of", lambda rows: built.append(len(rows)) or of(rows))
    again = Recommender.from_pretrained(tmp_path / "model", device="cpu")
    assert again.recommend(HISTORIES, k=4) == expected and not built
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert "catalogue.safetensors" in maps.read_text(), "mapped, not read"
    # a file of other items is not used, a damaged one is refused
    other = pq.read_table(tmp_path / "model" / "items.parquet").slice(1)
    pq.write_table(other, tmp_path / "model" / "items.parquet")
    fewer = Recommender.from_pretrained(tmp_path / "model", device="cpu")
    assert fewer.recommend([[]], k=3, domain="Garden") and built
    (tmp_path / "model" / "catalogue.safetensors").write_bytes(b"0")
    with pytest.raises(InputError, match="not a whole catalogue"):
        Recommender.from_pretrained(tmp_path / "model", device="cpu").recommend([[]], k=3)
