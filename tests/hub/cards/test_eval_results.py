"""One method's results in the forms that the Hub's own parsers read."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings

from cards.facts import hostile, model_facts, results_json
from cprec_hf.errors import InputError
from cprec_hf.hub.eval_results import eval_results_files, evaluations_of, model_index, results_of


def facts(text: str = "CPRec", **corpus: Any) -> dict[str, Any]:
    return model_facts(results=results_of(results_json(text, **corpus), text))


def test_a_methods_rows() -> None:
    rows = results_of(results_json(), "CPRec")
    assert [row["metric"] for row in rows] == ["hr@1", "hr@10", "ndcg@10"]
    assert rows[0] == {
        "domain": "CPRec", "split": "test", "candidates": 20, "score": "pmi", "metric": "hr@1", "value": 0.4,
        "low": pytest.approx(0.35), "high": pytest.approx(0.45), "n": 1158, "dataset": "user/corpus",
        "revision": "a" * 40,
    }  # fmt: skip
    baseline = results_of(results_json(location="/home/someone/corpus", revision=None), "popularity")
    assert not {"score", "dataset", "revision"} & set(baseline[0])


def test_a_study_names_a_models_evaluations_with_their_seed(tmp_path: Path) -> None:
    ours = {"study_seed": 7, **results_json("Music", location=str(tmp_path)), "domain": "Music"}
    others = {"study_seed": 8, **results_json("Art")}
    others["methods"][0]["model"] = str(tmp_path / "other")
    study = {"models": [ours, {**ours, "domain": "Art"}, others]}
    found = evaluations_of(study, Path("/home/someone/rec"), "here")
    assert [(one["domain"], name) for one, name in found] == [("Music", "Music"), ("Art", "Music")]
    assert {row["seed"] for one, name in found for row in results_of(one, name)} == {7}
    (index,) = model_index(model_facts(results=results_of(*found[0])))
    assert index["results"][0]["metrics"][0]["args"]["seed"] == 7
    with pytest.raises(InputError, match=r"here: .*nowhere is not among the models"):
        evaluations_of(study, tmp_path / "nowhere", "here")


def test_a_method_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InputError, match="no method 'CPrec'; they have CPRec, popularity, latent"):
        results_of(results_json(), "CPrec")


def test_the_files_are_read_by_the_hubs_parser() -> None:
    files = eval_results_files(facts())
    assert list(files) == [".eval_results/cprec-test.yaml"]
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/cprec-test.yaml"]))
    assert [entry.task_id for entry in entries] == ["cprec-test-hr-1", "cprec-test-hr-10", "cprec-test-ndcg-10"]
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {("user/corpus", "a" * 40)}
    assert entries[0].value == 0.4
    assert entries[0].notes == "hr@1, 95 % interval 0.35 to 0.45, 1,158 users, 20 candidates a user"


def test_results_on_a_folder_have_no_files_and_results_of_two_domains_have_two() -> None:
    assert eval_results_files(facts(location="/home/someone/corpus", revision=None)) == {}
    assert eval_results_files(model_facts()) == {}
    two = [row for domain in ("Music", "Art") for row in results_of(results_json(domain), domain)]
    assert list(eval_results_files(model_facts(results=two))) == [
        ".eval_results/music-test.yaml",
        ".eval_results/art-test.yaml",
    ]
    assert len(model_index(model_facts(results=two))[0]["results"]) == 2


def test_the_model_index_is_read_by_the_hubs_parser() -> None:
    name, results = model_index_to_eval_results(model_index(facts()))
    assert name == "rec" and [result.metric_type for result in results] == ["hr@1", "hr@10", "ndcg@10"]
    first = results[0]
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == ("user/corpus", "sft-cprec", "test")
    assert (first.dataset_revision, first.dataset_args) == ("a" * 40, {"candidates": 20})
    assert first.metric_value == 0.4 and first.metric_name == "hr@1, 95 % interval 0.35 to 0.45"
    assert first.metric_args == {"low": pytest.approx(0.35), "high": pytest.approx(0.45), "n": 1158, "score": "pmi"}
    assert model_index(model_facts()) == []


@given(hostile, hostile)
@settings(max_examples=40)
def test_hostile_text_reads_back(text: str, location: str) -> None:
    given_facts = facts(text, location=location, revision=text)
    for path, written in eval_results_files(given_facts).items():
        assert path.count("/") == 1 and ".." not in path
        assert len(parse_eval_result_entries(yaml.safe_load(written))) == 3
    _, results = model_index_to_eval_results(yaml.safe_load(yaml.safe_dump(model_index(given_facts))))
    assert [result.metric_value for result in results] == [0.4] * 3
