"""The cosine of titles against plain loops, and its choice on validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.evaluation.methods import Task, measure_method
from cprec_hf.evaluation.rows import Catalogue, Rows
from cprec_hf.evaluation.title_cosine import TITLE_COSINE_GRID, title_cosine, unit

IDS = [f"i{n}" for n in range(7)]


def make_rows(histories: list[list[int]], candidates: list[list[int]] | None) -> Rows:
    columns = {
        "user_id": pa.array([f"u{i}" for i in range(len(histories))]),
        "history": pa.array([[IDS[i] for i in h] for h in histories], pa.list_(pa.string())),
        "target": pa.array([IDS[c[0]] for c in candidates or [[0]] * len(histories)]),
    }
    if candidates:
        columns["candidates"] = pa.array([[IDS[i] for i in c] for c in candidates], pa.list_(pa.string()))
    column = "candidates" if candidates else None
    return Rows.from_table(pa.table(columns), Catalogue(pa.array(IDS), pa.array(IDS)), "toy", column)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=4),
    st.sampled_from([1, 2, 1000]),
    st.booleans(),
    st.integers(0, 99),
)
def test_cosines_equal_plain_loops(histories: list[list[int]], last: int, whole: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(7, 3)))
    candidates = None if whole else [rng.permutation(7)[:3].tolist() for _ in histories]
    found = title_cosine(vectors, make_rows(histories, candidates), last)
    for i, history in enumerate(histories):
        recent = {*history[-last:]}
        mean = sum((vectors[item] for item in recent), np.zeros(3))
        for j, item in enumerate(range(7) if candidates is None else candidates[i]):
            length = np.linalg.norm(mean)
            expected = mean @ vectors[item] / length if length > 1e-6 else 0
            assert found[i, j] == pytest.approx(expected, abs=1e-4)


def test_the_setting_is_chosen_from_the_declared_grid(
    corpus: Path, tmp_path: Path, byte_level_tokenizer: Any, tiny_model: Callable[..., Any]
) -> None:
    tiny_model(byte_level_tokenizer).save_pretrained(tmp_path / "m")
    byte_level_tokenizer.save_pretrained(tmp_path / "m")
    method = MethodConfig("cosine", "embedding", str(tmp_path / "m"))
    task = Task.load(EvaluateConfig(corpus=str(corpus), domain="Music", output="x", methods=[method], k=[1, 5]))
    found = measure_method(method, task)
    assert len(found.record["grid"]) == len(TITLE_COSINE_GRID) and found.record["hidden_size"] == 32
    assert found.record["validation"] == max(row["validation"] for row in found.record["grid"])
    assert found.metrics["hr@5"].mean() > 0.75  # 5 of 6 by chance; titles share words with the history


@pytest.mark.parametrize("kind", ["embedding", "sasrec_llm"])
def test_the_kinds_that_read_titles_need_a_model_and_take_no_score(kind: Any) -> None:
    with pytest.raises(InputError, match="give `model`"):
        MethodConfig("m", kind)
    with pytest.raises(InputError, match="takes no `score`"):
        MethodConfig("m", kind, "a", score="mean")
    with pytest.raises(InputError, match="takes no `model`"):
        MethodConfig("m", "sasrec", "a")
