"""datasets, transformers and the hf CLI, each in a fresh process that knows the Hub only by its environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cprec_hf.hub.loopback import LoopbackHub

CARD = """---
configs:
- config_name: cpt
  data_files:
  - {split: train, path: cpt/train.parquet}
  - {split: validation, path: cpt/validation.parquet}
- config_name: sft-toys
  data_files:
  - {split: test, path: sft-toys/test.parquet}
---
# a corpus
"""


def test_a_corpus_folder_is_pushed_and_loaded_by_its_repo_id(client: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for path, rows in {"cpt/train": 5, "cpt/validation": 2, "sft-toys/test": 3}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        table = {"text": [f"{path} {i}" for i in range(rows)], "item_ids": [["a", "b"]] * rows}
        pq.write_table(pa.table(table), folder / f"{path}.parquet")
    (folder / "README.md").write_text(CARD)
    (folder / "cprec-corpus.json").write_text('{"format": 1}')
    told = client(
        """
        import json, sys
        from datasets import load_dataset
        from cprec_hf.hub.publish import push_folder

        made = push_folder(sys.argv[1], "ada/corpus", repo_type="dataset", message="corpus")
        cpt = load_dataset("ada/corpus", "cpt", revision=made.oid)
        streamed = load_dataset("ada/corpus", "sft-toys", split="test", streaming=True)
        print(json.dumps([{k: len(v) for k, v in cpt.items()}, cpt["train"][4], [r["text"] for r in streamed]]))
        """,
        folder,
    )
    assert told == [
        {"train": 5, "validation": 2},
        {"text": "cpt/train 4", "item_ids": ["a", "b"]},
        ["sft-toys/test 0", "sft-toys/test 1", "sft-toys/test 2"],
    ]


def test_a_dataset_pushes_itself_and_comes_back(client: Callable[..., Any]) -> None:
    told = client(
        """
        import json
        from datasets import Dataset, DatasetDict, load_dataset

        for config, n in (("one", 3), ("two", 4)):
            DatasetDict(train=Dataset.from_dict({"x": list(range(n))})).push_to_hub("ada/d", config, private=True)
        print(json.dumps([load_dataset("ada/d", config, split="train")["x"][:] for config in ("one", "two")]))
        """
    )
    assert told == [[0, 1, 2], [0, 1, 2, 3]]


def test_a_model_folder_is_pushed_and_loaded_by_its_repo_id(
    client: Callable[..., Any], tmp_path: Path, tiny_model: Callable[..., Any], byte_level_tokenizer: Any
) -> None:
    import torch

    model = tiny_model(byte_level_tokenizer)
    folder = tmp_path / "model"
    model.save_pretrained(folder, max_shard_size="20KB")  # several shards and their index
    byte_level_tokenizer.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"pickle")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    ids = byte_level_tokenizer("red lamp for kitchen")["input_ids"]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1, :5].tolist()
    told = client(
        """
        import json, sys
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from cprec_hf.hub.publish import push_folder

        push_folder(sys.argv[1], "ada/m", repo_type="model", message="model", revision="v1")
        model = AutoModelForCausalLM.from_pretrained("ada/m", revision="v1", dtype=torch.float32)
        ids = AutoTokenizer.from_pretrained("ada/m", revision="v1")("red lamp for kitchen")["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, :5].tolist()
        try:
            AutoModelForCausalLM.from_pretrained("ada/m")
        except (OSError, ValueError) as error:
            refused = "config.json" in str(error)
        print(json.dumps([ids, logits, refused]))
        """,
        folder,
    )
    assert told == [ids, expected, True]


def test_the_hf_command_line_uploads_and_downloads(hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.safetensors").write_bytes(b"weights")
    environment = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home")}
    hf = shutil.which("hf", path=str(Path(sys.executable).parent))
    assert hf is not None
    for command in ("repos create ada/c", "upload ada/c up .", "download ada/c --local-dir down"):
        done = subprocess.run([hf, *command.split()], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "down" / "a.safetensors").read_bytes() == b"weights"
