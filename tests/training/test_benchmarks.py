"""The benchmarks of training run, their sides agree, a second call goes on; what they measure is no test's business."""

import json
import runpy
import sys
from pathlib import Path

import datasets
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)  # a GPU machine may not have it
    monkeypatch.setattr(datasets.config, "POLARS_AVAILABLE", False)
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"))


def test_train_gpu_goes_on_where_it_stopped(script, tmp_path, capsys):
    main, path = script("train_gpu")["main"], tmp_path / "figures.json"
    main(["--toy", "--json", str(path), "--only", "llama-3.2-1b-64-ours-auto-cprec_varlen"])
    first = json.loads(path.read_text())
    names = ["llama-3.2-1b-64-ours-auto-cprec_varlen", "llama-3.2-1b-64-ours-auto-cprec_varlen-checkpointing"]
    assert list(first["cells"]) == names
    main(["--toy", "--json", str(path), "--budget-s", "0"])
    assert json.loads(path.read_text()) == first
    assert "call again" in capsys.readouterr().out
    first["cells"][names[1]] = {"error": "the lease ended"}
    path.write_text(json.dumps(first))
    figures = main(["--toy", "--json", str(path), "--only", "llama-3.2-1b-64-"])
    assert figures["cells"][names[0]] == first["cells"][names[0]]  # not run again
    assert "losses" in figures["cells"][names[1]]  # what failed is
    assert {cell["side"] for cell in figures["cells"].values()} == {"ours", "stock", "stock-docs"}
    assert all(0 <= line["largest_difference_of_losses"] < 1e-4 for line in figures["summary"])
    assert [line["checkpointing"] for line in figures["summary"]] == [False, True]
    cell = figures["cells"][names[0]]
    assert cell["tokens_per_second"] == pytest.approx(cell["tokens_read"] / cell["seconds"])
    with pytest.raises(SystemExit):
        path.write_text(json.dumps({**figures, "device": "another"}))
        main(["--toy", "--json", str(path)])
    assert "another machine" in capsys.readouterr().err


def test_the_summary_compares_with_the_fastest_stock(script):
    def cell(side, speed, losses, **keys):
        shape = {"model": "m", "length": 8, "checkpointing": False, "attention": "sdpa", "head": "auto", "tokens": None}
        memory = {"mfu": speed / 100, "peak_memory_bytes": 1000 / speed}
        return {**shape, "side": side, "tokens_per_second": speed, "losses": losses, **memory, **keys}

    cells = [
        cell("stock", 10.0, [3.0, 2.0]),
        cell("stock", 20.0, [3.0, 2.0], attention="flex_attention"),
        cell("stock-docs", 90.0, [9.0, 9.0]),
        cell("ours", 30.0, [3.0, 2.01], head="trl"),
        cell("ours", 25.0, [3.002, 2.0]),
        {"model": "m", "length": 8, "checkpointing": True, "tokens": None, "side": "ours", "out_of_memory": True},
    ]
    (line,) = script("train_gpu")["summary"](cells)
    assert (line["stock"], line["ours"], line["times_as_fast"]) == ("flex_attention", "trl, sdpa", 1.5)
    assert (line["mfu"], line["stock_mfu"]) == (0.3, 0.2)
    assert line["memory_share"] == pytest.approx(20 / 30)
    assert line["largest_difference_of_losses"] == pytest.approx(0.01)


def test_documents_are_as_long_as_they_may_be(script):
    import numpy as np

    documents = script("train_gpu")["documents"](20_000, 512, 1000)
    lengths = np.array([len(row) for row in documents["input_ids"]])
    assert lengths.min() >= 32
    assert lengths.max() <= 512
    assert 20_000 <= lengths.sum() < 20_000 + 512
    ids = np.concatenate(documents["input_ids"])
    assert ids.min() >= 3
    assert ids.max() < 1000


def test_train_cpu_agrees_with_stock(script, tmp_path):
    path = tmp_path / "figures.json"
    figures = script("train_cpu")["main"](["--toy", "--json", str(path)])
    assert json.loads(path.read_text()) == figures
    sides = figures["shapes"]["toy"]
    assert list(sides)[:2] == ["stock TRL, packed", "ours"]
    assert all(side["largest_difference_of_losses"] < 1e-4 for side in sides.values())


def test_listwise_sides_agree(script, tmp_path):
    path = tmp_path / "figures.json"
    figures = script("listwise")["main"](["--toy", "--json", str(path)])
    assert json.loads(path.read_text()) == figures
    for k, found in figures["k"].items():
        assert list(found["sides"]) == ["rows, TRL", "rows", "mask", "segments"]
        assert all(max(side["scores_differ"], side["gradients_differ"]) < 1e-4 for side in found["sides"].values())
        # 2 histories of 4 items of 14 tokens, 3 targets each; no last token is read.
        trunk, lists = 10 + 4 * 14 - 1, 6
        assert found["sides"]["segments"]["tokens"] == 2 * trunk + lists * int(k) * 13
        assert found["sides"]["rows"]["tokens"] == 2 * (1 + int(k)) * sum(10 + 14 * n + 13 for n in (1, 2, 3))


def test_listwise_quality_compares_arms_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    path = tmp_path / "figures.json"
    main = runpy.run_path(str(FOLDER / "listwise_quality.py"))["main"]
    figures = main(["--toy", "--json", str(path)])
    assert json.loads(path.read_text()) == figures
    assert [cell["arm"] for cell in figures["cells"].values()] == ["sft", "listwise", "sft", "listwise"]
    assert figures["result"]["chosen"].keys() == {"sft", "listwise"}
    assert figures["result"]["sum hr@1"].keys() >= {"n", "sft", "listwise", "difference", "low", "high", "p"}
