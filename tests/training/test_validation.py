"""Losses of held-out rows and the probe against the model's own logits, and trackers against the run's own log."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.integrations import integration_utils

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.template import load_template
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, arguments, cpt
from training.runs import BRANCH

EVALUATE = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
PROBE = {"probe_domain": "Tools", "probe_users": 6}


@pytest.fixture
def held_out(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with many validation documents of each domain: its training documents."""
    folder = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    shutil.copyfile(folder / "cpt" / "train.parquet", folder / "cpt" / "validation.parquet")
    return folder


def evaluations(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    clock = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines if "eval_loss" in line]


class Judge:
    """A model's log-probabilities, one text at a time, from its logits."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.encoder = Encoder(AutoTokenizer.from_pretrained(folder))

    def log_probs(self, *segments: str) -> tuple[np.ndarray, int]:
        """Of each token but the first, and how many of them are the first segment's."""
        first = self.encoder.documents([segments[0]]).row(0)
        rest = [self.encoder.segments([text]).row(0) for text in segments[1:]]
        ids = torch.tensor(np.concatenate([first, *rest]).astype(np.int64))
        with torch.no_grad():
            found = self.model(ids[None]).logits[0, :-1].double().log_softmax(-1)
        return found[torch.arange(len(ids) - 1), ids[1:]].numpy(), len(first) - 1

    def losses(self, corpus: Path, kinds: tuple[str, ...]) -> dict[str, float]:
        """The mean loss of the validation documents, of all and of each domain."""
        of: dict[str, list[np.ndarray]] = {}
        for row in pq.read_table(corpus / "cpt" / "validation.parquet").to_pylist():
            if row["kind"] in kinds:
                name = row["domain"].lower() if row["domain"] else row["kind"]
                of.setdefault(name, []).append(-self.log_probs(row["text"])[0])
        each = {f"eval_loss_{name}": np.concatenate(found).mean() for name, found in of.items()}
        whole = np.concatenate([nats for found in of.values() for nats in found]).mean()
        return {"eval_loss": whole, **(each if len(each) > 1 else {})}

    def ranking(self, corpus: Path, users: int) -> dict[str, float]:
        """How often the target is the likeliest of its candidates, and ndcg among the first ten."""
        items = pq.read_table(corpus / "items" / "train.parquet").to_pylist()
        lines = {item["item_id"]: load_template("1").line(item["title"]) for item in items}
        places = []
        for row in pq.read_table(corpus / "sft-tools" / "validation.parquet").to_pylist()[:users]:
            scores = []
            for candidate in row["candidates"]:
                found, before = self.log_probs(row["prompt"], lines[candidate])
                scores.append(found[before:].sum())
            own = scores[row["candidates"].index(row["target"])]
            places.append(sum(score >= own for score in scores))
        gains = [1 / np.log2(1 + place) if place <= 10 else 0.0 for place in places]
        return {"eval_hr@1": float(np.mean([place == 1 for place in places])), "eval_ndcg@10": float(np.mean(gains))}


@pytest.mark.parametrize("packing", [True, False])
def test_each_domain_has_its_loss_and_the_probe_its_rank(
    flags: Callable[..., list[str]], held_out: Path, packing: bool
) -> None:
    more = {"corpus": held_out, "packing": packing, "save_steps": 2, "learning_rate": 0.02}
    out = cpt.main(flags("out", **EVALUATE, **PROBE, **more))
    found = evaluations(out)
    assert [line["step"] for line in found] == [2, 4]
    for line in found:
        judge = Judge(out / f"checkpoint-{line['step']}")
        expected = judge.losses(held_out, ("domain", "all_domain"))
        assert set(expected) == {"eval_loss", "eval_loss_books", "eval_loss_toys", "eval_loss_all_domain"}
        expected |= judge.ranking(held_out, 6)
        assert {key: line[key] for key in expected} == pytest.approx(expected, rel=1e-5)
        assert line.keys() == {"step", *expected}


def test_two_processes_measure_what_one_does(flags: Callable[..., list[str]], held_out: Path, tmp_path: Path) -> None:
    """Under DDP and FSDP2; the rows of a domain do not come out even, so one process has nothing to read at its end."""
    kinds = ("ddp", "fsdp2")
    options = {"corpus": held_out, "max_steps": 2, "per_device_train_batch_size": 1, **EVALUATE, **PROBE}
    options |= {"per_device_eval_batch_size": 4}
    runs = [(kind, "cpt", flags(kind, **options)) for kind in kinds]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    worker = Path(__file__).with_name("worker.py")
    done = subprocess.run([*launch, str(worker), json.dumps(runs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind in kinds:
        (line,) = evaluations(tmp_path / kind)
        judge = Judge(tmp_path / kind)
        expected = judge.losses(held_out, ("domain", "all_domain")) | judge.ranking(held_out, 6)
        assert line == pytest.approx({"step": 2, **expected}, rel=1e-5)


def test_an_anneal_is_measured_too_on_its_own_kinds(flags: Callable[..., list[str]], held_out: Path) -> None:
    trunk = cpt.main(flags("trunk", corpus=held_out, max_steps=2))
    own = {**BRANCH, "corpus": held_out, "init_from": trunk, "anneal_steps": 3, "kinds": "all_domain"}
    out = anneal.main(flags("out", **own, **EVALUATE, **PROBE, save_steps=2))
    found = evaluations(out)
    assert [line.pop("step") for line in found] == [4, 5]
    judge = Judge(out / "checkpoint-4")  # of one group the total says it
    assert found[0] == pytest.approx(judge.losses(held_out, ("all_domain",)) | judge.ranking(held_out, 6), rel=1e-5)


def test_measuring_changes_no_run(flags: Callable[..., list[str]], held_out: Path) -> None:
    """Dropout draws the same numbers in between."""
    options = {"corpus": held_out, "use_peft": "true", "lora_dropout": 0.5, "max_steps": 5}
    one, other = (cpt.main(flags(name, **options, **more)) for name, more in (("a", {}), ("b", {**EVALUATE, **PROBE})))
    file = "adapter_model.safetensors"
    assert (one / file).read_bytes() == (other / file).read_bytes()


def test_trackers_get_what_the_log_says_under_the_same_names(
    flags: Callable[..., list[str]], held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    class Recorder(TrainerCallback):
        """An integration, as transformers makes them of the names in `report_to`."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append({"step": state.global_step, **logs})

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    schedule = {"warmup_steps": 1, "lr_scheduler_kwargs": {"anneal_ratio": 0.25}}
    out = cpt.main(flags("out", corpus=held_out, report_to="recorder", **schedule, **EVALUATE, **PROBE))
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(logged) == 6
    phases = {"warmup": 0, "stable": 1, "anneal": 2}
    assert [line["phase"] for line in logged if "loss" in line] == ["warmup", "stable", "stable", "anneal"]
    reported = [line for line in seen if "loss" in line or "eval_loss" in line]
    for line, tracked in zip(logged, reported, strict=True):
        assert {k: phases[v] if k == "phase" else v for k, v in line.items()}.items() <= tracked.items()
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())
    assert not [line for line in state["log_history"] if "tokens_per_second" in line]  # a state knows no clock


def test_the_tracker_is_trackio_where_it_is_installed(
    flags: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = arguments.importlib.util.find_spec
    for there, expected in ((object(), "trackio"), (None, "none")):
        monkeypatch.setattr(
            arguments.importlib.util, "find_spec", lambda name, it=there: it if name == "trackio" else found(name)
        )
        assert arguments.stage_defaults()["report_to"] == expected
    _, training, _, _ = arguments.parse_stage("cpt", arguments.CptArguments, flags("name"))
    assert (training.report_to, training.run_name, training.project) == ([], "name", "cprec")


def test_a_probe_that_cannot_be_taken_is_said(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    def refused(match: str, **keys: Any) -> None:
        with pytest.raises(InputError, match=match):
            cpt.main(flags("out", **keys))
        assert not (tmp_path / "out").exists()

    refused("`probe_domain` is ranked at each evaluation: give `eval_strategy: steps`", probe_domain="Tools")
    refused("`probe_domain` is 'Books'; .* has candidates in Tools", **EVALUATE, probe_domain="Books")
    refused("`probe_users` has no place without `probe_domain`", **EVALUATE, probe_users=3)
    refused("`probe_users` 0 leaves no validation row", **EVALUATE, probe_domain="Tools", probe_users=0)
