"""What is pushed and what never is, kind by kind; what cannot be pushed is said before anything is sent."""

import gzip
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from cprec_hf.errors import InputError
from cprec_hf.hub import kinds
from cprec_hf.hub.contents import files_to_push
from cprec_hf.hub.curves import draw_learning_rate
from cprec_hf.hub.publish import publish

from .folders import adapter, corpus, dump, metric, model, results, trunk


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return folder


def test_arguments_secrets_leftovers_and_pickles_stay(tmp_path: Path) -> None:
    goes = ("config.json", "eval_results/a.yaml", "model.safetensors")
    stays = ("training_args.bin", ".env", "checkpoint-7/model.safetensors", ".cache/x", "x.tmp", "user.key",
             "optimizer.pt", "rng_state.pth", ".cprec-hub.json")  # fmt: skip
    assert [*files_to_push(write(tmp_path / "m", *goes, *stays))] == sorted(goes)


def test_what_cannot_be_pushed_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        files_to_push(tmp_path / "none")
    with pytest.raises(InputError, match="nothing in this folder"):
        files_to_push(write(tmp_path / "a", "training_args.bin"))
    with pytest.raises(InputError, match="save them as safetensors"):
        files_to_push(write(tmp_path / "b", "config.json", "pytorch_model.bin"))


def test_a_file_of_an_unknown_kind_stays_and_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pickles = ("scores.joblib", "data.dat", "state.PT", "trie.pickle.gz", "w.npz", "Optimizer.Pth", "TRAINING_ARGS.BIN")
    folder = write(tmp_path / "m", "config.json", "NOTES.MD", *pickles)
    assert [*files_to_push(folder)] == ["NOTES.MD", "config.json"]
    said = capsys.readouterr().err
    assert "4 files stay here, of kinds that are not pushed: data.dat, scores.joblib, trie.pickle.gz, ..." in said
    write(tmp_path / "plain", "config.json", "optimizer.pt")
    files_to_push(tmp_path / "plain")
    assert capsys.readouterr().err == ""  # the Trainer's own state is expected there


@pytest.mark.parametrize("name", ["config.json", "notes.txt", "tokenizer.model", "items.parquet", "model.safetensors"])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "m", "README.md")
    state = io.BytesIO()
    torch.save({"w": torch.ones(2)}, state)
    pickles = [pickle.dumps({"w": [1.0] * 99}, protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for content in (*pickles, state.getvalue(), gzip.compress(pickles[0], mtime=0)):
        (tmp_path / "m" / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is a pickle or an archive"):
            files_to_push(tmp_path / "m")


def test_weights_whose_header_has_any_length_are_pushed(tmp_path: Path) -> None:
    """The length comes first: 0x0480 bytes read as a pickle of protocol 4, 0x8b1f as gzip."""
    for length in (0x0280, 0x0480, 0x8B1F):
        header = b"{}".ljust(length)
        (write(tmp_path / "m", "a.txt") / "m.safetensors").write_bytes(length.to_bytes(8, "little") + header)
        assert [*files_to_push(tmp_path / "m")] == ["a.txt", "m.safetensors"]


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_resume_state_that_runs_code_is_refused(tmp_path: Path) -> None:
    folder = trunk(tmp_path / "run")
    assert "rng_state.pth" in kinds.plan_trunk(folder, "ada/it").files
    torch.save({"state": Evil()}, folder / "optimizer.pt")
    with pytest.raises(InputError, match=r"optimizer\.pt would run builtins\.print"):
        kinds.plan_trunk(folder, "ada/it")


def test_a_trunk_is_in_its_stable_phase(tmp_path: Path) -> None:
    schedule = {"type": "wsa", "step": 9, "warmup_steps": 1, "stable_steps": 3, "anneal_steps": 5}
    with pytest.raises(InputError, match="not in the stable phase"):
        kinds.plan_trunk(trunk(tmp_path / "run", schedule=schedule), "ada/it")
    with pytest.raises(InputError, match=r"no trainer_state\.json here"):
        kinds.plan_trunk(model(tmp_path / "model"), "ada/it")


def test_a_source_that_may_not_be_published_goes_to_private_repos_only(tmp_path: Path) -> None:
    about = {"name": "shop", "licence": "none", "citation": "", "order": "time", "redistributable": False}
    closed = {
        "corpus": lambda private: kinds.plan_corpus(corpus(tmp_path / "c", about=about), "a/b", private=private),
        "model": lambda private: kinds.plan_model(
            model(tmp_path / "m", corpus_redistributable=False), "a/b", private=private
        ),
        "results": lambda private: kinds.plan_results(
            results(tmp_path / "r", redistributable=False), "a/b", private=private
        ),
    }
    for plan in closed.values():
        assert plan(True).private
        with pytest.raises(InputError, match="private"):
            plan(False)
    assert not kinds.plan_corpus(corpus(tmp_path / "open"), "a/b", private=False).private


def test_a_corpus_that_leaks_is_not_published(tmp_path: Path) -> None:
    audit = [{"check": "no held-out event", "passed": False, "n": 5, "detail": "3"}]
    with pytest.raises(InputError, match=r"did not pass .no held-out event"):
        kinds.plan_corpus(corpus(tmp_path / "c", audit=audit), "a/b")


def test_no_path_of_this_machine_leaves(tmp_path: Path) -> None:
    plans = [
        kinds.plan_corpus(corpus(tmp_path / "c", tokenizer="/home/someone/weights/tok"), "a/b"),
        kinds.plan_model(model(tmp_path / "m", corpus="/home/someone/c", base="/home/someone/b"), "a/b"),
        kinds.plan_trunk(trunk(tmp_path / "run"), "a/b"),
        kinds.plan_results(results(tmp_path / "r"), "a/b"),
    ]
    for plan in plans:
        assert plan.card is not None
        texts = [plan.card("a/b", "").encode()]
        texts += [source if isinstance(source, bytes) else source.read_bytes() for source in plan.files.values()]
        assert not [text for text in texts if b"someone" in text]


def test_a_report_is_written_anew_from_what_the_results_say(ada: HfApi, tmp_path: Path) -> None:
    folder = model(tmp_path / "rec")
    commit = publish(kinds.plan_recommender(folder, "ada/rec"), ada).commit
    planned = kinds.plan_results(results(tmp_path / "r", str(folder)), "ada/r", endpoint=ada.endpoint)
    report = planned.files["report.md"]
    assert isinstance(report, bytes) and f"ada/rec at {commit}, score sum" in report.decode()


def test_a_checkpoint_goes_to_a_branch_that_says_what_it_is(tmp_path: Path) -> None:
    stable = trunk(tmp_path / "cpt")
    record = json.loads((stable / "cprec.json").read_text())
    step = record["schedule"]["step"]
    assert kinds.plan_checkpoint(stable, "ada/it").branch == f"trunk-step-{step}"
    for change in ({"stage": "sft"}, {"schedule": {**record["schedule"], "stable_steps": 0, "warmup_steps": 0}}):
        dump(stable / "cprec.json", {**record, **change})
        push = kinds.plan_checkpoint(stable, "ada/it")
        assert (push.kind, push.branch) == ("checkpoint", f"checkpoint-{step}") and "optimizer.pt" in push.files
        assert "cprec anneal" not in push.card("ada/it", "")
    with pytest.raises(InputError, match="so this is not a checkpoint of a run"):
        kinds.plan_checkpoint(model(tmp_path / "model"), "ada/it")


def test_a_trunk_takes_the_items_of_its_run_once_they_are_written(tmp_path: Path) -> None:
    checkpoint = trunk(tmp_path / "run")
    early = kinds.plan_trunk(checkpoint, "ada/it")
    assert early.card is not None and "items.parquet" not in early.files
    assert '"--model_revision", "trunk-step-4"' in early.card("ada/it", "")
    assert "items.parquet" not in early.card("ada/it", "")
    model(tmp_path / "run")  # the run has finished
    late = kinds.plan_trunk(checkpoint, "ada/it")
    assert late.files["items.parquet"] == tmp_path / "run" / "items.parquet"
    assert late.card is not None and 'from_pretrained("ada/it", revision="trunk-step-4")' in late.card("ada/it", "")
    other = model(tmp_path / "run" / "other")
    (other / "items.parquet").unlink()
    assert "items.parquet" not in kinds.plan_model(other, "ada/it").files  # another run's folder, no checkpoint


def test_results_stand_in_the_card_the_index_and_the_eval_results(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    plan = kinds.plan_recommender(folder, "a/b", results=results(tmp_path / "r", str(folder)))
    assert plan.card is not None and "0.3 to 0.5" in plan.card("a/b", "") and "model-index" in plan.card("a/b", "")
    assert [name for name in plan.files if name.startswith(".eval_results/")]
    assert plan.files["learning_rate.png"][:4] == b"\x89PNG"
    with pytest.raises(InputError, match="not among the models that were ranked"):
        kinds.plan_model(folder, "a/b", results=results(tmp_path / "other"))


def test_the_card_and_the_picture_of_a_checkpoint_end_at_its_step(tmp_path: Path) -> None:
    checkpoint = trunk(tmp_path / "run", base_revision="b" * 40, licences=["apache-2.0"])
    log = tmp_path / "run" / "log.jsonl"
    plan = kinds.plan_trunk(checkpoint, "a/b")
    assert plan.card is not None
    card = plan.card("a/b", "")
    assert "| steps | 4 |\n| tokens a step | 24 |\n| last training loss, nats a token | 1 |" in card
    assert "- Base model: user/base at commit `" + "b" * 40 + "`.\n" in card and "license: apache-2.0" in card
    with log.open("a") as file:  # the run goes on
        file.writelines(json.dumps({"step": i, "loss": 0.5, "learning_rate": 0.1}) + "\n" for i in range(5, 99))
    later = kinds.plan_trunk(checkpoint, "a/b")
    assert later.card is not None and later.card("a/b", "") == card
    assert later.files["learning_rate.png"] == plan.files["learning_rate.png"] != draw_learning_rate(log)
    log.write_text(json.dumps({"step": 5, "loss": 1.0, "learning_rate": 0.1}) + "\n")  # nothing logged before it
    early = kinds.plan_trunk(checkpoint, "a/b")
    assert early.card is not None and "learning_rate.png" not in early.files
    assert "![" not in early.card("a/b", "") and "last training loss" not in early.card("a/b", "")


def test_an_adapter_names_a_base_on_the_hub(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    assert kinds.plan_recommender(folder, "a/b").kind == kinds.plan_adapter(folder, "a/b").kind == "adapter"
    dump(folder / "adapter_config.json", {"base_model_name_or_path": str(model(tmp_path / "base"))})
    with pytest.raises(InputError, match="push that model first"):
        kinds.plan_adapter(folder, "a/b")
    with pytest.raises(InputError, match="holds no adapter"):
        kinds.plan_adapter(model(tmp_path / "m"), "a/b")


def test_a_metric_is_named_as_its_script(tmp_path: Path) -> None:
    plan = kinds.plan_metric(metric(tmp_path / "it"), "it")
    assert [*plan.files] == ["app.py", "it.py", "requirements.txt"]
    assert plan.card is not None and plan.card("a/it", "").endswith('evaluate.load("a/it")\n')
    with pytest.raises(InputError, match="must be named it"):
        kinds.plan_metric(tmp_path / "it", "a/other")
    (tmp_path / "it" / "app.py").unlink()
    with pytest.raises(InputError, match=r"no app\.py"):
        kinds.plan_metric(tmp_path / "it", "a/it")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_broken_record_is_said(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path / "m")
    (folder / "cprec.json").write_text(text)
    with pytest.raises(InputError, match=r"cprec\.json: not"):
        kinds.plan_model(folder, "a/b")
    assert json.loads((model(folder) / "cprec.json").read_text())["stage"] == "sft"
