"""Plots are drawn whatever the names; curves are read from what a stage leaves."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.evaluation.plots import Curve, plot_comparison, plot_learning_rates, plot_losses, plot_reliability

WSA = {"type": "wsa", "warmup_steps": 10, "stable_steps": 70, "anneal_steps": 20}
HOSTILE = "$\\frac{1}{$ <b>| [x](http://a) \x00\n" + "long " * 30


def write_stage(folder: Path, first: int, last: int, schedule: dict[str, Any]) -> Path:
    """A stage's folder: logs every 5 steps from `first` to `last`, one evaluation at the end."""
    folder.mkdir()
    steps = range(first, last + 1, 5)
    lines: list[dict[str, Any]] = [
        {"step": s, "loss": 4 / (1 + s / 20), "learning_rate": 1e-3 * min(1, s / 10), "phase": "x", "tokens": 2048 * s}
        for s in steps
    ]
    lines.append({"step": last, "eval_loss": 1.5})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ModelRecord(
        stage="cpt", base="b", template_version="1", max_title_tokens=8, history_length=5, domain=None, corpus="c",
        corpus_revision=None, corpus_hash="h", schedule=schedule, tokens=1, seed=0, parents=[],
    ).save(folder)  # fmt: skip
    return folder


def test_a_curve_holds_what_was_logged(tmp_path: Path) -> None:
    curve = Curve.read(write_stage(tmp_path / "trunk", 5, 100, WSA))
    steps, losses = curve.series("loss")
    assert steps.tolist() == list(range(5, 101, 5)) and losses[3] == 4 / 2
    assert [series.tolist() for series in curve.series("eval_loss")] == [[100.0], [1.5]]
    assert curve.series("tokens")[1][-1] == 204800
    assert curve.phases == [("warmup", 0.0, 10.0), ("stable", 10.0, 80.0), ("anneal", 80.0, 100.0)]
    assert curve.label == "cpt (trunk)"


def test_an_anneal_shows_only_the_steps_it_ran(tmp_path: Path) -> None:
    curve = Curve.read(write_stage(tmp_path / "anneal", 85, 100, WSA))
    assert curve.phases == [("anneal", 80.0, 100.0)]


def test_a_schedule_without_phases_is_drawn_without(tmp_path: Path) -> None:
    assert Curve.read(write_stage(tmp_path / "sft", 5, 20, {"type": "constant"})).phases == []


@pytest.mark.parametrize(
    ("log", "message"), [(None, "no such file"), ("{}\n", "line 1"), ('{"step": 1}\noops', "line 2"), ("7", "line 1")]
)
def test_a_missing_or_broken_log_is_named(tmp_path: Path, log: str | None, message: str) -> None:
    if log is not None:
        (tmp_path / "log.jsonl").write_text(log)
    with pytest.raises(InputError, match=message):
        Curve.read(tmp_path)


def method(name: str, kind: str, mean: float) -> dict[str, Any]:
    value = {"mean": mean, "low": mean - 0.03, "high": mean + 0.03}
    return {"name": name, "kind": kind, "metrics": {"hr@1": value, "ndcg@10": value}}


def test_every_picture_is_drawn_and_the_same_twice(tmp_path: Path) -> None:
    curve = Curve.read(write_stage(tmp_path / "a$b_{", 5, 100, WSA))
    methods = [method("oracle", "latent_oracle", 0.6), method(HOSTILE, "model", 0.3), method("popularity", "x", 0.1)]
    results = {"k": [1, 10], "methods": methods}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plot_comparison(results, tmp_path / name / "comparison.png")
        plot_learning_rates([curve, curve], tmp_path / name / "rates.png")
        plot_losses([curve], tmp_path / name / "losses.png")
    for file in ("comparison.png", "rates.png", "losses.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert len(np.unique(matplotlib.image.imread(tmp_path / "one" / file).reshape(-1, 4), axis=0)) > 20


def calibrated(name: str, tempered: bool) -> dict[str, Any]:
    line = {"ece": 0.1, "bins": [{"confidence": 0.1 * i, "right": 0.08 * i, "share": 0.2} for i in range(1, 6)]}
    calibration: dict[str, Any] = {"as_scored": line, "temperature": 0.5 if tempered else None}
    return {"name": name, "calibration": {**calibration, **({"tempered": line} if tempered else {})}}


def test_reliability_has_a_panel_a_method(tmp_path: Path) -> None:
    sizes = []
    for n in (1, 5):
        methods = [calibrated(HOSTILE, tempered=i % 2 == 0) for i in range(n)] + [{"name": "popularity"}]
        for file in ("one.png", "two.png"):
            plot_reliability({"methods": methods}, tmp_path / file)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
        sizes.append(matplotlib.image.imread(tmp_path / "one.png").shape[:2])
    assert sizes[1][0] > 1.8 * sizes[0][0] and sizes[1][1] > 2.5 * sizes[0][1]  # two rows of four


def test_bars_are_as_long_as_the_means(tmp_path: Path) -> None:
    short = {"k": [1, 10], "methods": [method("a", "model", 0.2), method("b", "model", 0.8)]}
    plot_comparison(short, tmp_path / "c.png")
    picture = matplotlib.image.imread(tmp_path / "c.png")[:, :, :3]
    blue = (np.abs(picture - np.array([0x2B, 0x6C, 0xB0]) / 255) < 0.02).all(axis=2)
    lengths = blue[:, : picture.shape[1] // 2].sum(axis=1)
    bars = sorted({n for n in np.unique(lengths) if (lengths == n).sum() > 5 and n > 0})
    assert bars[-1] / bars[0] == pytest.approx(4.0, rel=0.15)
