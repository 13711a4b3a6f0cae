"""Cards on a Hub: the code on each of them runs in a fresh process, on whatever kind of model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cards.facts import corpus_facts, model_facts, results_json
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.hub.cards import render_dataset_card, render_model_card, render_results_card
from cprec_hf.hub.eval_results import eval_results_files, results_of

PUSH = """
    import json, sys
    from pathlib import Path
    from huggingface_hub import HfApi

    api = HfApi()
    for folder in sorted(Path(sys.argv[1]).glob("*/*")):
        kind, name = folder.parent.name, f"ada/{folder.name}"
        api.create_repo(name, repo_type=kind)
        api.upload_folder(folder_path=folder, repo_id=name, repo_type=kind)
    print(json.dumps(True))
"""
RUN = """
    import contextlib, io, json, re, sys
    from huggingface_hub import hf_hub_download

    said = {}
    for name in sys.argv[2:]:
        card = open(hf_hub_download(f"ada/{name}", "README.md", repo_type=sys.argv[1]), encoding="utf-8").read()
        (code,) = re.findall(r"^```python\\n(.*?)^```$", card, re.S | re.M)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, {"__name__": "__main__"})
        said[name] = out.getvalue().splitlines()
    print(json.dumps(said))
"""


def model_folder(folder: Path, model: Any, tokenizer: Any, *, results: bool = False, **record: Any) -> None:
    """A model repo as a stage leaves it: weights, tokenizer, record, items and card."""
    adapter = hasattr(model, "peft_config")
    model.save_pretrained(folder, save_embedding_layers=False) if adapter else model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    titles = ["red lamp", "blue chair", "green mug", "dark desk", "light ball", "steel brush", "big puzzle"]
    rows = [{"item_id": f"i{i}", "domain": "Toys & Games", "title": t, "full_title": t} for i, t in enumerate(titles)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    rows = results_of(results_json("Toys & Games"), "Toys & Games") if results else []
    facts = model_facts(record=record, repo_id=f"ada/{folder.name}", adapter=adapter, results=rows)
    ModelRecord(**facts["record"]).save(folder)
    for name, text in {"README.md": render_model_card(facts), **eval_results_files(facts)}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_the_code_on_every_model_card_runs(
    client: Callable[..., Any], tmp_path: Path, tiny_model: Callable[..., Any], byte_level_tokenizer: Any
) -> None:
    from peft import LoraConfig, get_peft_model

    def folder(name: str, model: Any, **more: Any) -> None:
        model_folder(tmp_path / "repos" / "model" / name, model, byte_level_tokenizer, **more)

    model = tiny_model(byte_level_tokenizer)
    folder("base", model, stage="base", base="", domain=None)
    folder("cpt", model, stage="cpt", base="ada/base", domain=None)
    folder("sft", model, base="ada/cpt", results=True)
    folder("listed", model, base="ada/cpt", candidate_list_in_prompt=True)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = "ada/base"
    folder("adapter", adapted, base="ada/base")
    assert client(PUSH, tmp_path / "repos") is True
    said = client(RUN, "model", "base", "cpt", "sft", "listed", "adapter")
    lengths = {name: len(lines) for name, lines in said.items()}
    assert lengths == {"base": 4, "cpt": 4, "sft": 4, "listed": 5, "adapter": 4}  # 7 items less 3 taken; 5 candidates
    assert said["cpt"] == said["base"] == said["adapter"]  # the same weights, and an adapter that was not trained yet
    assert {line.rsplit(" ", 1)[0] for line in said["base"]} == {"dark desk", "light ball", "steel brush", "big puzzle"}
    pmi = [float(line.rsplit(" ", 1)[1]) for line in said["sft"]]  # as the results on its card were scored
    assert pmi == sorted(pmi, reverse=True) and said["sft"] != said["base"]


def test_the_code_on_dataset_cards_runs(client: Callable[..., Any], tmp_path: Path) -> None:
    facts, results = corpus_facts(), results_json("Toys & Games")
    corpus, report = tmp_path / "repos" / "dataset" / "corpus", tmp_path / "repos" / "dataset" / "report"
    for config, splits in facts["counts"].items():
        (corpus / config).mkdir(parents=True)
        for split, rows in splits.items():
            pq.write_table(pa.table({"text": [f"{config} {split}"] * rows}), corpus / config / f"{split}.parquet")
    (corpus / "cprec-corpus.json").write_text(json.dumps(facts), encoding="utf-8")
    (corpus / "README.md").write_text(render_dataset_card(facts, repo_id="ada/corpus"), encoding="utf-8")
    report.mkdir()
    values = {"user_id": ["a", "b"], "rows": [1, 1], "Toys & Games/hr@1": [0.0, 1.0], "popularity/hr@1": [0.0, 0.5]}
    pq.write_table(pa.table(values), report / "per_user.parquet")
    (report / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (report / "README.md").write_text(render_results_card(results, repo_id="ada/report"), encoding="utf-8")
    assert client(PUSH, tmp_path / "repos") is True
    said = client(RUN, "dataset", "corpus", "report")
    assert said["corpus"] == []
    assert [line.split() for line in said["report"]] == [
        ["Toys", "&", "Games/hr@1", "0.50"],
        ["popularity/hr@1", "0.25"],
        ["dtype:", "float64"],
    ]
