"""The pipeline gives what the Recommender gives, and what it saves loads without running anybody's code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

import cprec_hf.ranking  # noqa: F401  (registers the task)
from cprec_hf.errors import InputError
from cprec_hf.ranking.recommender import Recommender


@pytest.fixture(scope="module")
def folder(byte_level_tokenizer: Any, make_recommender: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recommender(byte_level_tokenizer).save_pretrained(tmp_path_factory.mktemp("pipeline") / "model")


def test_one_history_and_many(folder: Path) -> None:
    recommender = Recommender.from_pretrained(folder, device="cpu")
    pipe = transformers.pipeline("cprec-recommendation", model=str(folder), device="cpu")
    histories = [["Ga1", "Ga4"], [], ["Ga6"]]
    expected = [[vars(item) for item in row] for row in recommender.recommend(histories, k=3)]
    assert pipe(histories, top_k=3) == expected
    assert pipe(histories[0], top_k=3) == expected[0]
    assert pipe([[]], top_k=3) == [expected[1]]
    assert len(pipe(histories[0])) == 10
    games = transformers.pipeline("cprec-recommendation", model=str(folder), device="cpu", top_k=1, domain="Games")
    assert games([[]])[0][0] == vars(recommender.recommend([[]], k=1, domain="Games")[0][0])


def test_it_saves_what_loads_without_remote_code(folder: Path, tmp_path: Path) -> None:
    pipe = transformers.pipeline("cprec-recommendation", model=str(folder), device="cpu")
    pipe.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").rglob("*.py"))
    assert "custom_pipelines" not in json.loads((tmp_path / "again" / "config.json").read_text())
    again = transformers.pipeline("cprec-recommendation", model=str(tmp_path / "again"), device="cpu")
    assert again(["Ga1"], top_k=4) == pipe(["Ga1"], top_k=4)


def test_an_adapter_folder_is_read_as_an_adapter(folder: Path, byte_level_tokenizer: Any, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = Recommender.from_pretrained(folder, device="cpu")
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned = Recommender(adapted, byte_level_tokenizer, base.record, base.items.slice(0, 11))  # one item fewer
    tuned.save_pretrained(tmp_path / "adapter")
    pipe = transformers.pipeline("cprec-recommendation", model=str(tmp_path / "adapter"), device="cpu")
    found = pipe(["Ga1"], top_k=20)
    assert [item["item_id"] for item in found] == [item.item_id for item in tuned.recommend([["Ga1"]], k=20)[0]]
    assert len(found) == 10


def test_a_plain_language_model_is_refused(byte_level_tokenizer: Any, tiny_model: Any, tmp_path: Path) -> None:
    tiny_model(byte_level_tokenizer).save_pretrained(tmp_path)
    byte_level_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no file cprec\.json"):
        transformers.pipeline("cprec-recommendation", model=str(tmp_path), device="cpu")


def test_importing_ranking_registers_the_task_and_no_polars() -> None:
    script = (
        "import sys, transformers.pipelines as p\n"
        "assert 'cprec-recommendation' not in p.PIPELINE_REGISTRY.supported_tasks\n"
        "import cprec_hf.ranking\n"
        "assert 'cprec-recommendation' in p.PIPELINE_REGISTRY.supported_tasks\n"
        "assert 'polars' not in sys.modules and 'trl' not in sys.modules and 'datasets' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
