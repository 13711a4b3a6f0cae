"""What is pushed, kind by kind: each function checks a local folder and plans the `Push` that `publish` carries out.

    publish(plan_corpus("outputs/tiny/corpus", "me/tiny-corpus"))
    print(plan_model("outputs/tiny/sft", "me/tiny-music", results="outputs/tiny/report").listing())  # a dry run

Records and cards that leave the machine name repos and commits, never local paths (`published`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypedDict, Unpack

from cprec_hf.errors import InputError
from cprec_hf.hub.contents import files_to_push
from cprec_hf.hub.publish import CARD, Push
from cprec_hf.hub.published import is_local, relocated_adapter, relocated_record, relocated_results, without_path
from cprec_hf.hub.remote import Source

_PICTURE, _ITEMS, _STATE = "learning_rate.png", "items.parquet", "trainer_state.json"


class ModelOptions(TypedDict, total=False):
    """What the planners of models take besides folder and repo."""

    branch: str
    """To push to; `main` if not given."""
    private: bool
    """Whether a new repo is private, as it is if not given."""
    results: str | Path | None
    """Folder of an evaluation or a study that ranked this model; its metrics go into card, model-index and
    `.eval_results/`."""
    endpoint: str | None
    """Address of the Hub it goes to, whose repos it names; that of `HF_ENDPOINT` if not given."""


def plan_corpus(folder: str | Path, repo_id: str, *, branch: str = "main", private: bool = True) -> Push:
    """A corpus folder, as a dataset repo.

    Raises:
        InputError: this is no corpus, its audit did not pass, or a public push of a source that may not be published
            again.
    """
    from cprec_hf.hub.cards import render_dataset_card
    from cprec_hf.hub.dataset_card import recipe_of

    folder = Path(folder)
    facts = _read(folder, "cprec-corpus.json", "a corpus")
    failed = [row["check"] for row in facts["audit"] if not row["passed"]]
    if failed:
        raise InputError(f"{folder}: its audit did not pass ({failed[0]}); a corpus that leaks is not published")
    about = facts["about"]
    if not private and not about["redistributable"]:
        raise InputError(
            f"{folder} was made from {about['name']!r}, which may not be published again (licence: "
            f"{about['licence']}); push it to a private repo"
        )
    source = {key: without_path(v) if is_local(v) else v for key, v in facts["source"].items()}
    facts = {**facts, "source": source, "tokenizer": without_path(facts["tokenizer"]), "recipe": recipe_of(facts)}
    return Push(
        kind="corpus",
        repo_id=repo_id,
        repo_type="dataset",
        files={**_without_card(files_to_push(folder)), "cprec-corpus.json": _json(facts)},
        message=f"Corpus {facts['name']}",
        card=lambda where, free: render_dataset_card(facts, repo_id=where, free=free),
        folder=folder,
        branch=branch,
        private=private,
    )


def plan_trunk(checkpoint: str | Path, repo_id: str, *, private: bool = True, endpoint: str | None = None) -> Push:
    """A `checkpoint-N` of a stable phase, with its resume state, as the branch `trunk-step-N` of a model repo.

    Arguments: see `ModelOptions`.

    Raises:
        InputError: no checkpoint, one outside the stable phase, or what `plan_model` refuses.
    """
    checkpoint = Path(checkpoint)
    schedule = _read(checkpoint, "cprec.json", "a checkpoint of a trunk")["schedule"]
    _read(checkpoint, _STATE, "a checkpoint of a trunk")
    if not _is_stable(schedule):
        raise InputError(
            f"{checkpoint} is not in the stable phase of a WSA run, so no anneal could branch from it; push the "
            "finished model with the kind `model`"
        )
    where = ModelOptions(branch=f"trunk-step-{schedule['step']}", private=private, endpoint=endpoint)
    return _plan_model(checkpoint, repo_id, kind="trunk", resume_state=True, **where)


def plan_checkpoint(checkpoint: str | Path, repo_id: str, *, private: bool = True, endpoint: str | None = None) -> Push:
    """A `checkpoint-N` with its resume state, as a branch of its own: `checkpoint-N`, or for a trunk `trunk-step-N`.

    Arguments: see `ModelOptions`.

    Raises:
        InputError: no checkpoint, or what `plan_model` refuses.
    """
    checkpoint = Path(checkpoint)
    record = _read(checkpoint, "cprec.json", "a checkpoint of a run")
    if record["stage"] == "cpt" and _is_stable(record["schedule"]):
        return plan_trunk(checkpoint, repo_id, private=private, endpoint=endpoint)
    _read(checkpoint, _STATE, "a checkpoint of a run")
    where = ModelOptions(branch=f"checkpoint-{record['schedule']['step']}", private=private, endpoint=endpoint)
    return _plan_model(checkpoint, repo_id, kind="checkpoint", resume_state=True, **where)


def plan_model(folder: str | Path, repo_id: str, **options: Unpack[ModelOptions]) -> Push:
    """The model of a training stage, as a model repo.

    Args:
        folder: what the stage wrote.
        repo_id: `user/name`, or `name` under the token's user.
        options: see `ModelOptions`.

    Raises:
        InputError: no model of ours, a public push of what was trained on a source that may not be published again, or
            results without this model.
    """
    return _plan_model(Path(folder), repo_id, kind="model", **options)


def plan_adapter(folder: str | Path, repo_id: str, **options: Unpack[ModelOptions]) -> Push:
    """A LoRA adapter, as a model repo; its base must be on the Hub. Arguments and errors: see `plan_model`."""
    if not (Path(folder) / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds no adapter; push it with the kind `model`")
    return _plan_model(Path(folder), repo_id, kind="adapter", **options)


def plan_recommender(folder: str | Path, repo_id: str, **options: Unpack[ModelOptions]) -> Push:
    """A model with all that `Recommender.from_pretrained` needs, its items above all. See `plan_model`."""
    if not (Path(folder) / _ITEMS).is_file():
        raise InputError(f"{folder} has no items.parquet, so it cannot recommend; push it with the kind `model`")
    kind = "adapter" if (Path(folder) / "adapter_config.json").is_file() else "recommender"
    return _plan_model(Path(folder), repo_id, kind=kind, **options)


def plan_metric(folder: str | Path, repo_id: str, *, branch: str = "main", private: bool = True) -> Push:
    """An `evaluate` module, as a Space that `evaluate.load` takes by its id.

    Raises:
        InputError: the folder is no such module, or the repo is not named as its script is, which `evaluate` looks for.
    """
    folder = Path(folder)
    name, wanted = folder.resolve().name, repo_id.split("/")[-1]
    if wanted != name:
        raise InputError(f"{repo_id}: evaluate loads NAME/NAME.py, so the Space must be named {name}")
    for needed in (f"{name}.py", CARD, "requirements.txt", "app.py"):
        if not (folder / needed).is_file():
            raise InputError(f"{folder}: no {needed}; a metric has {name}.py, app.py, {CARD} and requirements.txt")
    files = {path: source for path, source in files_to_push(folder).items() if path not in ("__init__.py", CARD)}
    text, load = (folder / CARD).read_text(encoding="utf-8"), "evaluate.load({})".format
    return Push(
        kind="metric",
        repo_id=repo_id,
        repo_type="space",
        files=files,
        message=f"Metric {name}",
        card=lambda where, free: text.replace(load(f'"{name}"'), load(f'"{where}"')),
        branch=branch,
        private=private,
    )


def plan_results(
    folder: str | Path, repo_id: str, *, branch: str = "main", private: bool = True, endpoint: str | None = None
) -> Push:
    """The report of an evaluation, as a dataset repo. Arguments: see `ModelOptions`.

    Raises:
        InputError: this is no report, or a public push of what was measured on a source that may not be published.
    """
    from cprec_hf.hub.cards import render_results_card
    from cprec_hf.hub.report import report_markdown

    folder = Path(folder)
    results = _read(folder, "results.json", "an evaluation's report")
    corpus = results["corpus"]
    if not private and not corpus.get("redistributable"):
        raise InputError(
            f"{folder} holds values of each user of {corpus['name']!r}, which may not be published; push it to a "
            "private repo"
        )
    results = relocated_results(results, endpoint)
    return Push(
        kind="results",
        repo_id=repo_id,
        repo_type="dataset",
        files={
            **_without_card(files_to_push(folder)),
            "results.json": _json(results),
            "report.md": report_markdown(results).encode(),  # written anew: the folder's own names folders
        },
        message=f"Results on {results['domain']}, {results['split']} split",
        card=lambda where, free: render_results_card(results, repo_id=where, free=free),
        branch=branch,
        private=private,
    )


def _plan_model(
    folder: Path,
    repo_id: str,
    *,
    kind: str,
    branch: str = "main",
    private: bool = True,
    results: str | Path | None = None,
    endpoint: str | None = None,
    resume_state: bool = False,
) -> Push:
    from cprec_hf.hub.cards import render_model_card
    from cprec_hf.hub.curves import draw_learning_rate, read_log
    from cprec_hf.hub.eval_results import eval_results_files, evaluations_of, results_of
    from cprec_hf.hub.model_card import training_facts

    record = _read(folder, "cprec.json", "a model of a training stage")
    if not private and not record.get("corpus_redistributable"):
        raise InputError(
            f"{folder} holds the items of {record['corpus']}, whose source may not be published again; push it to a "
            "private repo"
        )
    files = _without_card(files_to_push(folder, resume_state=resume_state))
    items = folder.parent / _ITEMS
    if _ITEMS not in files and fnmatch(folder.name, "checkpoint-*") and items.is_file():
        files[_ITEMS] = items  # a run writes them once, beside its finished model
    adapter = folder / "adapter_config.json"
    if _STATE in files:
        files[_STATE] = _json({**_read(folder, _STATE, "a checkpoint"), "best_model_checkpoint": None})  # a folder here
    if adapter.is_file():
        files[adapter.name] = _json(relocated_adapter(adapter, endpoint))
    facts: dict[str, Any] = {
        "record": relocated_record(record, endpoint),
        "model_name": repo_id.split("/")[-1],
        "adapter": adapter.is_file(),
        "items": _ITEMS in files,
        "resume_state": kind == "trunk",
        "hardware": record.get("hardware"),
    }
    files["cprec.json"] = _json(facts["record"])
    if results is not None:
        report = _read(Path(results), "results.json", "an evaluation's report")
        ranked = evaluations_of(report, folder, results)
        facts["results"] = [row for one, name in ranked for row in results_of(relocated_results(one, endpoint), name)]
        files |= {name: text.encode() for name, text in eval_results_files(facts).items()}
    log = folder / "log.jsonl" if (folder / "log.jsonl").is_file() else folder.parent / "log.jsonl"
    step = record["schedule"].get("step")
    rows = read_log(log, step) if log.is_file() else []
    facts["training"] = training_facts(record, rows)
    if any("learning_rate" in row for row in rows):  # up to this model: the run may have gone on
        files[_PICTURE] = draw_learning_rate(log, step)
        facts["schedule_picture"] = _PICTURE
    return Push(
        kind=kind,
        repo_id=repo_id,
        repo_type="model",
        files=files,
        message=f"{facts['record']['stage']} at step {facts['record']['schedule'].get('step')}",
        card=lambda where, free: render_model_card({**facts, "repo_id": where, "branch": branch, "free": free}),
        folder=folder,
        branch=branch,
        private=private,
    )


def _is_stable(schedule: Mapping[str, Any]) -> bool:
    warmup, stable = schedule.get("warmup_steps"), schedule.get("stable_steps")
    return stable is not None and warmup <= schedule["step"] <= warmup + stable


def _read(folder: Path, name: str, what: str) -> dict[str, Any]:
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder}: no {name} here, so this is not {what}") from None
    except ValueError as error:
        raise InputError(f"{folder / name}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{folder / name}: not a JSON object")
    return values


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _without_card(files: Mapping[str, Source]) -> dict[str, Source]:
    return {name: source for name, source in files.items() if name != CARD}
