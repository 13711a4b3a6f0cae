"""The command line: help with examples, one clear message for bad input, no traceback, Ctrl-C."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cprec_hf import cli
from cprec_hf.command import exit_status, run_as_command

VERBS = [
    ["demo"], ["corpus"], ["corpus", "build"], ["corpus", "audit"], ["corpus", "stats"], ["corpus", "push"],
    ["train"], ["anneal"], ["evaluate"], ["predict"], ["recommend"], ["hub"], ["hub", "serve"],
    ["hub", "push"], ["hub", "doctor"],
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=[" ".join(verb) for verb in VERBS])
def test_each_verb_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*verb, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "example: cprec " + verb[0] in said or "for example" in said


def test_without_a_verb_it_helps(capsys):
    assert cli.main([]) == 0
    assert "VERB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["corpus", "build", "no/such.yaml"], "no recipe no/such.yaml"),
        (["corpus", "audit", "no-such-folder/here/x"], "no-such-folder"),
        (["train", "cpt", "--config", "no/such.yaml"], "no recipe no/such.yaml"),
        (["anneal", "--config", "no/such.yaml"], "no recipe no/such.yaml"),
        (["evaluate", "--config", "no/such.yaml"], "no recipe no/such.yaml"),
        (["predict", "--config", "no/such.yaml"], "no recipe no/such.yaml"),
        (["predict", "--model", "m", "--output", "o"], "missing key `input`"),
        (["predict", "--model", "m", "--output", "o", "--input", "no/such.csv"], "no file no/such.csv"),
        (["predict", "--column", "user"], "expected OURS=THEIRS"),
        (["recommend", "no-such-folder/here/x"], "no-such-folder"),
        (["hub", "push"], "say what to push"),
        (["hub", "push", "model", "no-such-folder", "me/m"], "no cprec.json here"),
        (["hub", "push", "model", "a", "b", "--config", "c"], "either --config or KIND FOLDER REPO"),
        (["hub", "serve", "--user", "nobody"], "NAME:TOKEN"),
    ],
)
def test_bad_input_is_one_message_and_status_2(argv, message, capsys):
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("cprec: ") and message in said and "Traceback" not in said


def test_ctrl_c_in_the_corpus_build_leaves_nothing(tmp_path, monkeypatch, capsys):
    import cprec_hf.corpus.build as build

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "audit_corpus", interrupt)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "corpus.yaml"
    recipe.write_text(
        "name: t\noutput: out/corpus\ndownstream: [Music]\ntokenizer: {vocab_size: 400}\ncandidates: 5\n"
        "source: {kind: marketplace, users: 30, unseen_users: 60, items_per_domain: 160}\n",
        encoding="utf-8",
    )
    assert cli.main(["corpus", "build", str(recipe)]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["corpus.yaml"]


def test_output_whose_reader_has_gone_ends_quietly():
    """`cprec ... | head -0`: the pipe is closed before anything is written, whether at once or from a buffer."""
    push = ["-m", "cprec_hf.cli", "hub", "push", "--dry-run", "metric", "ranking_at_k", "me/ranking_at_k"]
    buffered = ["-c", "from cprec_hf.command import run_as_command\nrun_as_command(lambda: print('a'))"]
    for command in (push, buffered):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([sys.executable, *command], stdout=write, stderr=subprocess.PIPE, text=True)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_no_quiet_end(capsys):
    def run():
        raise BrokenPipeError("of a worker process")

    with pytest.raises(BrokenPipeError, match="worker"):
        exit_status(run, [])


def test_a_dry_run_lists_every_push_and_sends_nothing(tmp_path, capsys, monkeypatch):
    """No endpoint is asked: there is none at this address."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    recipe = tmp_path / "hub.yaml"
    recipe.write_text(
        "push:\n  - {kind: metric, folder: ranking_at_k, repo: ranking_at_k, branch: v1}\n"
        "  - {kind: metric, folder: candidate_match, repo: me/candidate_match}\n",
        encoding="utf-8",
    )
    assert cli.main(["hub", "push", "--config", str(recipe), "--public", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "metric: space repo ranking_at_k, branch v1, public if it is new" in said
    assert "metric: space repo me/candidate_match, branch main, public if it is new" in said
    shipped = Path(cli.__file__).parent / "metrics" / "ranking_at_k"
    assert re.search(r"  README\.md +[\d,]+ bytes\n", said)  # which names the repo, so its size is another
    for name in ("app.py", "ranking_at_k.py", "requirements.txt"):
        assert re.search(rf"  {re.escape(name)} +{(shipped / name).stat().st_size:,} bytes\n", said)


def test_evaluate_without_a_recipe_asks_for_one(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate"])
    assert end.value.code == 2
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        ("cprec_hf.evaluation.protocol", ["--config", "no/such.yaml"]),
        ("cprec_hf.training.cpt", ["--config", "no/such.yaml"]),
    ],
)
def test_modules_end_as_verbs_do(module, argv):
    done = subprocess.run(
        [sys.executable, "-m", module, *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cprec: no recipe no/such.yaml")


def test_a_full_disk_ends_a_module_in_one_line(monkeypatch, capsys):
    def write():
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    with pytest.raises(SystemExit) as end:
        run_as_command(write)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("cprec: no room to write: ")


def test_a_recipe_is_named_once(tmp_path, capsys):
    recipe = tmp_path / "cpt.yaml"
    for line in ("max_steps: many", "lr_scheduler_type: wsb", "label_smoothing_factor: 0.1", "learning_rat: 1"):
        recipe.write_text(f"corpus: c\noutput_dir: {tmp_path}/o\n{line}\n", encoding="utf-8")
        assert cli.main(["train", "cpt", "--config", str(recipe)]) == 2
        assert capsys.readouterr().err.count("cpt.yaml") == 1
