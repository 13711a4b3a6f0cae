"""The pipeline gives what the Recommender gives, and what it saves loads without running anybody's code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import HfApi
from peft import LoraConfig, get_peft_model

from cprec_hf.errors import InputError
from cprec_hf.ranking import Recommender  # registers the task

TASK = "next-item-recommendation"
BESIDE = {
    "README.md",
    "catalogue.safetensors",
    "cprec.json",
    "items.parquet",
    "tokenizer.json",
    "tokenizer_config.json",
}
SAVED = BESIDE | {"config.json", "generation_config.json", "model.safetensors"}
ADAPTER = BESIDE | {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def folder(byte_level_tokenizer: Any, make_recommender: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recommender(byte_level_tokenizer).save_pretrained(tmp_path_factory.mktemp("pipeline") / "model")


def test_one_history_and_many(folder: Path) -> None:
    recommender = Recommender.from_pretrained(folder, device="cpu")
    pipe = transformers.pipeline(TASK, model=str(folder), device="cpu")
    histories = [["Ga1", "Ga4"], [], ["Ga6"]]
    expected = [[vars(item) for item in row] for row in recommender.recommend(histories, k=3)]
    assert pipe(histories, top_k=3) == expected
    assert pipe(histories[0], top_k=3) == expected[0]
    assert pipe([[]], top_k=3) == [expected[1]]
    assert len(pipe(histories[0])) == 10
    games = transformers.pipeline(TASK, model=str(folder), device="cpu", top_k=1, domain="Games")
    assert games([[]])[0][0] == vars(recommender.recommend([[]], k=1, domain="Games")[0][0])


def test_it_saves_what_loads_without_remote_code(folder: Path, tmp_path: Path) -> None:
    pipe = transformers.pipeline(TASK, model=str(folder), device="cpu")
    pipe.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").rglob("*")} == SAVED
    assert "custom_pipelines" not in json.loads((tmp_path / "again" / "config.json").read_text())
    again = transformers.pipeline(TASK, model=str(tmp_path / "again"), device="cpu")
    assert again(["Ga1"], top_k=4) == pipe(["Ga1"], top_k=4)
    with pytest.raises(InputError, match="exists already"):
        pipe.save_pretrained(tmp_path / "again")
    with pytest.raises(TypeError, match="push_to_hub"):  # rather than not doing it
        pipe.save_pretrained(tmp_path / "other", push_to_hub=True)


def test_a_model_that_is_loaded_already(folder: Path, byte_level_tokenizer: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    pipe = transformers.pipeline(TASK, model=model, tokenizer=byte_level_tokenizer, device="cpu")
    expected = Recommender.from_pretrained(folder, device="cpu").recommend([["Ga1"]], k=3)[0]
    assert pipe(["Ga1"], top_k=3) == [vars(item) for item in expected]
    with pytest.raises(InputError, match="needs its `tokenizer`"):
        transformers.pipeline(TASK, model=model, device="cpu")


def test_only_what_can_be_kept_is_taken(folder: Path, byte_level_tokenizer: Any) -> None:
    half = transformers.pipeline(TASK, model=str(folder), device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    for options in ({"token": "hf_x"}, {"model_kwargs": {"attn_implementation": "eager"}}):
        with pytest.raises(
            InputError, match=f"does not load models with `{next(iter(options.get('model_kwargs', options)))}`"
        ):
            transformers.pipeline(TASK, model=str(folder), device="cpu", **options)
    with pytest.raises(InputError, match="tokenizer comes with the model"):
        transformers.pipeline(TASK, model=str(folder), tokenizer=byte_level_tokenizer, device="cpu")
    with pytest.raises(InputError, match="has no revision v1"):
        transformers.pipeline(TASK, model=str(folder), revision="v1", device="cpu")


def test_damaged_weights_are_one_sentence_and_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut: cannot load its model"):
        transformers.pipeline(TASK, model=str(weights.parent), device="cpu")
    weights.unlink()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), weights.with_name("pytorch_model.bin"))
    with pytest.raises(InputError, match="no safetensors weights"):
        transformers.pipeline(TASK, model=str(weights.parent), device="cpu")


def with_adapter(base: Recommender, value: float = 0.05) -> Recommender:
    """An adapter that matters, over the model of `base`, with one item fewer."""
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(value)
    return Recommender(adapted, base.tokenizer, base.record, base.items.slice(0, 11))


def test_an_adapter_folder_is_read_as_an_adapter(folder: Path, tmp_path: Path) -> None:
    tuned = with_adapter(Recommender.from_pretrained(folder, device="cpu"))
    tuned.save_pretrained(tmp_path / "adapter")
    pipe = transformers.pipeline(TASK, model=str(tmp_path / "adapter"), device="cpu")
    found = pipe(["Ga1"], top_k=20)
    assert found == [vars(item) for item in tuned.recommend([["Ga1"]], k=20)[0]]
    assert len(found) == 10
    pipe.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").rglob("*")} == ADAPTER
    assert "LoRA adapter" in (tmp_path / "again" / "README.md").read_text()
    assert transformers.pipeline(TASK, model=str(tmp_path / "again"), device="cpu")(["Ga1"], top_k=20) == found
    with pytest.raises(InputError, match="push that model first"):
        pipe.push_to_hub("me/adapter")


ROUND_TRIP = """
    import json, sys
    import cprec_hf.ranking
    from cprec_hf.ranking import Recommender
    from transformers import pipeline

    def push(folder, *repo, **options):
        pipe = pipeline("next-item-recommendation", model=folder, device="cpu")
        return pipe.push_to_hub(*repo, **options).split("/")[-1]

    first, second, adapter = sys.argv[1:]
    old = push(first, "model")
    config = json.load(open(f"{adapter}/adapter_config.json"))
    config |= {"base_model_name_or_path": "local/model", "revision": old}
    json.dump(config, open(f"{adapter}/adapter_config.json", "w"))
    new = push(second, "local/model")
    push(second, "model", revision="exp")
    push(adapter, "local/adapter", commit_message="An adapter")

    found = []
    for repo, revision in (("model", None), ("model", old), ("model", "exp"), ("adapter", None)):
        pipe = pipeline("next-item-recommendation", model=f"local/{repo}", revision=revision, device="cpu")
        recommender = Recommender.from_pretrained(f"local/{repo}", revision, device="cpu")
        rows = pipe(["Ga1", "Ga4"], top_k=20), [vars(item) for item in recommender.recommend([["Ga1", "Ga4"]], k=20)[0]]
        found.append([[[item["item_id"], item["score"]] for item in row] for row in rows])
    print(json.dumps([[new, old], found]))
"""


def test_a_round_trip_over_the_hub(
    folder: Path, byte_level_tokenizer: Any, make_recommender: Any, hub_machine: Any, tmp_path: Path
) -> None:
    """One commit a push, no code in it; every state is found again by its revision, an adapter with its base's."""
    first = Recommender.from_pretrained(folder, device="cpu")
    second = make_recommender(byte_level_tokenizer, "llama")
    tuned = with_adapter(Recommender.from_pretrained(folder, device="cpu"))
    folders = folder, second.save_pretrained(tmp_path / "second"), tuned.save_pretrained(tmp_path / "adapter")
    commits, got = hub_machine.run(ROUND_TRIP, *folders)
    api = HfApi(endpoint=hub_machine.hub.url, token=hub_machine.hub.token)
    assert set(api.list_repo_files("local/model")) == {".gitattributes", *SAVED}
    assert set(api.list_repo_files("local/model", revision="exp")) == {".gitattributes", *SAVED}
    assert set(api.list_repo_files("local/adapter")) == {".gitattributes", *ADAPTER}
    assert [commit.commit_id for commit in api.list_repo_commits("local/model")][:-1] == commits
    assert [commit.title for commit in api.list_repo_commits("local/adapter")] == ["An adapter", "initial commit"]
    assert api.repo_info("local/model").private and api.repo_info("local/adapter").private
    expected = [r.recommend([["Ga1", "Ga4"]], k=20)[0] for r in (second, first, second, tuned)]
    assert expected[1] != expected[3]
    for items, (by_pipeline, by_recommender) in zip(expected, got, strict=True):
        assert by_pipeline == by_recommender
        assert [item for item, _ in by_pipeline] == [item.item_id for item in items]
        np.testing.assert_allclose([score for _, score in by_pipeline], [item.score for item in items], atol=1e-5)


def test_a_plain_language_model_is_refused(byte_level_tokenizer: Any, tiny_model: Any, tmp_path: Path) -> None:
    tiny_model(byte_level_tokenizer).save_pretrained(tmp_path)
    byte_level_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no file cprec\.json"):
        transformers.pipeline(TASK, model=str(tmp_path), device="cpu")


def test_importing_ranking_registers_the_task_and_no_polars() -> None:
    script = (
        "import sys, transformers.pipelines as p\n"
        "assert 'next-item-recommendation' not in p.PIPELINE_REGISTRY.supported_tasks\n"
        "import cprec_hf.ranking\n"
        "assert 'next-item-recommendation' in p.PIPELINE_REGISTRY.supported_tasks\n"
        "assert 'polars' not in sys.modules and 'trl' not in sys.modules and 'datasets' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
