"""What cells a study has, and what their hashes depend on."""

from collections import Counter

import pytest

from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.config import read_study
from cprec_hf.evaluation.study.plan import make_plan
from cprec_hf.evaluation.study.resolve import override


def plan_of(write_study, folder, change=None, **options):
    return make_plan(read_study(write_study(folder, change)), **options)


def counts(plan):
    return Counter((cell.kind, cell.label) for cell in plan.cells.values())


def test_cells_are_counted_once_and_stand_behind_what_they_need(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path)
    assert counts(plan) == {
        ("corpus", "world"): 2, ("stage", "base"): 2, ("stage", "cpt"): 2,
        ("stage", "sft"): 7,  # 2 domains, 2 seeds from cpt and one from base; and one from a checkpoint
        ("evaluate", "sft"): 7, ("evaluate", "bayes_oracle"): 2, ("evaluate", "popularity"): 3, ("evaluate", "cpt"): 1,
        ("evaluate", "hybrid"): 1,
    }  # fmt: skip
    place = {hash: i for i, hash in enumerate(plan.cells)}
    assert all(place[need] < place[hash] for hash, cell in plan.cells.items() for need in cell.needs.values())
    assert len(plan.places) == 5 * 2 + 5
    four = {p.cell for p in plan.places if p.row == "four"}
    assert four == {p.cell for p in plan.places if (p.row, p.domain, p.seed) == ("CPT | SFT", "Music", 1)}
    assert len({cell.name for cell in plan.cells.values()}) == len(plan.cells)


def test_quick_and_only_leave_cells_of_the_whole(write_study, tmp_path):
    whole, quick = plan_of(write_study, tmp_path), plan_of(write_study, tmp_path, quick=True)
    assert quick.cells.keys() < whole.cells.keys()
    assert counts(quick) == {
        ("corpus", "world"): 1, ("stage", "base"): 1, ("stage", "cpt"): 1, ("stage", "sft"): 4, ("evaluate", "sft"): 4,
        ("evaluate", "bayes_oracle"): 2,
    }  # fmt: skip
    only = plan_of(write_study, tmp_path, only="trunk")
    assert [(p.table, p.row) for p in only.places] == [
        ("trunk", row) for row in ("two", "four", "two zero-shot", "one user", "both")
    ]
    with pytest.raises(InputError, match=r"--only: unknown key `mian`; did you mean `main`"):
        plan_of(write_study, tmp_path, only="mian")


def changed(write_study, folder, change):
    """Labels of the cells that a change makes anew, with how many stay."""
    before, after = plan_of(write_study, folder), plan_of(write_study, folder, change)
    new = Counter(cell.label for hash, cell in after.cells.items() if hash not in before.cells)
    return new, len(after.cells.keys() & before.cells.keys())


def test_a_change_makes_anew_just_what_depends_on_it(write_study, tmp_path):
    def cpt(recipe):
        recipe["nodes"]["cpt"]["with"]["max_steps"] = 6

    # cpt of both seeds; sft from it (2 x 2, and from the checkpoint) and their evaluations, and what is made of those;
    # not SFT only
    assert changed(write_study, tmp_path, cpt) == ({"cpt": 3, "sft": 10, "hybrid": 1}, 27 - 14)

    def world(recipe):
        recipe["corpora"]["world"]["with"]["source.users"] = 21

    assert changed(write_study, tmp_path, world)[1] == 0

    def cheap(recipe):
        recipe["nodes"]["cpt"]["seconds"] = 7
        recipe["tables"]["main"]["title"] = "other"
        recipe["output"] += "-elsewhere"

    assert changed(write_study, tmp_path, cheap) == ({}, 27)


def test_the_hash_depends_on_the_version(write_study, tmp_path, monkeypatch):
    before = plan_of(write_study, tmp_path)
    monkeypatch.setattr("cprec_hf.__version__", "9.9.9")
    assert not before.cells.keys() & plan_of(write_study, tmp_path).cells.keys()


def test_seeds_and_overrides_reach_the_cells(write_study, tmp_path):
    def change(recipe):
        recipe["nodes"]["base"]["with"] |= {"learning_rate": None, "run_name": "s{seed}"}

    cells = plan_of(write_study, tmp_path, change).cells.values()
    base = {cell.seed: cell.config for cell in cells if cell.label == "base"}
    assert "learning_rate" not in base[1] and "corpus" not in base[1] and base[2]["run_name"] == "s2"
    assert base[2]["seed"] == 2 and base[1]["per_device_train_batch_size"] == 2
    worlds = {cell.seed: cell.config["source"] for cell in cells if cell.kind == "corpus"}
    assert worlds[1]["seed"] == 1 and worlds[2]["seed"] == 2 and worlds[1]["users"] == 20
    assert {cell.config["domain"] for cell in cells if cell.label == "sft"} == {"Music", "Cartoons"}


def test_a_corpus_without_a_seed_is_shared_by_all(write_study, tmp_path):
    def change(recipe):
        del recipe["corpora"]["world"]["with"]

    assert counts(plan_of(write_study, tmp_path, change))["corpus", "world"] == 1


def test_a_hybrid_stands_on_its_parts_and_on_their_checkpoints(write_study, tmp_path):
    plan = plan_of(write_study, tmp_path, only="trunk")
    rows = {place.row: plan.cells[place.cell] for place in plan.places}
    assert rows["both"].needs == {
        "corpus": rows["four"].needs["corpus"],
        "model of four": rows["four"].needs["model"],
        "model of two zero-shot": rows["two zero-shot"].needs["model"],
    }
    assert rows["two zero-shot"].inside == "checkpoint-2" and rows["four"].inside == ""
    assert [part.get("inside") for part in rows["both"].config["parts"]] == ["checkpoint-2", "", None]
    assert rows["one user"].config["train_share"] == 0.05

    def penalty(recipe):  # a hybrid of a hybrid needs what that one needs
        recipe["tables"]["trunk"]["rows"]["all"] = {"kind": "hybrid", "parts": ["both", "one user"], "at": 4}

    deep = plan_of(write_study, tmp_path, penalty, only="trunk")
    (cell,) = [deep.cells[place.cell] for place in deep.places if place.row == "all"]
    assert [part["name"] for part in cell.config["parts"]] == ["two zero-shot", "four", "one user", "both"]
    assert cell.needs == rows["both"].needs


def test_an_override_reaches_into_lists():
    before = {"sources": [{"kind": "a", "domains": ["x"]}, {"kind": "b"}], "other": 1}
    made = override(before, {"sources.0.domains": ["y"], "sources.1.set.deep": 2, "other": None}, None)
    assert made == {"sources": [{"kind": "a", "domains": ["y"]}, {"kind": "b", "set": {"deep": 2}}]}
    assert before["sources"][0]["domains"] == ["x"]
    with pytest.raises(InputError, match="`sources` is a list of 2"):
        override(before, {"sources.2.kind": "c"}, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["nodes"]["sft"].update({"from": "sfd", "stage": "stf"}), "unknown key `stf`; did you mean `sft`"),
        (lambda r: r["nodes"]["cpt"]["with"].update(max_step=3), "node 'cpt': unknown key `max_step`"),
        (lambda r: r["nodes"]["cpt"].update({"from": "sft"}), "nodes go round in a circle: sft from cpt from sft"),
        (lambda r: r["nodes"]["cpt"].pop("from"), "node 'cpt': `from` is needed"),
        (
            lambda r: r["tables"]["main"]["rows"]["popularity"].update(change={"cpt": {"seed": 1}}),
            "it changes 'cpt', and stands on world alone",
        ),
        (lambda r: r["tables"]["trunk"].update(domains=["Musik"]), "unknown key `Musik`; did you mean `Music`"),
        (lambda r: r["tables"]["main"]["rows"]["popularity"].update(model="sft"), "takes no `model`"),
        (lambda r: r["tables"]["main"]["rows"]["SFT only"].update(at=3), "give the table an `axis`"),
        (lambda r: r["tables"]["main"].update(ceiling="Bayes"), "'Bayes' is named and is no row"),
        (lambda r: r["tables"]["trunk"].update(seeds=[3]), "seed 3 is not among the study's"),
        (lambda r: r["tables"]["main"]["rows"]["popularity"].update(seeds=[3]), "seed 3 is not among the study's"),
        (lambda r: r["tables"]["trunk"]["rows"]["both"]["parts"].append("five"), "has 'five', which is not among"),
        (lambda r: r["tables"]["trunk"]["rows"]["both"].update(change={"cpt": {"seed": 1}}), "it is made of its parts"),
        (
            lambda r: r["tables"]["trunk"]["rows"]["four"].update(change={"world": {"source.users": 9}}),
            "its parts stand on different corpora",
        ),
        (lambda r: r.update(seeds=[1, 1]), "each once"),
        (lambda r: r["corpora"]["world"].update(folder="x"), "give one of them"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused_before_any_work(write_study, tmp_path, change, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        plan_of(write_study, tmp_path, change)
