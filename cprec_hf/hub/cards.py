"""Cards: generated from recorded facts, never written by hand. Text that users gave stays text.

`render_dataset_card(facts)` takes what stands in `cprec-corpus.json`; `render_model_card(facts)` takes a model's
record (`cprec.json`) with its name and results. Front matter is dumped as YAML from a dict; the body comes from
`dataset_cards/corpus.md.jinja` and `model_cards/model.md.jinja`. Local paths are cut to their last part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cprec_hf.hub.markdown import Safe, escape, fenced, front_matter, number, one_line, render, table

SPLITS = ("train", "validation", "test")
# Identifiers the Hub knows that sources of behaviour carry; any other licence is `other` with its name.
LICENCES = (
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "odc-by", "odbl", "gpl-3.0", "unknown",
)  # fmt: skip
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def render_dataset_card(facts: Mapping[str, Any]) -> str:
    """The README.md of a corpus.

    Args:
        facts: the keys of `cprec-corpus.json`. `counts` decides which configs and splits the card offers to
            `load_dataset`: those with rows.
    """
    about, cuts = facts["about"], facts["split"].get("cuts") or {}
    downstream = {name: d for name, d in facts["domains"].items() if d["role"] == "downstream"}
    configs = _configs(facts["counts"])
    domains = [
        [name, d["role"], d["users"], d["items"], d["interactions"], d["interactions"] / max(1, d["users"])]
        for name, d in facts["domains"].items()
    ]
    body = render(
        "dataset_cards",
        "corpus.md.jinja",
        {
            **{key: facts[key] for key in ("name", "template", "candidates", "content_sha256", "titles", "seed")},
            "about": about,
            "citation": fenced(about["citation"]),
            "source_kind": facts["source"].get("kind", "unknown"),
            "tokenizer": _place(facts["tokenizer"]),
            "trained_tokenizer": facts["tokenizer"] == "tokenizer",
            "policy": facts["split"]["policy"],
            "cuts": [(name, _time(value, about["order"])) for name, value in cuts.items()],
            "domains": table(["domain", "role", "users", "items", "interactions", "interactions a user"], domains),
            "downstream": list(downstream),
            "sft": [_literal(c["config_name"]) for c in configs if c["config_name"].startswith("sft-")],
            "pseudonymised": facts.get("pseudonymised"),
            "counts": table(
                ["config", *SPLITS],
                [[name, *(splits.get(s, 0) for s in SPLITS)] for name, splits in facts["counts"].items()],
            ),
            "tokens": table(["kind of document", "tokens"], list(facts["tokens"].items())),
            "audit": table(
                ["check", "passed", "rows looked at", "found"],
                [[row["check"], "yes" if row["passed"] else "NO", row["n"], row["detail"]] for row in facts["audit"]],
            ),
            "account": table(
                ["step", "rows in", "rows out", "refused"],
                [[s["name"], s["rows_in"], s["rows_out"], _refused(s["refused"])] for s in facts["account"]],
            ),
        },
    )
    rows = sum(n for splits in facts["counts"].values() for n in splits.values())
    return (
        front_matter(
            {
                "pretty_name": one_line(facts["name"]),
                **_licence(about["licence"]),
                "task_categories": ["text-generation"],
                "tags": ["cprec", "recommendation", "sequential-recommendation", "continual-pre-training"],
                "size_categories": [next((name for below, name in _SIZES if rows < below), "n>10M")],
                "configs": configs,
            }
        )
        + body
    )


def render_model_card(facts: Mapping[str, Any]) -> str:
    """The README.md of a model.

    Args:
        facts: `record` (the keys of `cprec.json`), `model_name`, and where known `repo_id`, `training` (name -> value,
            shown as a table), `results` (rows of `metric`, `value`, `low`, `high`, `n` and what else tells them
            apart, such as `domain` and `split`) and `adapter` (true for a LoRA adapter).
    """
    record, results = facts["record"], list(facts.get("results") or [])
    schedule, training = dict(record["schedule"]), dict(facts.get("training") or {})
    repo_id = facts.get("repo_id")
    where = str(repo_id) if _is_repo_id(repo_id) else "path/to/this/folder"
    datasets = [record["corpus"]] if _is_repo_id(record["corpus"]) else []
    base = record["base"] if _is_repo_id(record["base"]) else None
    body = render(
        "model_cards",
        "model.md.jinja",
        {
            "name": facts["model_name"],
            "record": record,
            "adapter": bool(facts.get("adapter")),
            "where": _literal(where),
            "domain": _literal(record["domain"]) if record["domain"] else Safe("recommender.domains[0]"),
            "base": _place(record["base"]),
            "corpus": _place(record["corpus"]),
            "parents": [_place(parent) for parent in record["parents"]],
            "schedule": table(["of the schedule", "value"], _pairs(schedule)) if schedule else "",
            "training": table(["of the training", "value"], _pairs(training)) if training else "",
            "results": _results(results) if results else "",
        },
    )
    return (
        front_matter(
            {
                "library_name": "peft" if facts.get("adapter") else "transformers",
                "pipeline_tag": "text-generation",
                "tags": ["cprec", "recommendation", "sequential-recommendation", record["stage"]],
                **({"base_model": base} if base else {}),
                **({"datasets": datasets} if datasets else {}),
            }
        )
        + body
    )


def _configs(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = []
    for name, splits in counts.items():
        files = [{"split": split, "path": f"{name}/{split}.parquet"} for split in SPLITS if splits.get(split)]
        if files:
            configs.append({"config_name": name, "data_files": files, **({"default": True} if name == "cpt" else {})})
    return configs


def _licence(licence: str) -> dict[str, str]:
    known = one_line(licence).lower().replace(" ", "-")
    if known in LICENCES:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known).strip("-.")[:60] or "see-below"}


def _results(results: Sequence[Mapping[str, Any]]) -> Safe:
    told_apart = [key for key in results[0] if key not in ("metric", "value", "low", "high", "n")]
    rows = [
        [
            *(row.get(key, "") for key in told_apart),
            row["metric"],
            float(row["value"]),
            _interval(row),
            row.get("n", ""),
        ]
        for row in results
    ]
    return table([*(escape(key) for key in told_apart), "metric", "value", "95 % interval", "n"], rows)


def _interval(row: Mapping[str, Any]) -> str:
    return f"{number(row['low'])} to {number(row['high'])}" if "low" in row and "high" in row else ""


def _pairs(values: Mapping[str, Any]) -> list[list[Any]]:
    known = {key: value for key, value in values.items() if value is not None}
    return [[key, _place(value) if isinstance(value, str) else value] for key, value in known.items()]


def _refused(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {n:,}" for reason, n in refused.items()) or "none"


def _literal(text: str) -> Safe:
    """A string as it stands in a line of Python, within a code block."""
    return Safe(json.dumps(text, ensure_ascii=not text.isprintable()))


def _time(value: Any, order: str) -> str:
    if order == "time" and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(value)


def _is_repo_id(name: Any) -> bool:
    """`user/name` that the Hub would take and that is no folder here."""
    return isinstance(name, str) and bool(_REPO_ID.fullmatch(name)) and ".." not in name and not Path(name).exists()


def _place(name: str) -> str:
    """A repo id as it is; of a local path only its last part, which says nothing of the machine."""
    if _is_repo_id(name) or not re.search(r"[/\\]", name):
        return name
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
