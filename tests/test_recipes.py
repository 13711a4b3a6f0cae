"""Every shipped recipe parses, is short, and opens with a line that says hardware and what to expect."""

from pathlib import Path

import pytest

from cprec_hf.errors import InputError
from cprec_hf.recipes import read_recipe, read_yaml, shipped

RECIPES = sorted(path for path in shipped("recipes").glob("*/*.yaml"))
NAMES = [f"{path.parent.name}/{path.name}" for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_recipe(path: Path, monkeypatch):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# ") and not lines[1].startswith("#")
    monkeypatch.setenv("CPREC_AMAZON", "unused")
    monkeypatch.setenv("CPREC_LOGS", "unused")
    monkeypatch.setenv("CPREC_BILIBILI", "unused")
    if path.parent.name == "accelerate":
        assert read_yaml(path)["num_processes"] >= 1
    elif path.stem.startswith("corpus") or path.parent.name == "sources":
        from cprec_hf.behaviors.sources import source_config
        from cprec_hf.corpus.config import CorpusConfig

        config = read_recipe(path, CorpusConfig)
        assert config.downstream and source_config(config.source, str(path))
    elif path.stem.startswith("evaluate"):
        from cprec_hf.evaluation.config import EvaluateConfig

        assert read_recipe(path, EvaluateConfig).methods
    elif path.stem.startswith("table"):
        from cprec_hf.evaluation.study.config import Table

        assert read_recipe(path, Table).methods
    elif path.stem == "predict":
        from cprec_hf.ranking.predict import PredictConfig

        assert read_recipe(path, PredictConfig).shard_users > 0
    elif path.stem == "hub":
        from cprec_hf.hub.recipe import HubConfig

        assert read_recipe(path, HubConfig).push
    else:
        import trl

        from cprec_hf.training import arguments as a

        cls = {"base": a.BaseArguments, "cpt": a.CptArguments, "anneal": a.AnnealArguments, "sft": a.SftArguments}
        cls |= {"preference": a.PreferenceArguments, "pointwise": a.PointwiseArguments, "listwise": a.ListwiseArguments}
        config = trl.DPOConfig if (kind := path.stem.split("-")[0]) == "preference" else trl.SFTConfig
        stage, training, _, _ = a.parse_stage(kind, cls[kind], ["--config", str(path)], config)
        assert training.output_dir == read_yaml(path)["output_dir"]
        assert stage.corpus == read_yaml(path)["corpus"]


@pytest.mark.parametrize("path", sorted(shipped("recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_study(path: Path, monkeypatch):
    """A study's plan stands, with every table, and `--quick` is part of it."""
    from cprec_hf.evaluation.study.config import read_study
    from cprec_hf.evaluation.study.plan import make_plan

    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# ") and not lines[1].startswith("#")
    study = read_study(path)
    plan = make_plan(study)
    assert {place.table for place in plan.places} == {*study.tables}
    assert study.quick is None or make_plan(study, quick=True).cells.keys() <= plan.cells.keys()


def test_the_stages_of_a_recipe_folder_hand_on_to_each_other():
    """Every folder a recipe reads is one that a recipe of its folder writes, or the corpus of another folder."""
    folders = sorted({path.parent.name for path in RECIPES} - {"accelerate"})
    assert {"tiny", "amazon-small", "qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b", "qwen3-8b"} <= set(folders)
    corpora = {read_yaml(path)["output"] for path in RECIPES if path.name == "corpus.yaml"}
    for name in folders:
        values = {path.stem: read_yaml(path) for path in (shipped("recipes") / name).glob("*.yaml")}
        written = corpora | {v.get("output_dir", v.get("output")) for v in values.values()}
        keys = ("corpus", "model_name_or_path", "init_from")
        read = {v[key] for v in values.values() for key in keys if key in v and "outputs/" in v[key]}
        read |= {
            m["model"]
            for stem, v in values.items()
            if stem[:8] == "evaluate"
            for m in v["methods"]
            if "outputs/" in m.get("model", "")
        }
        assert read <= written, name
        for predict in (v for stem, v in values.items() if stem == "predict"):
            assert predict["model"] in written and predict["input"].split("/sft-")[0] in written, name


def test_every_kind_of_source_has_a_recipe():
    from cprec_hf.behaviors.sources import KINDS

    corpora = [read_yaml(path) for path in RECIPES if path.stem.startswith("corpus") or path.parent.name == "sources"]
    assert {values["source"]["kind"] for values in corpora} == set(KINDS)
    assert {path.stem for path in RECIPES if path.parent.name == "sources"} <= set(KINDS)


def test_an_unknown_key_names_the_nearest(tmp_path):
    from cprec_hf.corpus.config import CorpusConfig
    from cprec_hf.training.arguments import CptArguments, parse_stage

    corpus = tmp_path / "corpus.yaml"
    corpus.write_text("name: x\nwindow_token: 5\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown key `window_token`; did you mean `window_tokens`"):
        read_recipe(corpus, CorpusConfig)
    cpt = tmp_path / "cpt.yaml"
    cpt.write_text("corpus: c\noutput_dir: o\nlearning_rat: 1\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown key `learning_rat`; did you mean `learning_rate`"):
        parse_stage("cpt", CptArguments, ["--config", str(cpt)])
