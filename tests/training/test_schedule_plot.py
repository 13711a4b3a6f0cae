"""`--plot-schedule`: the numbers against what runs logged and schedulers gave, and the picture's own pixels."""

import json
import shutil
import struct

import pytest
import torch
import transformers
from transformers.trainer_utils import SchedulerType

from cprec_hf import cli
from cprec_hf.errors import InputError
from cprec_hf.recipes import shipped
from cprec_hf.training import anneal, cpt, schedule_plot
from cprec_hf.training.arguments import STAGES
from training.runs import BRANCH, log_lines

RUN = {"max_steps": 8, "warmup_steps": 2}
OPTIONS = {
    "warmup_stable_decay": {"num_decay_steps": 3},
    "cosine_with_min_lr": {"min_lr": 0.001},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "wsa": {"num_anneal_steps": 3, "anneal_shape": "exponential", "half_life_steps": 0.5},
}
FIXED = [t.value for t in SchedulerType if t.value not in ("reduce_lr_on_plateau", "greedy")]


@pytest.fixture
def plot(flags, tmp_path):
    """`plot("cpt", max_steps=4)`: the numbers beside the picture of a recipe of those flags, drawn by the CLI."""

    def run(stage, **values):
        verb = ["anneal"] if stage == "anneal" else ["train", stage]
        given = {"output_dir": tmp_path / "never"} | values
        assert cli.main([*verb, *flags("never", **given), "--plot-schedule", str(tmp_path / "s.png")]) == 0
        assert not (tmp_path / "never").exists()
        assert sorted(p.name for p in tmp_path.glob("*s.png*")) == ["s.png", "s.png.json"]
        assert (tmp_path / "s.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        return json.loads((tmp_path / "s.png.json").read_text())

    return run


@pytest.mark.parametrize("name", FIXED)
def test_the_rates_are_those_of_the_scheduler_step_by_step(plot, name):
    options = OPTIONS.get(name, {})
    got = plot("cpt", **RUN, lr_scheduler_type=name, lr_scheduler_kwargs=options, corpus="/nowhere", learning_rate=0.02)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    scheduler = transformers.get_scheduler(name, optimizer, 2, 8, options)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert got["rates"] == pytest.approx(expected, abs=1e-15)
    assert (got["stage"], got["schedule"], got["first_step"], got["last_step"]) == ("cpt", name, 1, 8)
    phases = [("warmup", 1, 2), ("stable", 3, 5), ("anneal", 6, 8)] if name == "wsa" else []
    assert [(p["name"], p["first_step"], p["last_step"]) for p in got["phases"]] == phases


def test_a_trunk_and_its_anneal_log_what_was_drawn(flags, plot):
    """An adapter's too, and of an anneal from its trunk's step on; its mixture is its own."""
    drawn = plot("cpt", **RUN, use_peft="true", lora_r=2, mixture={"domain": 3, "items": 1})
    trunk = cpt.main(flags("trunk", **RUN, use_peft="true", lora_r=2, save_steps=6))
    assert drawn["rates"] == pytest.approx([line["learning_rate"] for line in log_lines(trunk)])
    assert drawn["mixture"] == dict.fromkeys(("warmup", "stable"), {"domain": 0.75, "items": 0.25})  # noqa: RUF024
    shape = {"anneal_shape": "inverse-proportional", "min_lr_ratio": 0.1}
    options = {**BRANCH, "init_from": trunk / "checkpoint-6", "anneal_steps": 4, "lr_scheduler_kwargs": shape}
    drawn = plot("anneal", **options, mixture={"all_domain": 1})
    branch = anneal.main(flags("branch", **options, mixture={"all_domain": 1}))
    lines = log_lines(branch)
    assert drawn["rates"] == pytest.approx([line["learning_rate"] for line in lines])
    assert (drawn["first_step"], drawn["last_step"], drawn["unit"]) == (7, 10, "learning rate")
    assert drawn["phases"] == [{"name": "anneal", "first_step": 7, "last_step": 10}]
    assert drawn["mixture"] == {"anneal": {"all_domain": 1.0}}
    assert [line["step"] for line in lines] == [7, 8, 9, 10]

    alone = plot("anneal", **{**options, "init_from": "/nowhere"})
    assert (alone["first_step"], alone["unit"]) == (1, "share of the trunk's peak")
    assert alone["rates"] == pytest.approx([line["learning_rate"] / 0.01 for line in lines])


def test_an_anneal_from_the_hub_is_drawn_from_the_trunks_record_alone(flags, hub_machine, tmp_path):
    trunk = cpt.main(flags("trunk", **RUN))
    (tmp_path / "record").mkdir()
    shutil.copy(trunk / "checkpoint-8" / "cprec.json", tmp_path / "record")
    repo, commit = hub_machine.push(tmp_path / "record", "trunk")
    line = [*flags("out", **BRANCH, anneal_steps=2), "--from", f"{repo}@{commit}", f"--plot-schedule={tmp_path}/s.png"]
    code = (
        "import json, sys; from cprec_hf import cli; print(json.dumps(cli.main(['anneal', *json.loads(sys.argv[1])])))"
    )
    assert hub_machine.run(code, json.dumps(line)) == 0
    drawn = json.loads((tmp_path / "s.png.json").read_text())
    expected = [0.01 * (1 - (k / 3) ** 0.5) for k in (1, 2)]
    assert (drawn["first_step"], drawn["rates"]) == (9, pytest.approx(expected))


@pytest.mark.parametrize(
    "name", ["base", "cpt", "anneal", "sft", "sft-only-long", "preference", "pointwise", "listwise"]
)
def test_shipped_recipes_are_drawn_without_their_inputs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stage = name.split("-")[0]
    recipe = str(shipped("recipes") / "tiny" / f"{name}.yaml")
    verb = ["anneal"] if stage == "anneal" else ["train", stage]
    assert cli.main([*verb, f"--plot-schedule={name}.png", "--config", recipe]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.png", f"{name}.png.json"]
    assert "nothing was trained" in capsys.readouterr().out


def test_phases_and_mixture_are_in_the_picture(plot, tmp_path):
    """Each phase's colour is as wide as its steps, and each kind's as high as its share."""
    by_phase = {"stable": {"domain": 1}, "anneal": {"domain": 1, "items": 3}}
    options = {"max_steps": 100, "warmup_steps": 20, "lr_scheduler_kwargs": {"anneal_ratio": 0.3}}
    plot("cpt", **options, mixture=by_phase)
    from matplotlib.image import imread

    pixels = (imread(tmp_path / "s.png")[:, :, :3] * 255).round().astype(int)
    height, width = struct.unpack(">II", (tmp_path / "s.png").read_bytes()[16:24])[::-1]
    assert pixels.shape == (height, width, 3)

    def share(row, colours):
        found = [(abs(row - colour).max(-1) <= 2).sum() for colour in colours]
        return [n / sum(found) for n in found]

    def blended(colour):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return [round(0.45 * c + 0.55 * 255) for c in rgb]

    from cprec_hf.hub.curves import PHASES

    top = pixels[height // 3]
    assert share(top, [blended(c) for c in PHASES.values()]) == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    kinds = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in schedule_plot._KINDS[:2]]
    xs = [x for x in range(width) if (abs(top[x] - blended(PHASES["anneal"])).max() <= 2)]
    column = pixels[height // 2 :, xs[len(xs) // 2]]
    assert share(column, kinds) == pytest.approx([0.25, 0.75], abs=0.03)


def test_what_cannot_be_drawn(flags, tmp_path):
    def refused(match, png="s.png", **change):
        with pytest.raises(InputError, match=match):
            schedule_plot.main("cpt", [*flags("out", **change), "--plot-schedule", str(tmp_path / png)])

    refused("needs the path of a PNG to write, not", png="s.jpg")
    with pytest.raises(InputError, match=r"needs the path of a PNG to write$"):
        schedule_plot.main("cpt", [*flags("out"), "--plot-schedule"])
    refused(r"counts tokens \(`token_budget: 9`\).*give `--max_steps`", max_steps=None, token_budget=9)
    refused(r"counts epochs \(`num_train_epochs: 2`\).*give `--max_steps`", max_steps=None, num_train_epochs=2)
    refused("follows the loss", lr_scheduler_type="greedy", eval_strategy="steps", eval_steps=1)
    refused("do not fit in a run of 4 steps", warmup_steps=3, lr_scheduler_kwargs={"num_anneal_steps": 2})
    refused("unknown key `warmup_step`", warmup_step=3)
    refused("the weight of domain is -1", mixture={"domain": -1})
    (tmp_path / "taken").touch()
    refused("taken is a file", png="taken/s.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]


def test_every_stage_of_the_command_line_is_known():
    assert set(STAGES) == {*cli.STAGES, "anneal"}
