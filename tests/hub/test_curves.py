"""What a run logged is read with its phases, and its learning rate is drawn, the same bytes each time."""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from cprec_hf.errors import InputError
from cprec_hf.hub.curves import PHASES, Curve, draw_learning_rate

WSA = {"type": "wsa", "warmup_steps": 10, "stable_steps": 70, "anneal_steps": 20}


def write_log(folder: Path, steps: range, schedule: dict[str, Any] | None = None) -> Path:
    """A run's log, each line with the phase of its step; with a schedule, the record of a finished run too."""
    folder.mkdir(exist_ok=True)
    lines = []
    for step in steps:
        phase = "warmup" if step <= 10 else "stable" if step <= 80 else "anneal"
        rate = 1e-3 * min(1, step / 10, 5 - step / 20)
        lines.append({"step": step, "loss": 2.0, "learning_rate": rate, "phase": phase, "tokens": 64 * step})
        lines.append({"step": step, "eval_loss": 1.5})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if schedule is not None:
        (folder / "cprec.json").write_text(json.dumps({"stage": "cpt", "schedule": schedule}))
    return folder / "log.jsonl"


def drawn(log: Path) -> np.ndarray:
    """The picture's pixels, [height, width, 3] from 0 to 255."""
    return np.round(matplotlib.image.imread(io.BytesIO(draw_learning_rate(log)))[:, :, :3] * 255).astype(int)


def shaded(picture: np.ndarray, phase: str) -> int:
    """The number of pixels in a phase's shade: its colour at 45 % over white."""
    colour = np.array([int(PHASES[phase][i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture - (0.45 * colour + 0.55 * 255)) < 2).all(axis=2).sum())


def test_the_phases_of_a_finished_run_are_those_of_its_schedule(tmp_path: Path) -> None:
    curve = Curve.from_log(write_log(tmp_path / "trunk", range(7, 99, 7), WSA))
    assert curve.phases == [("warmup", 0.0, 10.0), ("stable", 10.0, 80.0), ("anneal", 80.0, 98.0)]
    assert curve.label == "cpt (trunk)"
    steps, rates = curve.series("learning_rate")
    assert steps.tolist() == list(range(7, 99, 7)) and rates[0] == pytest.approx(7e-4)
    assert Curve.read(tmp_path / "trunk").phases == curve.phases
    anneal = Curve.from_log(write_log(tmp_path / "anneal", range(85, 101, 5), WSA))
    assert anneal.phases == [("anneal", 80.0, 100.0)]


def test_the_phases_of_a_running_one_are_those_of_its_log(tmp_path: Path) -> None:
    curve = Curve.from_log(write_log(tmp_path / "run", range(5, 101, 5)))
    assert curve.phases == [("warmup", 0.0, 10.0), ("stable", 10.0, 80.0), ("anneal", 80.0, 100.0)]
    assert curve.label == "run"
    anneal = Curve.from_log(write_log(tmp_path / "anneal", range(85, 101, 5)))
    assert anneal.phases == [("anneal", 80.0, 100.0)]


def test_the_picture_shades_the_phases_it_has_and_is_the_same_twice(tmp_path: Path) -> None:
    log = write_log(tmp_path / "run", range(5, 101, 5))
    assert draw_learning_rate(log) == draw_learning_rate(log)
    areas = [shaded(drawn(log), phase) for phase in PHASES]
    assert areas[1] / areas[0] == pytest.approx(7, rel=0.15) and areas[1] / areas[2] == pytest.approx(3.5, rel=0.15)
    constant = write_log(tmp_path / "sft", range(5, 101, 5), {"type": "constant"})
    assert [shaded(drawn(constant), phase) for phase in PHASES] == [0, 0, 0]


@pytest.mark.parametrize(
    ("log", "record", "message"),
    [
        (None, None, "no such file"),
        ("{}\n", None, "line 1"),
        ('{"step": 1}\noops', None, "line 2"),
        ("7", None, "line 1"),
        ('{"step": 1}', None, "no line has a `learning_rate`"),
        ("", None, "no line has a `learning_rate`"),
        ('{"step": 1, "learning_rate": 1}', "{", "cprec.json: expected a JSON object with `stage`"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path: Path, log: str | None, record: str | None, message: str) -> None:
    for name, text in (("log.jsonl", log), ("cprec.json", record)):
        if text is not None:
            (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        draw_learning_rate(tmp_path / "log.jsonl")
