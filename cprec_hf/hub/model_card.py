"""The card of a model: what it does with code that runs, how it was made, how good it is, what it is not for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cprec_hf.hub.card_parts import is_repo_id, licence_metadata, literal, place, put_together, repo_of
from cprec_hf.hub.eval_results import model_index, results_table
from cprec_hf.hub.markdown import Safe, code_span, escape, fenced, render, table

# What recorded keys are called on the card; any other is shown with blanks for underscores.
_WORDS = {
    "type": "schedule",
    "learning_rate": "peak learning rate",
    "min_lr_ratio": "floor of the learning rate, as a share of the peak",
    "step": "step of this model",
    "averaged_steps": "its weights are the mean of those at steps",
    "half_life_steps": "steps in which the anneal halves the learning rate",
    "tokens_per_step": "tokens a step",
    "last_loss": "last training loss, nats a token",
}
_STAGES = {
    "base": "base (the words of the items, no behaviour)",
    "cpt": "cpt (continual pre-training, not yet annealed)",
    "cpt, annealed": "cpt (continual pre-training, finished)",
    "anneal": "anneal (continual pre-training, finished)",
    "sft": "sft (supervised fine-tuning on one domain)",
    "preference": "preference (DPO, targets over sampled items of one domain)",
    "listwise": "listwise (targets over sampled items at every position; ours, not the paper's)",
    "pointwise": "pointwise (supervised fine-tuning on yes or no, a baseline)",
}


def render_model_card(facts: Mapping[str, Any]) -> str:
    """The README.md of a model.

    Args:
        facts: `record` (the keys of `cprec.json`) and `model_name`; where known `repo_id`, `branch` (of that repo),
            `training` (of `training_facts`), `results` (rows of `eval_results.results_of`, or any of
            `metric`, `value`, `low`, `high`, `n` and what else tells them apart), `adapter` (true for a LoRA adapter),
            `items` (false where no `items.parquet` comes with it, as in a checkpoint of a run that goes on),
            `resume_state` (true for a trunk's checkpoint with all that an anneal needs to branch from it),
            `hardware` (in words), `schedule_picture` (a file of the repo, see `curves.draw_learning_rate`) and `free`
            (see `card_parts.free_section`).
    """
    record, results = facts["record"], list(facts.get("results") or [])
    schedule, training, adapter = _pairs(record["schedule"]), _pairs(facts.get("training") or {}), facts.get("adapter")
    repo_id, domain, licence = facts.get("repo_id"), record["domain"], " and ".join(record.get("licences") or [])
    base, branch = repo_of(record["base"]), facts.get("branch") or "main"
    corpus = record["corpus"] if is_repo_id(record["corpus"]) else "path/to/the/corpus"
    replayed = (record["schedule"].get("data") or {}).get("replay") or {}
    read = [name for name in (record["corpus"], replayed.get("dataset")) if is_repo_id(name)]
    index, annealed = model_index(facts), _is_annealed(record)
    body = render(
        "model_cards",
        "model.md.jinja",
        {
            "name": facts["model_name"],
            "record": record,
            "stage": _STAGES.get("cpt, annealed" if annealed else record["stage"], record["stage"]),
            "trunk": record["stage"] == "cpt" and not annealed,
            "adapter": bool(adapter),
            "shows_candidates": record.get("candidate_list_in_prompt", False),
            "where": literal(repo_id if is_repo_id(repo_id) else "path/to/this/folder"),
            "branch": literal(branch) if branch != "main" else None,
            "items": facts.get("items", True),
            "corpus_literal": literal(corpus),
            "branch_off": _branch_off(facts, branch, corpus) if facts.get("resume_state") else None,
            "domain": literal(domain) if domain else Safe("recommender.domains[0]"),
            "score": _score(results),
            "base": place(record["base"]),
            "base_commit": record.get("base_revision"),
            "corpus": place(record["corpus"]),
            "parents": [place(parent) for parent in record["parents"]],
            "schedule": table(["learning rate", ""], schedule) if schedule else "",
            "picture": Safe(facts["schedule_picture"]) if _is_picture(facts.get("schedule_picture")) else None,
            "training": table(["training", ""], training) if training else "",
            "hardware": facts.get("hardware"),
            "scored": any(row.get("score") for row in results),
            "results": results_table(results) if results else "",
            "chance": next(
                ((row["candidates"], 1 / row["candidates"]) for row in results if row.get("candidates")), None
            ),
            "evaluated_on": _evaluated_on(results),
            "licence": licence,
        },
    )
    metadata = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        **(licence_metadata(licence) if licence else {}),
        "tags": ["cprec", "recommendation", "sequential-recommendation", record["stage"]],
        **({"base_model": base} if base else {}),
        **({"datasets": read} if read else {}),
        **({"model-index": index} if index else {}),
    }
    return put_together(metadata, body, str(facts.get("free") or ""))


def training_facts(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a card shows of the training of a model, from its record and the log of its run.

    Args:
        record: the keys of `cprec.json`.
        rows: of `log.jsonl`, or of the Trainer's `log_history`; those after the model's step do not count.

    Returns:
        steps (an anneal's are counted from its trunk's first), tokens_per_step and, where logged, last_loss.
    """
    schedule = record["schedule"]
    step = schedule.get("step")
    if step is None:  # an older release did not say
        return {}
    begin = schedule["warmup_steps"] + schedule["stable_steps"] if record["stage"] == "anneal" else 0
    losses = [row["loss"] for row in rows if "loss" in row and row["step"] <= step]
    facts = {"steps": step, "tokens_per_step": record["tokens"] // max(step - begin, 1)}
    return facts | ({"last_loss": losses[-1]} if losses else {})


def _is_annealed(record: Mapping[str, Any]) -> bool:
    """Whether a model of `cpt` comes from the anneal of its own run, not from a trunk's warmup or stable phase."""
    schedule = record["schedule"]
    before = schedule.get("warmup_steps", 0) + schedule.get("stable_steps", 0)
    return bool(record["stage"] == "cpt" and schedule.get("anneal_steps") and schedule.get("step", 0) > before)


def _pairs(values: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of what is known; values of a mapping inside, such as the order of the data, each on its own."""
    rows: list[list[Any]] = []
    for key, value in values.items():
        name = _WORDS.get(key, key.replace("_", " "))
        if isinstance(value, Mapping):
            rows += [[f"{name}: {inner}", shown] for inner, shown in _pairs(value)]
        elif isinstance(value, list | tuple):
            rows.append([name, ", ".join(place(str(item)) for item in value)])
        elif value is not None:
            rows.append([name, place(value) if isinstance(value, str) else value])
    return rows


def _branch_off(facts: Mapping[str, Any], branch: str, corpus: str) -> Safe:
    """The command that anneals a trunk's checkpoint over a tenth of its steps."""
    repo_id, steps = facts.get("repo_id"), max(1, facts["record"]["schedule"]["step"] // 10)
    where = f"{repo_id}@{branch}" if is_repo_id(repo_id) else "path/to/this/folder"
    line = f"cprec anneal --from {shlex.quote(where)} --corpus {corpus} --anneal_steps {steps} --output_dir annealed"
    return fenced(line, "bash")


def _score(results: list[Mapping[str, Any]]) -> str:
    """The argument of the example where the results were reached with a score that is not the default."""
    score = next((row["score"] for row in results if row.get("score")), "sum")
    return Safe(f', score="{score}"') if score in ("mean", "pmi") else ""


def _evaluated_on(results: list[Mapping[str, Any]]) -> str:
    """The corpora of the results, with their commits."""
    found = {(row["dataset"], row.get("revision")): None for row in results if is_repo_id(row.get("dataset"))}
    return Safe(
        ", ".join(escape(name) + (f" at commit {code_span(revision)}" if revision else "") for name, revision in found)
    )


def _is_picture(name: Any) -> bool:
    """A plain name that a Markdown link holds as it is."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w.-]+\.png", name, re.ASCII))
