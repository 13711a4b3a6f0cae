"""Run by test_loopback_clients.py in a process that knows the Hub only by its environment.

Each function is one thing that people do with datasets, transformers, peft, trl or evaluate and a Hub, written as their
documentation writes it. What they return is printed as one JSON object; a step that fails returns its traceback. One
process does them all because importing these libraries takes longer than everything else here.
"""

import json
import sys
import traceback
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])  # holds base/, corpus/ and ranking_at_k/


def a_corpus_folder_is_loaded_by_its_card() -> Any:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    HfApi().create_repo("ada/corpus", repo_type="dataset", private=True)
    made = HfApi().upload_folder(folder_path=FOLDER / "corpus", repo_id="ada/corpus", repo_type="dataset")
    cpt = load_dataset("ada/corpus", "cpt", revision=made.oid)
    streamed = load_dataset("ada/corpus", "sft-toys", split="test", streaming=True)
    return [{split: len(rows) for split, rows in cpt.items()}, cpt["train"][4], [row["text"] for row in streamed]]


def datasets_push_configs_and_splits() -> Any:
    from datasets import Dataset, DatasetDict, load_dataset

    for config, start in (("one", 0), ("two", 10)):
        train, test = (Dataset.from_dict({"x": list(range(start, start + n))}) for n in (5, 2))
        DatasetDict(train=train, test=test).push_to_hub(
            "ada/d", config, private=True, num_shards={"train": 2, "test": 1}
        )
    Dataset.from_dict({"x": [7]}).push_to_hub("ada/d", "one", split="validation")
    Dataset.from_dict({"x": [8, 9]}).push_to_hub("ada/d", "one", split="test")  # takes the place of the one before
    loaded = {config: load_dataset("ada/d", config) for config in ("one", "two")}
    streamed = {config: load_dataset("ada/d", config, streaming=True) for config in ("one", "two")}
    return [
        {config: {split: rows["x"][:] for split, rows in splits.items()} for config, splits in loaded.items()},
        {
            config: {split: [r["x"] for r in rows] for split, rows in splits.items()}
            for config, splits in streamed.items()
        },
    ]


def iterable_datasets_push_themselves() -> Any:
    from datasets import IterableDataset, IterableDatasetDict, load_dataset

    def rows(shards: list[int]) -> Iterator[dict[str, int]]:
        for shard in shards:
            yield {"x": shard}
            yield {"x": shard + 1}

    IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 10]}).push_to_hub("ada/it")
    both = IterableDataset.from_generator(rows, gen_kwargs={"shards": [20]})
    IterableDatasetDict(train=both, test=both).push_to_hub("ada/it", "more", revision="branch")
    more = load_dataset("ada/it", "more", revision="branch")
    return [load_dataset("ada/it", split="train")["x"][:], {split: part["x"][:] for split, part in more.items()}]


def sharded_models_and_tokenizers_come_back() -> Any:
    import torch
    from huggingface_hub import HfApi
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "base")
    HfApi().create_repo("ada/base", private=True)
    HfApi().create_branch("ada/base", branch="v1")
    model.push_to_hub("ada/base", max_shard_size="20KB", revision="v1")
    tokenizer.push_to_hub("ada/base", revision="v1")
    again = AutoModelForCausalLM.from_pretrained("ada/base", revision="v1", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained("ada/base", revision="v1")("red lamp for kitchen")["input_ids"]
    with torch.no_grad():
        pair = [one(torch.tensor([ids])).logits[0, -1, :5].tolist() for one in (model, again)]
    try:
        AutoModelForCausalLM.from_pretrained("ada/base")
    except (OSError, ValueError) as error:
        refused = "config.json" in str(error)
    shards = [name for name in HfApi().list_repo_files("ada/base", revision="v1") if name.startswith("model-")]
    tokenizer.push_to_hub("ada/base")
    model.push_to_hub("ada/base")
    return {
        "ids": [ids, tokenizer("red lamp for kitchen")["input_ids"]], "logits": pair, "shards": len(shards),
        "not on main": refused,
    }  # fmt: skip


def adapters_come_back() -> Any:
    import torch
    from huggingface_hub import HfApi
    from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    adapter = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained("ada/base"), adapter).eval()
    tuned.push_to_hub("ada/adapter")
    base = AutoModelForCausalLM.from_pretrained("ada/base")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        plain = base(ids).logits
        twice = PeftModel.from_pretrained(base, "ada/adapter"), AutoPeftModelForCausalLM.from_pretrained("ada/adapter")
        expected = tuned(ids).logits
        equal = [torch.allclose(one.eval()(ids).logits, expected) for one in twice]
    return [HfApi().list_repo_files("ada/adapter"), equal, torch.allclose(plain, expected)]


def trainers_push_as_they_go() -> Any:
    from datasets import Dataset
    from huggingface_hub import HfApi
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments
    from trl import SFTConfig, SFTTrainer

    class EachPush(TrainerCallback):  # they run in the background and skip each other; here each is waited for
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if trainer.push_in_progress is not None:
                trainer.push_in_progress.wait_until_done()

    tokenizer = AutoTokenizer.from_pretrained("ada/base")
    texts = Dataset.from_dict({"text": ["red lamp", "big chair"]})
    tokens = Dataset.from_dict({key: [[1, 2, 3]] * 4 for key in ("input_ids", "labels")})
    HfApi().create_repo("ada/plain-every_save")
    HfApi().create_branch("ada/plain-every_save", branch="trunk")  # the Trainer does not make it
    told = {}
    for kind, strategy in product(("plain", "trl"), ("every_save", "checkpoint", "all_checkpoints")):
        repo = f"ada/{kind}-{strategy}"
        revision = "trunk" if repo == "ada/plain-every_save" else None
        given = (TrainingArguments if kind == "plain" else SFTConfig)(
            output_dir=str(FOLDER / repo), hub_model_id=repo, push_to_hub=True, hub_strategy=strategy,
            hub_revision=revision, hub_always_push=True, max_steps=4, save_steps=2, per_device_train_batch_size=1,
            report_to=[], use_cpu=True, bf16=False, disable_tqdm=True,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained("ada/base")
        if kind == "plain":
            trainer = Trainer(model, given, train_dataset=tokens)
        else:
            trainer = SFTTrainer(model, given, train_dataset=texts, processing_class=tokenizer)
        trainer.add_callback(EachPush())
        trainer.train()
        trainer.push_in_progress.wait_until_done()
        if repo == "ada/trl-every_save":
            trainer.push_to_hub(commit_message="the end")
        told[repo] = {
            "folders": sorted({n.split("/")[0] for n in HfApi().list_repo_files(repo, revision=revision) if "/" in n}),
            "commits": [commit.title for commit in HfApi().list_repo_commits(repo, revision=revision)],
            "on main": len(HfApi().list_repo_commits(repo)),
        }
    return told


def a_run_resumes_from_its_pushed_checkpoint() -> Any:
    from datasets import Dataset
    from huggingface_hub import snapshot_download
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = Path(snapshot_download("ada/plain-checkpoint", allow_patterns="last-checkpoint/*")) / "last-checkpoint"
    given = TrainingArguments(
        str(FOLDER / "resumed"), max_steps=5, per_device_train_batch_size=1, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    tokens = Dataset.from_dict({key: [[1, 2, 3]] * 4 for key in ("input_ids", "labels")})
    trainer = Trainer(AutoModelForCausalLM.from_pretrained("ada/base"), given, train_dataset=tokens)
    before = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    return [before, trainer.train(resume_from_checkpoint=str(folder)).global_step]


def metric_spaces_load_by_their_id() -> Any:
    import evaluate
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo("ada/ranking_at_k", repo_type="space", space_sdk="gradio")
    made = api.upload_folder(folder_path=FOLDER / "ranking_at_k", repo_id="ada/ranking_at_k", repo_type="space")
    metric = evaluate.load("ada/ranking_at_k", revision=made.oid)
    scores = metric.compute(predictions=[[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], references=[[1, 0, 0]] * 2, k=[1, 3])
    return [scores["hr@1"], scores["hr@3"], api.space_info("ada/ranking_at_k").sdk]


STEPS = [
    a_corpus_folder_is_loaded_by_its_card,
    datasets_push_configs_and_splits,
    iterable_datasets_push_themselves,
    sharded_models_and_tokenizers_come_back,
    adapters_come_back,
    trainers_push_as_they_go,
    a_run_resumes_from_its_pushed_checkpoint,
    metric_spaces_load_by_their_id,
]


if __name__ == "__main__":
    told: dict[str, Any] = {}
    for step in STEPS:
        try:
            told[step.__name__] = step()
        except Exception:
            told[step.__name__] = traceback.format_exc()
    print(json.dumps(told))
