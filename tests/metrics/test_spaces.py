"""Every metric module as a Space: complete folders, cards and cases that hold, apps that answer, and loading by id.

By id means: from the loopback Hub, in a process that has neither `cprec_hf` nor gradio.
"""

import doctest
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import pytest
import yaml

from cprec_hf import cli, metrics
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.recipes import read_yaml, shipped

ROOT = Path(metrics.__file__).parent
TYPES = {
    "ranking_at_k": "metric",
    "candidate_match": "metric",
    "beyond_accuracy": "metric",
    "paired_significance": "comparison",
    "corpus_leakage": "measurement",
}

every_module = pytest.mark.parametrize("name", TYPES)


@pytest.fixture
def shipped_file(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Runs NAME/FILE.py as it runs on a Space, where the folder is the working directory."""

    def load(name: str, file: str) -> Any:
        monkeypatch.syspath_prepend(str(ROOT / name))
        monkeypatch.delitem(sys.modules, name, raising=False)
        spec = importlib.util.spec_from_file_location(f"{name}_{file}", ROOT / name / f"{file}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_every_module_is_here_and_in_the_recipe() -> None:
    assert {path.parent.name for path in ROOT.glob("*/README.md")} == set(TYPES)
    pushes = read_yaml(shipped("recipes") / "metrics" / "hub.yaml")["push"]
    assert [(push["kind"], push["folder"], push["repo"]) for push in pushes] == [("metric", n, n) for n in TYPES]


@every_module
def test_the_folder_is_complete(name: str) -> None:
    card = (ROOT / name / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["title"], front["sdk"], front["app_file"]) == (name, "gradio", "app.py")
    assert front["tags"] == ["evaluate", TYPES[name]] and len(front["description"]) < 120
    for heading in ("## Definitions", "## Worked example", "## Citation"):
        assert heading in card
    needed = {line.split(">")[0] for line in (ROOT / name / "requirements.txt").read_text().split()}
    for file in ("app.py", "tests.py", f"{name}.py"):
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / name / file).read_text(), re.M))
        assert imported <= {*sys.stdlib_module_names, *needed, name}, file


@every_module
def test_it_describes_itself_and_its_type(name: str) -> None:
    module = evaluate.load(str(ROOT / name))
    assert module.module_type == TYPES[name] and module.description.strip() and module.citation.strip()
    card = (ROOT / name / "README.md").read_text(encoding="utf-8")
    arguments = [p for p in inspect.signature(module._compute).parameters if p not in ("given", "options")]
    assert all(re.search(rf"\b{argument}\b", card) for argument in arguments), arguments


@every_module
def test_the_card_s_examples_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = evaluate.load
    monkeypatch.setattr(evaluate, "load", lambda path: load(str(ROOT / path)))
    card = (ROOT / name / "README.md").read_text(encoding="utf-8")
    examples = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", card, re.S | re.M))
    assert examples.count(">>>") >= 3
    said: list[str] = []
    test = doctest.DocTestParser().get_doctest(examples, {}, name, None, None)
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not said, "".join(said)


@every_module
def test_the_cases_beside_it_hold(name: str, shipped_file: Callable[[str, str], Any]) -> None:
    module = evaluate.load(str(ROOT / name))
    for case in shipped_file(name, "tests").test_cases:
        got = module.compute(**{key: value for key, value in case.items() if key != "result"})
        assert got.keys() == case["result"].keys()
        for key, expected in case["result"].items():
            assert got[key] == (expected if isinstance(expected, dict) else pytest.approx(expected)), key


APPS = {
    "ranking_at_k": (["[[0.9, 0.5, 0.1]]", "[[0, 1, 0]]", "1, 2", '{"of": ["a"]}'], ["hr@2", 1.0], "[[1, 2], [1]]"),
    "candidate_match": (['["A"]', '["a"]', '[["a", "b"]]', "", ""], ["hr_all", 1.0], "[1]"),
    "beyond_accuracy": (['[["a"]]', '["a", "b"]', "[1, 0]", "", "", "[[1, 0]]"], ["coverage", 0.5], '[["x"]]'),
    "paired_significance": (["[1, 0.5]", "[0, 0]", "", "", ""], ["difference", 0.75], "[1]"),
    "corpus_leakage": (
        [
            '[{"user_id": "ann", "domain": "Books", "item_id": "b1", "timestamp": 9}]',
            '[{"split": "test", "user_id": "ann", "domain": "Music", "target": "m2", "history": ["m1"],'
            ' "candidates": ["m2", "m3"], "timestamp": 12}]',
            "8",
        ],
        ["rules_broken", 1],
        '[{"user_id": 1}]',
    ),
}  # what is typed, what is read, and something wrong in the first field


@every_module
def test_the_app_answers_and_says_what_is_wrong(name: str, shipped_file: Callable[[str, str], Any]) -> None:
    app = shipped_file(name, "app")
    typed, (key, value), wrong = APPS[name]
    got = app.answer(*typed)
    assert got[key] == value
    json.dumps(got, allow_nan=False)
    for bad in ("[", "7", wrong):
        assert list(app.answer(bad, *typed[1:])) == ["error"], bad


ALONE = """
import json, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("cprec_hf", "gradio"):
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Guard())
for name in ("cprec_hf", "gradio"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} could be imported")
import evaluate
from huggingface_hub import hf_hub_download

for name in sys.argv[1:]:
    metric = evaluate.load(f"local/{name}")
    told = {}
    exec(open(hf_hub_download(f"local/{name}", "tests.py", repo_type="space"), encoding="utf-8").read(), told)
    for case in told["test_cases"]:
        result = case.pop("result")
        print(json.dumps([name, metric.module_type, metric.compute(**case), result]))
"""


def test_one_command_publishes_them_all_and_they_load_by_id_without_cprec_hf(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home")}
        push = [sys.executable, "-m", "cprec_hf.cli", "hub", "push", "--config", "recipes/metrics/hub.yaml", "--public"]
        environment = {**env, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
        subprocess.run(push, cwd=tmp_path, env=environment, check=True, capture_output=True)
        load = [sys.executable, "-c", ALONE, *TYPES]
        env.pop("PYTHONPATH", None)
        done = subprocess.run(load, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert {name: kind for name, kind, _, _ in found} == TYPES
    for name, _, got, expected in found:
        for key, value in expected.items():
            assert got[key] == (value if isinstance(value, dict) else pytest.approx(value)), (name, key)
