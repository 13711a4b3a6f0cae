"""A whole small study through the command's own functions: cells, resuming, kills, failures."""

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.cells import Cells
from cprec_hf.evaluation.study.config import read_study
from cprec_hf.evaluation.study.plan import make_plan
from cprec_hf.evaluation.study.run import main, run_study
from cprec_hf.hub.kinds import plan_model


@pytest.fixture(scope="module")
def recipe(write_study, tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def finished(recipe) -> Path:
    return main(["--config", str(recipe), "--workers", "2"])


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted((folder / "cells").rglob("*")) if path.is_file()}


def test_every_cell_is_there_with_what_it_is(finished, recipe):
    plan, cells = make_plan(read_study(recipe)), Cells(finished)
    assert sorted(path.name for path in cells.folder.iterdir()) == sorted(cell.name for cell in plan.cells.values())
    for cell in plan.cells.values():
        about = cells.about(cell)
        assert (about["hash"], about["config"], about["kind"]) == (cell.hash, cell.config, cell.kind)
        assert about["seconds"] > 0
    one = next(cell for cell in plan.cells.values() if cell.label == "cpt" and cell.seed == 1)
    assert "step 4/4" in (cells.path(one) / "log.txt").read_text()


def test_the_report_says_what_the_users_values_come_to(finished, recipe):
    plan, cells = make_plan(read_study(recipe)), Cells(finished)
    results = json.loads((finished / "results.json").read_text())
    table = results["tables"]["main"]
    for row in table["rows"]:
        for domain in ("Music", "Cartoons"):
            mine = [p.cell for p in plan.places if (p.table, p.row, p.domain) == ("main", row, domain)]
            users = [pq.read_table(cells.path(plan.cells[cell]) / "per_user.parquet") for cell in mine]
            means = [np.mean(table["ndcg@10"].to_pylist()) for table in users]
            said = table["rows"][row]["domains"][domain]["metrics"]["ndcg@10"]
            assert len(means) == (2 if row == "CPT | SFT" else 1) and said["mean"] == pytest.approx(np.mean(means))
            assert said["low"] <= said["mean"]
            if len(means) == 2:
                assert said["std_seeds"] == pytest.approx(np.std(means, ddof=1))
    report, tex = (finished / "report.md").read_text(), (finished / "tables.tex").read_text()
    assert "CPT \\| SFT" in report and "100 % &amp; more\\_of it" in report
    assert r"100 \% \& more\_of it" in tex and r"CPT \textbar{} SFT" in tex
    assert {path.name for path in finished.iterdir()} == {
        "cells", "main.png", "trunk.png", "report.md", "results.json", "tables.tex"
    }  # fmt: skip


def test_the_report_says_what_models_were_trained_on_and_how_they_score(finished, recipe):
    tables = json.loads((finished / "results.json").read_text())["tables"]
    trained = tables["trunk"]["rows"]["two zero-shot"]["trained"]
    assert [(stage["node"], stage["steps"]) for stage in trained] == [("base", 2), ("cpt", 2)]
    full = tables["trunk"]["rows"]["four"]["trained"]
    assert [(stage["node"], stage["steps"]) for stage in full] == [("base", 2), ("cpt", 4), ("sft", 2)]
    assert full[0] == trained[0] and full[1]["tokens"] > trained[1]["tokens"] > 0
    report = (finished / "report.md").read_text()
    assert "cpt 0.00 M tokens in 4 steps, then sft" in report and "position V" in report
    plan, cells = make_plan(read_study(recipe)), Cells(finished)
    (both,) = [plan.cells[place.cell] for place in plan.places if place.row == "both"]
    weights = json.loads((cells.path(both) / "result.json").read_text())["record"]["weights"]
    assert list(weights) == ["two zero-shot", "four", "one user"]
    rows = tables["trunk"]["rows"]  # each place of the axis has a ceiling of its own
    share = rows["four"]["overall"].get("share_of_ceiling")
    top = rows["one user"]["overall"]["hr@1"]["mean"]
    assert share == (pytest.approx(rows["four"]["overall"]["hr@1"]["mean"] / top) if top else None)


def test_one_worker_makes_the_bytes_that_two_made(finished, recipe, write_study, tmp_path):
    study = dataclasses.replace(read_study(write_study(recipe.parent)), output=str(tmp_path))
    plan = make_plan(study, quick=True)
    (last,) = [place.cell for place in plan.places if (place.row, place.domain) == ("CPT | SFT", "Music")]
    chain = {hash: cell for hash, cell in plan.cells.items() if hash in _needed(plan, last)}
    outcome = run_study(study, dataclasses.replace(plan, cells=chain), workers=1)
    assert len(outcome.done) == 5 and not outcome.failed
    two, one = Cells(finished), Cells(tmp_path)
    for cell in chain.values():
        for name in ("model/model.safetensors", "per_user.parquet", "corpus/cprec-corpus.json"):
            if (two.path(cell) / name).exists():
                assert (two.path(cell) / name).read_bytes() == (one.path(cell) / name).read_bytes()


def _needed(plan, hash):
    return {hash}.union(*(_needed(plan, need) for need in plan.cells[hash].needs.values()))


def test_a_models_card_takes_its_results_from_the_study(finished, recipe):
    plan, cells = make_plan(read_study(recipe)), Cells(finished)
    place = next(p for p in plan.places if (p.row, p.domain, p.seed) == ("CPT | SFT", "Cartoons", 2))
    measured = plan.cells[place.cell]
    card = plan_model(cells.model(plan.cells[measured.needs["model"]]), "me/toy", results=finished).card("me/toy", "")
    value = json.loads((cells.path(measured) / "result.json").read_text())["metrics"]["hr@1"]
    (row,) = [line for line in card.splitlines() if line.startswith("| Cartoons") and "| hr@1 |" in line]
    assert f"| 2 | hr@1 | {value['mean']:.4g} |" in row  # the seed stands beside what was measured
    with pytest.raises(InputError, match="is not among the models that were ranked there"):
        plan_model(cells.model(next(c for c in plan.cells.values() if c.label == "base")), "me/x", results=finished)


def test_a_second_call_does_nothing_and_writes_the_same_report(finished, recipe, capsys):
    before = files(finished), (finished / "results.json").read_bytes(), (finished / "report.md").read_bytes()
    for only, done in ([], "27 of 27"), (["--only", "trunk"], "10 of 10"):
        main(["--config", str(recipe), *only])
        assert f"{done} cells done" in capsys.readouterr().out
        after = files(finished), (finished / "results.json").read_bytes(), (finished / "report.md").read_bytes()
        assert after == before
    main(["--config", str(recipe), "--dry-run", "--quick"])
    assert "13 cells, 13 done, 0 missing" in capsys.readouterr().out


def test_a_killed_worker_and_a_changed_node(finished, recipe, write_study, capsys):
    """Only what depends on the node runs; the worker is killed in it; its cell has the bytes of one never killed."""

    def change(values):
        values["nodes"]["cpt"]["with"]["max_steps"] = 40

    before = files(finished)
    study = read_study(write_study(recipe.parent, change))
    plan = make_plan(study, quick=True)
    cells = Cells(finished)
    cpt = next(cell for cell in plan.cells.values() if cell.label == "cpt")
    killed = threading.Thread(target=_kill_at, args=(cells.partial(cpt) / "model" / "checkpoint-2",))
    killed.start()
    outcome = run_study(study, plan, workers=1)
    killed.join()
    assert not outcome.failed and not outcome.left
    assert sorted(name.split(".")[0] for name in outcome.done) == ["cpt", "evaluate", "evaluate", "sft", "sft"]
    assert f"{cpt.name}: its process ended with status -9; once more" in capsys.readouterr().out
    assert {path: at for path, at in files(finished).items() if path in before} == before

    from cprec_hf.training.cpt import main as train

    again = recipe.parent / "again"
    train(["--config", str(cells.path(cpt) / "config.yaml"), "--output_dir", str(again)])
    assert (again / "model.safetensors").read_bytes() == (cells.path(cpt) / "model" / "model.safetensors").read_bytes()


def _kill_at(checkpoint: Path) -> None:
    while not checkpoint.exists():
        time.sleep(0.002)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)


def test_a_failed_cell_keeps_its_error_and_others_go_on(finished, recipe, write_study, capsys):
    def change(values):
        values["nodes"]["cpt"]["with"]["max_steps"] = 0
        values["nodes"]["cpt"]["with"]["warmup_steps"] = 50

    with pytest.raises(InputError, match=r"2 cells failed:\n  cpt\.s1\.\w+: InputError: WSA(.|\n)*\n12 that need them"):
        main(["--config", str(write_study(recipe.parent, change)), "--workers", "1"])
    said = capsys.readouterr().out
    assert "FAILED" in said and "report in" in said
    assert "(0 of 4 cells)" in (finished / "report.md").read_text()


def test_time_that_is_up_leaves_the_rest(recipe, write_study, finished, capsys):
    def change(values):
        values["corpora"]["world"]["with"]["source.users"] = 22

    study = read_study(write_study(recipe.parent, change))
    outcome = run_study(study, make_plan(study), workers=1, minutes=0.0)
    assert not outcome.done and not outcome.failed and len(outcome.left) == 27


def test_a_study_that_is_running_is_not_run_twice(finished, recipe, write_study):
    study = read_study(write_study(recipe.parent))
    with Cells(finished).held(), pytest.raises(InputError, match="another process is running this study"):
        run_study(study, make_plan(study))
