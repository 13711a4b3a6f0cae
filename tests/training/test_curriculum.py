"""The recipes that ablate the curriculum, each run at toy size: equally many tokens, of the kinds they say."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.controls import CONTROLS
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.recipes import read_yaml, shipped
from cprec_hf.training import cpt

RECIPES = {
    path.stem: values
    for path in sorted((shipped("recipes") / "tiny").glob("cpt-*.yaml"))
    if "token_budget" in (values := read_yaml(path))
}
BUDGET = 700


@pytest.fixture(scope="module")
def controlled(corpus, tmp_path_factory):
    """The corpus with every control: here no more than another name for a document."""
    folder = shutil.copytree(corpus, tmp_path_factory.mktemp("controlled") / "corpus")
    rows = pq.read_table(folder / "cpt" / "train.parquet").to_pylist()
    rows += [{**row, "kind": control} for control, kind in CONTROLS.items() for row in rows if row["kind"] == kind]
    pq.write_table(pa.Table.from_pylist(rows), folder / "cpt" / "train.parquet")
    return folder


def test_there_is_one_for_each_knob():
    knobs = {kind for values in RECIPES.values() for kind in values.get("mixture", {})}
    assert knobs == {"domain", "all_domain", "items", "replay", *CONTROLS}
    assert any("domain_temperature" in values for values in RECIPES.values())
    shared = [{k: v for k, v in values.items() if k not in _OWN} for values in RECIPES.values()]
    assert all(values == shared[0] for values in shared)  # nothing else tells them apart


_OWN = ("corpus", "output_dir", "mixture", "domain_temperature", "replay")


@pytest.mark.parametrize("name", RECIPES)
def test_it_runs(name, controlled, base_model, tmp_path):
    here = {"corpus": controlled, "model_name_or_path": base_model, "output_dir": tmp_path / name}
    here |= {"token_budget": BUDGET, "warmup_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "no"}
    if "replay" in RECIPES[name]:
        (tmp_path / "texts.txt").write_text("The sea was calm.\n\nNobody was at the harbour.\n")
        here["replay"] = json.dumps(RECIPES[name]["replay"] | {"dataset": str(tmp_path / "texts.txt")})
    flags = [part for key, value in here.items() for part in (f"--{key}", str(value))]
    record = ModelRecord.load(cpt.main(["--config", f"tiny/{name}.yaml", *flags]))
    assert record.tokens == BUDGET
    read = {kind.partition("/")[0] for kind in record.schedule["data"]["rows"]}
    assert read == RECIPES[name]["mixture"].keys()
