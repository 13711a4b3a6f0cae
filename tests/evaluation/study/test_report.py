"""Aggregation against numbers worked out by hand, and names that are hostile to Markdown and LaTeX."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.evaluation.study.aggregate import aggregate
from cprec_hf.evaluation.study.cells import Cells
from cprec_hf.evaluation.study.config import read_study
from cprec_hf.evaluation.study.latex import escape_tex, tables_tex
from cprec_hf.evaluation.study.plan import make_plan
from cprec_hf.evaluation.study.report import cells_of, report_markdown

# hr@1 of each user, by row and seed: in both domains the same
VALUES = {
    "Bayes oracle": {1: [1, 1, 1, 0], 2: [1, 1, 1, 1]},
    "CPT | SFT": {1: [1, 1, 0, 0], 2: [1, 1, 1, 0]},
    "SFT only": {1: [0, 1, 0, 0], 2: [0, 0, 0, 0]},
    "popularity": {1: [0, 0, 0, 0], 2: [0, 0, 0, 0]},
}


def every_seed(recipe):
    del recipe["tables"]["trunk"]
    for row in recipe["tables"]["main"]["rows"].values():
        row.pop("seeds", None)


def fill(study, plan, skip=()):
    """Write evaluate cells as a worker does, without running any."""
    cells = Cells(study.output)
    for place in plan.places:
        cell = plan.cells[place.cell]
        if cells.is_done(cell) or (place.row, place.domain, place.seed) in skip:
            continue
        folder = cells.begin(cell, {})
        values = np.array(VALUES[place.row][place.seed], dtype=np.float64)
        table = {"user_id": [f"u{i}" for i in range(4)], "rows": [1] * 4, "hr@1": values, "ndcg@10": values / 2}
        pq.write_table(pa.table(table), folder / "per_user.parquet")
        result = {"corpus": {"content_sha256": f"world {place.seed}"}, "users": 4, "candidates": 9, "metrics": {}}
        result |= {"method": {"kind": place.row, "model": cell.name}, "record": {}}
        (folder / "result.json").write_text(json.dumps(result))
        cells.finish(cell, {}, 1.0, 1.0)
    return cells


@pytest.fixture(scope="module")
def study(write_study, tmp_path_factory):
    def change(recipe):
        every_seed(recipe)
        recipe["tables"]["main"]["question"] = "Is <b>it</b>_true_?"

    study = read_study(write_study(tmp_path_factory.mktemp("report"), change))
    fill(study, make_plan(study))
    return study


@pytest.fixture(scope="module")
def results(study):
    return json.loads(json.dumps(aggregate(study, make_plan(study))))


def test_means_spreads_and_shares(results):
    rows = results["tables"]["main"]["rows"]
    ours = rows["CPT | SFT"]["domains"]["Music"]["metrics"]["hr@1"]
    assert ours["mean"] == 0.625 and ours["by_seed"] == {"1": 0.5, "2": 0.75}
    assert ours["std_seeds"] == pytest.approx(0.125 * 2**0.5)
    overall = rows["CPT | SFT"]["overall"]
    assert overall["hr@1"]["mean"] == 0.625 and overall["hr@1"]["std_domains"] == 0.0
    assert overall["hr@1"]["std_seeds"] == pytest.approx(0.125 * 2**0.5)
    assert overall["share_of_ceiling"] == pytest.approx(0.625 / 0.875)
    assert rows["CPT | SFT"]["domains"]["Music"]["share_of_ceiling"] == pytest.approx(0.625 / 0.875)


def test_each_row_is_compared_with_the_best_reference_and_adjusted_over_the_domains(results):
    rows = results["tables"]["main"]["rows"]
    compared = rows["CPT | SFT"]["domains"]["Music"]["against"]["hr@1"]
    assert compared["reference"] == "SFT only" and compared["difference"] == pytest.approx(0.625 - 0.125)
    gaps = np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=float)  # users of different worlds are different users
    assert compared["users"] == 8
    assert compared["t"] == pytest.approx(gaps.mean() / gaps.std(ddof=1) * 8**0.5)
    assert compared["p_t_holm"] == pytest.approx(min(1.0, 2 * compared["p_t"]))  # both domains have the same p
    assert rows["SFT only"]["domains"]["Music"]["against"] == {}


def test_a_row_without_all_of_its_cells_says_so_and_is_compared_on_common_seeds(write_study, tmp_path):
    study = read_study(write_study(tmp_path, every_seed))
    plan = make_plan(study)
    fill(study, plan, skip={("SFT only", "Music", 1), ("CPT | SFT", "Cartoons", 1), ("CPT | SFT", "Cartoons", 2)})
    table = aggregate(study, plan)["tables"]["main"]
    music = table["rows"]["CPT | SFT"]["domains"]["Music"]
    assert music["against"]["hr@1"]["difference"] == 0.75  # of seed 2 alone
    assert music["metrics"]["hr@1"]["mean"] == 0.625
    head, body = cells_of(table, "hr@1")
    assert head[1:3] == ["Music", "Cartoons"]
    assert body[1][0] == "CPT | SFT (2 of 4 cells)" and body[1][2] == "-"


def test_hostile_names_stay_text(results):
    markdown = report_markdown(results)
    assert "| CPT \\| SFT |" in markdown and "Is &lt;b&gt;it&lt;/b&gt;\\_true\\_?" in markdown
    columns = [line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert len(set(columns[:6])) == 1
    assert tables_tex(results).count(r"\textbar{}") == 2
    assert escape_tex('100% of a_b & c\\d {x} ~$^#<>\n"') == (
        r"100\% of a\_b \& c\textbackslash{}d \{x\} \textasciitilde{}\$\textasciicircum{}\#\textless{}\textgreater{} "
        r"\textquotedbl{}"
    )


def test_the_best_of_a_column_is_bold_and_oracles_are_not(results):
    tex = tables_tex(results)
    assert r"CPT \textbar{} SFT & \textbf{0.625}" in tex and "Bayes oracle & 0.875" in tex
    assert "0.625 $\\pm$ 0.177" in tex


def test_models_are_evaluations_of_one_model_each_and_seed(results):
    models = results["models"]
    assert [(m["methods"][0]["name"], m["domain"], m["study_seed"]) for m in models] == [
        (row, domain, seed) for seed in (1, 2) for row in ("CPT | SFT", "SFT only") for domain in ("Music", "Cartoons")
    ]
    assert len({m["methods"][0]["model"] for m in models}) == 8


def test_missing_everything_is_a_report_too(write_study, tmp_path: Path):
    study = read_study(write_study(tmp_path))
    empty = aggregate(study, make_plan(study))
    assert "(0 of 4 cells)" in report_markdown(empty) and "--" in tables_tex(empty)
