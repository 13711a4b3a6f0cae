"""Models that cannot be loaded are one sentence, said before work where weights are only checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cprec_hf.errors import InputError
from cprec_hf.ranking.loading import check_weights, load_model, locate


@pytest.fixture
def folder(tiny_model: Callable[..., Any], byte_level_tokenizer: Any, tmp_path: Path) -> Path:
    tiny_model(byte_level_tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapter(folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    get_peft_model(load_model(folder), LoraConfig(r=2, task_type="CAUSAL_LM")).save_pretrained(folder.parent / "lora")
    return folder.parent / "lora"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_model_and_an_adapter_are_told_apart(folder: Path, adapter: Path) -> None:
    assert locate(folder) == (False, None)
    assert locate(adapter) == (True, None)
    check_weights(adapter)
    assert type(load_model(adapter)).__name__ == "PeftModelForCausalLM"
    assert not any(p.requires_grad for p in load_model(adapter).parameters())
    assert any(p.requires_grad for p in load_model(adapter, trainable=True).parameters())


@pytest.mark.parametrize("load", [load_model, check_weights])
def test_weights_cut_short_are_said(load: Callable[[Path], Any], folder: Path, adapter: Path) -> None:
    cut_short(adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match="lora"):
        load(adapter)
    cut_short(folder / "model.safetensors")
    with pytest.raises(InputError, match="model"):
        load(folder)


@pytest.mark.parametrize("load", [load_model, check_weights])
def test_only_safetensors_are_read(load: Callable[[Path], Any], folder: Path, adapter: Path) -> None:
    for path, name, said in (
        (adapter, "adapter_model", r"no file adapter_model\.safetensors"),
        (folder, "model", r"no safetensors weights .*; no others are read"),
    ):
        (path / f"{name}.safetensors").unlink()
        torch.save({}, path / ("adapter_model.bin" if path == adapter else "pytorch_model.bin"))
        with pytest.raises(InputError, match=said):
            load(path)


def test_every_shard_is_checked(tiny_model: Callable[..., Any], byte_level_tokenizer: Any, tmp_path: Path) -> None:
    tiny_model(byte_level_tokenizer).save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_weights(tmp_path)
    cut_short(shards[-1])
    with pytest.raises(InputError, match=shards[-1].name):
        check_weights(tmp_path)
    shards[-1].unlink()
    with pytest.raises(InputError, match=shards[-1].name):
        check_weights(tmp_path)


def test_no_code_of_a_repo_is_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('the code ran')")
    with pytest.raises(InputError, match="cannot load its model"):
        load_model(folder)
