"""The tiny recipe, smaller still, through the command line: logs to a model that recommends in a fresh process."""

import json
import os
import shutil
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
    pictures = {"comparison.png", "learning_rate.png", "losses.png", "reliability.png"}
    assert {path.name for path in report.glob("*.png")} == pictures
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


CARDS = """
import json, os, re, shlex, subprocess, sys
from huggingface_hub import hf_hub_download
from cprec_hf import cli

for kind, repo, branch in json.loads(sys.argv[1]):
    card = open(hf_hub_download(repo, "README.md", repo_type=kind, revision=branch), encoding="utf-8").read()
    os.makedirs(f"{sys.argv[2]}/{repo}/{branch}")
    os.chdir(f"{sys.argv[2]}/{repo}/{branch}")
    (code,) = re.findall(r"^```python\\n(.*?)^```$", card, re.S | re.M)
    exec(code, {"__name__": "__main__"})
    for commands in re.findall(r"^```bash\\n(.*?)^```$", card, re.S | re.M):
        for program, *words in map(shlex.split, commands.splitlines()):
            if program == "cprec":
                assert cli.main([*words, "--use_cpu", "true"]) == 0
            else:
                subprocess.run([program, *words], check=True)
    print("RAN", repo, branch, flush=True)
"""
"""Runs all the code on the cards of some repos' branches, each in a folder of its own."""


def test_all_of_it_goes_to_the_hub_and_comes_back(finished, tmp_path):
    """Processes that know only the endpoint, the token and repo ids; nothing that leaves names a folder of this run."""
    pushes = read_yaml(shipped("recipes") / "tiny" / "hub.yaml")["push"]
    going_on = tmp_path / "run" / "checkpoint-6"  # of a run that has not finished: it has no items yet
    shutil.copytree(finished / "outputs/tiny/cpt/checkpoint-6", going_on)
    pushes.append({"kind": "trunk", "folder": str(going_on), "repo": "cprec-tiny-cpt"})
    recipe = tmp_path / "hub.yaml"
    recipe.write_text(yaml.safe_dump({"push": pushes}), encoding="utf-8")
    script = str(shipped("recipes") / "tiny" / "from_the_hub.py")
    with LoopbackHub(tmp_path / "hub") as hub:
        root, programs = (
            str(Path(cli.__file__).parents[1]),
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )
        env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": root, "PATH": programs}
        push = [sys.executable, "-m", "cprec_hf.cli", "hub", "push", "--config", str(recipe)]
        subprocess.run(push, cwd=finished, env=env, check=True, capture_output=True)
        load = [sys.executable, script, "local/cprec-tiny-music", "local/ranking_at_k"]
        said = subprocess.run(load, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout
        api = HfApi(endpoint=hub.url, token=hub.token)
        sha = api.dataset_info("local/cprec-tiny-corpus").sha
        card = api.model_info("local/cprec-tiny-music").card_data
        kinds = {"corpus": "dataset", "results": "dataset", "metric": "space"}
        repos = {(kinds.get(p["kind"], "model"), f"local/{p['repo']}") for p in pushes}
        pushed = {
            (kind, repo, branch.name): Path(
                api.snapshot_download(repo, repo_type=kind, revision=branch.name, cache_dir=tmp_path / "cache")
            )
            for kind, repo in sorted(repos)
            for branch in api.list_repo_refs(repo, repo_type=kind).branches
        }
        ours = [where for where in pushed if where[0] == "model"]
        run = [sys.executable, "-c", CARDS, json.dumps(ours), str(tmp_path / "ran")]
        ran = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert f"local/cprec-tiny-corpus at {sha[:12]}" in said and "Recommended in Music" in said
    branches = {branch for _, repo, branch in pushed if repo == "local/cprec-tiny-cpt"}
    assert branches == {"main", "trunk-step-6", "trunk-step-12"} and card.datasets == ["local/cprec-tiny-corpus"]
    assert card.base_model == "local/cprec-tiny-anneal" and card.eval_results
    assert [line for line in ran.stdout.splitlines() if line.startswith("RAN ")] == [
        f"RAN {repo} {branch}" for _, repo, branch in ours
    ], ran.stderr
    made = {
        path.relative_to(tmp_path / "ran/local").parent.as_posix() for path in tmp_path.glob("ran/*/*/*/*ed/cprec.json")
    }
    trunks = [f"cprec-tiny-cpt/trunk-step-{step}/annealed" for step in (6, 12)]
    assert made == {*trunks, "cprec-tiny-cpt/trunk-step-6/fine-tuned"}
    here = [text.encode() for text in ("outputs/tiny", str(finished), str(tmp_path), str(Path.home()), str(Path.cwd()))]
    files = [path for folder in pushed.values() for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 60
    assert not [(path, text) for path in files for text in here if text in path.read_bytes()]


def test_a_second_run_refuses_to_replace_the_first(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    for _, command in STEPS:
        assert cli.main(command.split()) == 2
        assert "--overwrite" in capsys.readouterr().err
