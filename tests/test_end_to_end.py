"""The tiny recipe, smaller still, through the command line: logs to a model that recommends in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import HfApi

from cprec_hf import cli
from cprec_hf.demo import STEPS
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.recipes import read_yaml, shipped

SMALLER = {
    "corpus": {"tokenizer": {"vocab_size": 420}},
    "base": {"max_steps": 12, "warmup_steps": 2, "hidden_size": 32, "intermediate_size": 64},
    "cpt": {"max_steps": 12, "warmup_steps": 2, "save_steps": 6},
    "anneal": {"anneal_steps": 4},
    "sft": {"max_steps": 6, "warmup_steps": 1},
    "sft-only": {"max_steps": 6, "warmup_steps": 1},
    "sft-only-long": {"max_steps": 12, "warmup_steps": 1},
    "evaluate": {},
}
WORLD = {"users": 60, "unseen_users": 150, "items_per_domain": 160}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    recipes = folder / "recipes" / "tiny"
    recipes.mkdir(parents=True)
    for name, changes in SMALLER.items():
        values = {**read_yaml(shipped("recipes") / "tiny" / f"{name}.yaml"), **changes}
        if name == "corpus":
            values["source"] |= WORLD
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, command in STEPS:
            assert cli.main(command.split()) == 0, command
    return folder


def test_every_method_is_reported_on_the_same_users(finished):
    report = finished / "outputs" / "tiny" / "report"
    results = json.loads((report / "results.json").read_text(encoding="utf-8"))
    names = [method["name"] for method in read_yaml(finished / "recipes/tiny/evaluate.yaml")["methods"]]
    assert [method["name"] for method in results["methods"]] == names
    users = pq.read_table(finished / "outputs/tiny/corpus/sft-music/test.parquet")["user_id"].to_pylist()
    per_user = pq.read_table(report / "per_user.parquet")
    assert sorted(per_user["user_id"].to_pylist()) == sorted(users)
    mean = {m["name"]: m["metrics"]["hr@1"]["mean"] for m in results["methods"]}
    for name in names:
        assert mean[name] == pytest.approx(sum(per_user[f"{name}/hr@1"].to_pylist()) / len(users))
    assert mean["latent oracle"] > mean["popularity"]
    assert {path.name for path in report.glob("*.png")} == {"comparison.png", "learning_rate.png", "losses.png"}
    assert all(name in (report / "report.md").read_text(encoding="utf-8") for name in ("latent oracle", "item-kNN"))


def test_nothing_unsafe_or_half_written_is_left(finished):
    names = {path.name for path in (finished / "outputs").rglob("*")}
    assert "training_args.bin" not in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert {"model.safetensors", "cprec.json", "items.parquet", "README.md", "log.jsonl"} <= names


def test_a_fresh_process_recommends(finished):
    command = [sys.executable, "-m", "cprec_hf.cli", "recommend", "outputs/tiny/sft", "--example", "0", "-k", "5"]
    done = subprocess.run([*command, "--json"], cwd=finished, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    row = pq.read_table(finished / "outputs/tiny/corpus/sft-music/test.parquet").slice(0, 1).to_pylist()[0]
    assert said["history"] == row["history"]
    scores = [found["score"] for found in said["recommendations"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert not {found["item_id"] for found in said["recommendations"]} & set(said["history"])
    items = pq.read_table(finished / "outputs/tiny/corpus/items/train.parquet").to_pylist()
    titles = {item["item_id"]: item["full_title"] for item in items}
    assert all(titles[found["item_id"]] == found["title"] for found in said["recommendations"])


def test_every_test_user_gets_predictions(finished, monkeypatch):
    monkeypatch.chdir(finished)
    assert cli.main(["predict", "--config", "recipes/tiny/predict.yaml", "--shard-users", "64", "-k", "3"]) == 0
    given = pq.read_table("outputs/tiny/corpus/sft-music/test.parquet").to_pylist()
    found = [row for part in sorted(Path("outputs/tiny/predictions").glob("*.parquet")) for row in
             pq.read_table(part).to_pylist()]  # fmt: skip
    assert [row["user_id"] for row in found] == [row["user_id"] for row in given]
    assert all(len(new["item_ids"]) == 3 for new in found)
    assert not [new for new, old in zip(found, given, strict=True) if {*new["item_ids"]} & {*old["history"]}]
    counts = json.loads(Path("outputs/tiny/predictions/predict.json").read_text(encoding="utf-8"))["counts"]
    assert counts["unknown_items"] == 0 and counts["predicted"] == counts["rows"] == len(given)


def test_all_of_it_goes_to_the_hub_and_comes_back(finished, tmp_path):
    """Processes that know only the endpoint, the token and repo ids; nothing that leaves names a folder of this run."""
    script = str(shipped("recipes") / "tiny" / "from_the_hub.py")
    with LoopbackHub(tmp_path / "hub") as hub:
        root = str(Path(cli.__file__).parents[1])
        env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": root}
        push = [sys.executable, "-m", "cprec_hf.cli", "hub", "push", "--config", "recipes/tiny/hub.yaml"]
        subprocess.run(push, cwd=finished, env=env, check=True, capture_output=True)
        load = [sys.executable, script, "local/cprec-tiny-music", "local/ranking_at_k"]
        said = subprocess.run(load, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
        api = HfApi(endpoint=hub.url, token=hub.token)
        sha = api.dataset_info("local/cprec-tiny-corpus").sha
        card = api.model_info("local/cprec-tiny-music").card_data
        branches = {branch.name for branch in api.list_repo_refs("local/cprec-tiny-cpt").branches}
        pushed = api.snapshot_download("local/cprec-tiny-music", cache_dir=tmp_path / "cache")
    assert f"local/cprec-tiny-corpus at {sha[:12]}" in said and "Recommended in Music" in said
    assert branches == {"main", "trunk-step-12"} and card.datasets == ["local/cprec-tiny-corpus"]
    assert card.base_model == "local/cprec-tiny-anneal" and card.eval_results
    texts = [path for path in Path(pushed).rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".yaml")]
    assert len(texts) > 5 and not [path for path in texts if "outputs/tiny" in path.read_text(encoding="utf-8")]


def test_a_second_run_refuses_to_replace_the_first(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    for _, command in STEPS:
        assert cli.main(command.split()) == 2
        assert "--overwrite" in capsys.readouterr().err
