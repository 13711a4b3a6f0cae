"""datasets, transformers, peft, trl, evaluate and the hf CLI, which know the loopback Hub only by their environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from cprec_hf.hub.loopback import LoopbackHub

ROOT = Path(__file__).parents[3]
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


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any], byte_level_tokenizer: Any
) -> Callable[[str], Any]:
    """`told(step)`: what a step of `clients.py` returned; they all run once, in one process."""
    folder = tmp_path_factory.mktemp("clients")
    tiny_model(byte_level_tokenizer).save_pretrained(folder / "base")
    byte_level_tokenizer.save_pretrained(folder / "base")
    for path, rows in {"cpt/train": 5, "cpt/validation": 2, "sft-toys/test": 3}.items():
        (folder / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        table = {"text": [f"{path} {i}" for i in range(rows)], "item_ids": [["a", "b"]] * rows}
        pq.write_table(pa.table(table), folder / "corpus" / f"{path}.parquet")
    (folder / "corpus" / "README.md").write_text(CARD)
    (folder / "corpus" / "cprec-corpus.json").write_text('{"format": 1}')
    shutil.copytree(ROOT / "cprec_hf" / "metrics" / "ranking_at_k", folder / "ranking_at_k")
    with LoopbackHub(folder / "hub", {"ada": "hf_ada_secret"}) as hub:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("clients.py"), folder],
            env={**os.environ, **hub.env, "HF_HOME": str(folder / "home")},
            cwd=folder,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert "_secret" not in done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    def of(step: str) -> Any:
        assert not isinstance(found[step], str), found[step]  # a traceback
        return found[step]

    return of


def test_a_corpus_folder_is_pushed_and_loaded_by_its_repo_id(told: Callable[[str], Any]) -> None:
    assert told("a_corpus_folder_is_loaded_by_its_card") == [
        {"train": 5, "validation": 2},
        {"text": "cpt/train 4", "item_ids": ["a", "b"]},
        ["sft-toys/test 0", "sft-toys/test 1", "sft-toys/test 2"],
    ]


def test_datasets_push_configs_and_splits_and_load_plain_and_streaming(told: Callable[[str], Any]) -> None:
    expected = {
        "one": {"train": [0, 1, 2, 3, 4], "test": [8, 9], "validation": [7]},
        "two": {"train": [10, 11, 12, 13, 14], "test": [10, 11]},
    }
    assert told("datasets_push_configs_and_splits") == [expected, expected]


def test_iterable_datasets_push_themselves(told: Callable[[str], Any]) -> None:
    assert told("iterable_datasets_push_themselves") == [[0, 1, 10, 11], {"train": [20, 21], "test": [20, 21]}]


def test_sharded_models_and_tokenizers_come_back_from_a_branch(told: Callable[[str], Any]) -> None:
    found = told("sharded_models_and_tokenizers_come_back")
    assert found["ids"][0] == found["ids"][1] and found["logits"][0] == found["logits"][1]
    assert found["shards"] > 1 and found["not on main"]


def test_adapters_come_back_and_are_more_than_their_base(told: Callable[[str], Any]) -> None:
    files, equal, as_the_base = told("adapters_come_back")
    assert files == [".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert equal == [True, True] and not as_the_base


def test_trainers_push_with_each_strategy(told: Callable[[str], Any]) -> None:
    found = told("trainers_push_as_they_go")
    models = ["Training in progress, step 4", "Training in progress, step 2", "initial commit"]
    both = [f"{models[0]}, checkpoint", models[0], f"{models[1]}, checkpoint", *models[1:]]
    last, every = ["last-checkpoint"], ["checkpoint-2", "checkpoint-4"]
    assert found == {
        "ada/plain-every_save": {"folders": [], "commits": models, "on main": 1},
        "ada/plain-checkpoint": {"folders": last, "commits": both, "on main": 5},
        "ada/plain-all_checkpoints": {"folders": every, "commits": both, "on main": 5},
        "ada/trl-every_save": {"folders": [], "commits": models, "on main": 3},
        "ada/trl-checkpoint": {"folders": last, "commits": both, "on main": 5},
        "ada/trl-all_checkpoints": {"folders": every, "commits": both, "on main": 5},
    }


def test_a_run_resumes_from_the_checkpoint_it_pushed(told: Callable[[str], Any]) -> None:
    assert told("a_run_resumes_from_its_pushed_checkpoint") == [4, 5]


def test_a_metric_space_loads_by_its_id(told: Callable[[str], Any]) -> None:
    assert told("metric_spaces_load_by_their_id") == [0.5, 1.0, "gradio"]


def test_the_hf_command_line_uploads_and_downloads(hub: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "a.safetensors").write_bytes(b"weights")
    environment = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home")}
    for command in ("repos create ada/c", "upload ada/c up .", "download ada/c --local-dir down"):
        hf = [Path(sys.executable).with_name("hf"), *command.split()]
        done = subprocess.run(hf, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "down" / "a.safetensors").read_bytes() == b"weights"


def test_the_verbs_of_the_hf_command_line(
    hub: LoopbackHub, client: Callable[..., Any], tmp_path: Path, whole: Callable[[Path], Any]
) -> None:
    """All in one process, through the entry point of `hf`."""
    (tmp_path / "up" / "sub").mkdir(parents=True)
    (tmp_path / "up" / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "up" / "sub" / "b.txt").write_text("b")
    commands = [
        "auth whoami",
        "repos create ada/c --private",
        "upload ada/c up .",
        "repos branch create ada/c dev",
        "upload ada/c up/sub/b.txt deep/b.txt --revision dev --commit-message deep",
        "repos tag create ada/c v1 --revision dev",
        "repos tag list ada/c",
        "repos settings ada/c --public",
        "repos move ada/c ada/d",
        "download ada/c --local-dir down --revision v1",  # by its old name
        "repos cp hf://ada/d/a.safetensors hf://ada/d/copy.safetensors",
        "repos delete-files ada/d sub/",
        "repos duplicate ada/d ada/e --private",
        "repos ls",
        "repos tag delete ada/d v1 -y",
        "repos branch delete ada/d dev",
        "models info ada/d --expand sha,private",
        "repos create ada/s --type space --sdk gradio",
        "repos delete ada/s --type space -y",
        "upload ada/d up/sub/b.txt b.txt --create-pr",
        "repos delete ada/s --type space -y",
    ]
    told = client(
        """
        import contextlib, io, json, sys
        from huggingface_hub.cli.hf import main

        told = []
        for command in sys.argv[1:]:
            sys.argv = ["hf", *command.split()]
            said, status = io.StringIO(), 0
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                try:
                    main()
                except SystemExit as ended:
                    status = ended.code or 0
            told.append([status, said.getvalue()])
        print(json.dumps(told))
        """,
        *commands,
    )
    said = {command: output for command, (_, output) in zip(commands, told, strict=True)}
    assert [status for status, _ in told] == [0] * (len(commands) - 2) + [1, 1], said
    assert "ada" in said["auth whoami"] and "v1" in said["repos tag list ada/c"] and "ada/e" in said["repos ls"]
    assert "no pull requests" in said[commands[-2]] and "Repository not found" in told[-1][1]
    assert {p.name for p in (tmp_path / "down" / "deep").iterdir()} == {"b.txt"}
    assert (tmp_path / "down" / "a.safetensors").read_bytes() == b"weights"
    found = whole(tmp_path / "hub")
    assert set(found) == {"models/ada/d", "models/ada/e"}
    assert set(found["models/ada/d"]) == {"main"} and set(found["models/ada/e"]) == {"main", "dev", "v1"}
    assert len(found["models/ada/d"]["main"]) == 4 and found["models/ada/e"]["dev"][0] == "deep"
    api = HfApi(endpoint=hub.url, token=hub.token)
    assert api.list_repo_files("ada/d") == [".gitattributes", "a.safetensors", "copy.safetensors"]
    assert api.model_info("ada/e").private and not api.model_info("ada/d").private


def test_two_processes_that_commit_at_once_lose_nothing(hub: LoopbackHub, tmp_path: Path) -> None:
    HfApi(endpoint=hub.url, token=hub.token).create_repo("ada/r")
    code = """
import sys
from huggingface_hub import HfApi
for i in range(8):
    for kind in ("txt", "safetensors"):
        name = f"{sys.argv[1]}-{i}.{kind}"
        HfApi().upload_file(path_or_fileobj=name.encode(), path_in_repo=name, repo_id="ada/r")
"""
    environment = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home")}
    both = [subprocess.Popen([sys.executable, "-c", code, who], env=environment) for who in ("one", "two")]
    assert [process.wait() for process in both] == [0, 0]
    api = HfApi(endpoint=hub.url, token=hub.token)
    names = {f"{who}-{i}.{kind}" for who in ("one", "two") for i in range(8) for kind in ("txt", "safetensors")}
    assert set(api.list_repo_files("ada/r")) == {".gitattributes", *names}
    assert len(api.list_repo_commits("ada/r")) == 33
