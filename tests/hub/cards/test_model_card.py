"""The model card: every fact in the text and the metadata, code that is Python whatever the names, no local path."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings

from cards.facts import HOSTILE, elements, key_paths, metadata, model_facts, names, python_of, results_json
from cprec_hf.hub.eval_results import results_of
from cprec_hf.hub.model_card import render_model_card

ROWS = results_of(results_json("Toys & Games"), "Toys & Games")
FULL = {
    "repo_id": "user/rec", "results": ROWS, "training": {"steps": 60, "skipped": None, "last_loss": 1.25},
    "hardware": "2 CPU cores", "schedule_picture": "learning_rate.png", "record": {"licences": ["Apache-2.0"]},
}  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        'Recommender.from_pretrained("user/rec")',
        'domain = "Toys & Games"',
        'recommender.recommend([history], k=5, domain=domain, score="pmi")',
        "| Toys &amp; Games | test | 20 | pmi | hr@1 | 0.4 | 0.35 to 0.45 | 1,158 |",
        "Chance would give an hr@1 of 0.05 among 20 candidates.",
        "The learning rate rises (warmup), stays (stable) and falls (anneal).\n\n| learning rate |  |\n",
        "Evaluated on user/corpus at commit `" + "a" * 40 + "`.",
        "- Base model: user/base; models before it, the base first: user/base, user/cpt.",
        "- Corpus: user/corpus at commit `" + "a" * 40 + "`, content SHA-256 `" + "cd" * 32 + "`.",
        "- Template version 1; titles cut at 24 tokens; histories of at most 20 items.",
        "- Stage: sft (supervised fine-tuning on one domain); 123,456 tokens in this stage, seed 0.",
        "- Hardware: 2 CPU cores.",
        "- Licence of what it was made from: Apache-2.0.",
        "| schedule | wsa |\n| warmup | 10 |",
        "![Learning rate over the steps of this stage](learning_rate.png)",
        "| steps | 60 |\n| last training loss, nats a token | 1.25 |",
        "## Intended use",
        "## Limits",
    ],
)
def test_the_card_says_its_facts(said: str) -> None:
    assert said in render_model_card(model_facts(**FULL))


def test_the_metadata() -> None:
    card = ModelCard(render_model_card(model_facts(**FULL)))
    data = card.data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0",
        "base_model": "user/base", "datasets": ["user/corpus"],
        "tags": ["cprec", "recommendation", "sequential-recommendation", "sft"],
    }  # fmt: skip
    (result,) = index[0]["results"]
    assert index[0]["name"] == "rec" and result["dataset"]["type"] == "user/corpus"
    assert [m["type"] for m in result["metrics"]] == ["hr@1", "hr@10", "ndcg@10"]
    adapter = ModelCard(render_model_card(model_facts(adapter=True))).data
    assert adapter.library_name == "peft" and adapter.eval_results is None


def test_a_model_on_a_branch_made_from_one_on_a_branch() -> None:
    record = {"base": "user/trunk@trunk-step-9", "parents": ["user/base", "user/trunk@trunk-step-9"]}
    card = render_model_card(model_facts(repo_id="user/rec", branch="v2", record=record))
    assert 'Recommender.from_pretrained("user/rec", revision="v2")' in card
    assert "- Base model: user/trunk@trunk-step-9; models before it, the base first: user/base, user/trunk@" in card
    assert metadata(card)["base_model"] == "user/trunk"
    assert "revision=" not in render_model_card(model_facts(repo_id="user/rec", branch="main"))


def test_a_checkpoint_without_items_says_how_to_train_on() -> None:
    facts = model_facts(
        repo_id="user/rec", branch="trunk-step-90", items=False, record={"schedule": {"type": "wsa", "step": 90}}
    )
    card = render_model_card(facts)
    compile(python_of(card), "card", "exec")
    assert '"--model_name_or_path", "user/rec",\n    "--model_revision", "trunk-step-90",\n' in card
    assert "recommender.recommend" not in card and "items.parquet" not in card and "cprec anneal" not in card
    card = render_model_card(facts | {"resume_state": True})
    flags = "--corpus user/corpus --anneal_steps 9 --output_dir annealed"
    assert f"```bash\ncprec anneal --from user/rec@trunk-step-90 {flags}\n```\n" in card
    local = render_model_card(model_facts(items=False, record={"corpus": "/home/someone/c"}))
    assert '"path/to/this/folder"' in local and '"--corpus", "path/to/the/corpus"' in local


def test_what_the_schedule_says_of_the_data_stands_row_by_row() -> None:
    schedule = {"type": "wsa", "data": {"rows": 7115, "kinds": ["domain", "all_domain"], "item_share": None, "seed": 7}}
    card = render_model_card(model_facts(record={"schedule": schedule}))
    rows = "| schedule | wsa |\n| data: rows | 7,115 |\n| data: kinds | domain, all\\_domain |\n| data: seed | 7 |"
    assert rows in card


def test_what_is_not_known_is_not_said() -> None:
    card = render_model_card(model_facts())
    for unknown in ("skipped", "Hardware", "Licence", "## Results", "![", "None", "score=", "adapter"):
        assert unknown not in card
    assert "license" not in metadata(card) and "model-index" not in metadata(card)


@pytest.mark.parametrize(
    ("stage", "domain", "said"),
    [
        ("base", None, "and nothing of what users do"),
        ("cpt", None, "A trunk: a language model in the midst"),
        ("anneal", None, "meant to be fine-tuned on one"),
        ("sft", "Music", "recommends items of Music"),
    ],
)
def test_each_stage_says_what_it_is(stage: str, domain: str | None, said: str) -> None:
    card = render_model_card(model_facts(record={"stage": stage, "domain": domain}))
    assert said in card and metadata(card)["tags"][-1] == stage
    assert ("recommender.domains[0]" in card) == (domain is None)
    assert ("made to be trained further" in card) == (stage != "sft")


@pytest.mark.parametrize(("step", "trunk"), [(100, True), (750, True), (751, False), (900, False)])
def test_a_run_through_all_phases_is_a_trunk_until_it_anneals(step: int, trunk: bool) -> None:
    schedule = {"type": "wsa", "warmup_steps": 30, "stable_steps": 720, "anneal_steps": 150, "step": step}
    card = render_model_card(model_facts(record={"stage": "cpt", "domain": None, "schedule": schedule}))
    assert ("A trunk: a language model in the midst" in card) == ("not yet annealed)" in card) == trunk
    assert ("Stage: cpt (continual pre-training, finished)" in card) == (not trunk)


def test_the_mean_of_checkpoints_is_named() -> None:
    card = render_model_card(model_facts(record={"schedule": {"type": "wsa", "averaged_steps": [50, 75], "step": 75}}))
    assert "| its weights are the mean of those at steps | 50, 75 |" in card


def test_an_only_parent_is_named_once() -> None:
    card = render_model_card(model_facts(record={"parents": ["user/base"]}))
    assert "- Base model: user/base.\n" in card


def test_licences_that_differ_are_both_named() -> None:
    card = render_model_card(model_facts(record={"licences": ["apache-2.0", "CC BY 4.0"]}))
    assert "- Licence of what it was made from: apache-2.0 and CC BY 4.0.\n" in card
    found = metadata(card)
    assert (found["license"], found["license_name"]) == ("other", "apache-2.0-and-cc-by-4.0")


def test_a_model_from_random_weights_has_no_base() -> None:
    card = render_model_card(model_facts(record={"stage": "base", "base": "", "parents": []}))
    assert "- Base model: none, it began from random weights." in card and "base_model" not in metadata(card)


def test_no_local_path_stands_in_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outputs" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    record = {"base": "outputs/base", "corpus": str(tmp_path / "corpus"), "corpus_revision": None}
    record["parents"] = [str(tmp_path / "base"), "C:\\Users\\someone\\cpt"]
    results = results_of(results_json("a", location=str(tmp_path / "corpus")), "a")
    at = {"at": str(tmp_path / "run")}
    facts = model_facts(record=record, repo_id=str(tmp_path), training=at, results=results)
    card = render_model_card(facts | {"schedule_picture": str(tmp_path / "x.png")})
    assert str(tmp_path) not in card and "Users" not in card and "someone" not in card and "![" not in card
    assert "base_model" not in metadata(card) and "datasets" not in metadata(card)
    assert 'from_pretrained("path/to/this/folder")' in card and "Corpus: corpus, content" in card
    assert metadata(card)["model-index"][0]["results"][0]["dataset"]["type"] == "corpus"


@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("domain", [*HOSTILE, 'quote " and \\', "\u2028", None])
def test_the_code_is_python_whatever_the_domain(domain: str | None, shown: bool) -> None:
    record = {"candidate_list_in_prompt": shown, "domain": domain}
    results = [{"metric": "hr@1", "value": 1, "score": '"); evil("'}]
    card = render_model_card(model_facts(record=record, results=results))
    assert ("recommender.rank(" in card, "recommender.recommend(" in card) == (shown, not shown)
    code = compile(python_of(card), "card", "exec")
    assert (domain is None or domain in code.co_consts) and "evil" not in code.co_names


@given(names, names)
@settings(max_examples=40)
def test_hostile_text_stays_text(name: str, text: str) -> None:
    def card(name: str, text: str) -> str:
        record = {"corpus_revision": text, "corpus_hash": text, "stage": "sft", "template_version": text}
        record |= {"base": f"/{text}/x", "corpus": f"/{text}/x", "parents": [f"/{text}/x"]}
        results = [{"domain": text, "split": text, "metric": text, "value": 0.5, "low": 0.4, "high": 0.6, "n": 10}]
        record["licences"] = [f"a {text}", text]
        more = {"hardware": f"a {text}", "training": {"a " + name: text}}
        more |= {"results": results, "schedule_picture": text, "repo_id": text}
        return render_model_card({**model_facts(text, record=record, **more), "model_name": name})

    ours, theirs = card("rec", "Toys & Games"), card(name, text)
    assert elements(theirs) == elements(ours)
    ignored = ("/model-index/0/results/0/dataset/config", "/model-index/0/results/0/dataset/split")
    found = [[path for path in key_paths(metadata(c)) if path not in ignored] for c in (ours, theirs)]
    assert found[0] == found[1]
    assert ModelCard(theirs).data.tags == ["cprec", "recommendation", "sequential-recommendation", "sft"]
