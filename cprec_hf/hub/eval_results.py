"""Results of an evaluation in the three places the Hub reads them from: the card, its `model-index`, `.eval_results/`.

    rows = results_of(json.loads(Path("report/results.json").read_text()), "CPRec (CPT + SFT)")
    render_model_card({**facts, "results": rows})          # a table, and the model-index in the front matter
    eval_results_files({**facts, "results": rows})         # {".eval_results/music-test.yaml": "- dataset: ..."}

A row: `metric`, `value`, `low`, `high` (95 % interval), `n` (users), `domain`, `split`, `candidates` (a user), for
models `score` (see `Recommender.rank`), of a study `seed`, and where the corpus is a repo its id and commit, `dataset`
and `revision`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cprec_hf.errors import InputError
from cprec_hf.hub.card_parts import interval, is_repo_id, place, slug
from cprec_hf.hub.markdown import Safe, escape, number, one_line, table

_TASK = "Rank the candidates of a user's next item"
_NOT_SHOWN = ("metric", "value", "low", "high", "n", "dataset", "revision")


def evaluations_of(results: Mapping[str, Any], folder: Path, where: str | Path) -> list[tuple[Mapping[str, Any], str]]:
    """The evaluations that ranked the model of a folder by likelihood, each with its name there.

    Args:
        results: the `results.json` of an evaluation, or of a study, whose `models` are evaluations of one model each:
            of a domain, a seed and a score.
        folder: of the model.
        where: the results are, for the message.

    Raises:
        InputError: there is none.
    """
    found = []
    for one in results.get("models", [results]):
        ranked = [m for m in one["methods"] if m["kind"] == "model" and Path(m["model"]).resolve() == folder.resolve()]
        found += [(one, method["name"]) for method in ranked[:1]]
    if not found:
        raise InputError(f"{where}: {folder} is not among the models that were ranked there")
    return found


def results_of(results: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """One method's rows of an evaluation's `results.json`: hr and ndcg at every cut-off, ndcg@1 being hr@1 again.

    Raises:
        InputError: no method of that name; the message lists those there are.
    """
    found = [m for m in results["methods"] if m["name"] == method]
    if not found:
        names = ", ".join(one_line(m["name"]) for m in results["methods"])
        raise InputError(f"the results have no method {method!r}; they have {names}")
    corpus = results["corpus"]
    about = {"domain": results["domain"], "split": results["split"], "candidates": results["candidates"]}
    if found[0].get("model"):
        about["score"] = {"generate": "generate and match", "pointwise": "yes against no"}.get(
            found[0]["kind"], found[0]["score"]
        )
    about |= {"seed": results["study_seed"]} if "study_seed" in results else {}
    where = {"dataset": corpus["location"], "revision": corpus["revision"]} if is_repo_id(corpus["location"]) else {}
    wanted = [f"{name}@{k}" for k in results["k"] for name in (("hr", "ndcg") if k > 1 else ("hr",))]
    values = {metric: found[0]["metrics"][metric] for metric in wanted}
    return [
        {**about, "metric": metric, "value": value["mean"], "low": value["low"], "high": value["high"]}
        | {"n": results["users"], **where}
        for metric, value in values.items()
    ]


def results_table(results: Sequence[Mapping[str, Any]]) -> Safe:
    """Rows of results as a Markdown table: what tells them apart, the metric, its value, the interval and n."""
    told_apart = [key for key in dict.fromkeys(key for row in results for key in row) if key not in _NOT_SHOWN]
    rows = [
        [*(row.get(key, "") for key in told_apart), row["metric"], float(row["value"]), interval(row), row.get("n", "")]
        for row in results
    ]
    return table([*(escape(key) for key in told_apart), "metric", "value", "95 % interval", "n"], rows)


def model_index(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The `model-index` of a card's front matter: every result with its interval, n and corpus. Empty without results.

    Args:
        facts: as `render_model_card` takes them.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="text-generation",
            task_name=_TASK,
            dataset_type=_dataset(row) or slug(place(facts["record"]["corpus"])) or "corpus",
            dataset_name=one_line(" ".join(str(row[key]) for key in ("domain", "split") if row.get(key))) or "corpus",
            dataset_config=f"sft-{slug(row['domain'])}" if row.get("domain") else None,  # keeps domains apart
            dataset_split=one_line(row["split"]) if row.get("split") else None,
            dataset_revision=row.get("revision"),
            dataset_args={"candidates": row["candidates"]} if row.get("candidates") else None,
            metric_type=one_line(row["metric"]),
            metric_value=float(row["value"]),
            metric_name=one_line(f"{row['metric']}, 95 % interval {interval(row)}" if interval(row) else row["metric"]),
            metric_args={key: row[key] for key in ("low", "high", "n", "score", "seed") if row.get(key) is not None}
            or None,
        )
        for row in facts.get("results") or []
    ]
    return eval_results_to_model_index(one_line(facts["model_name"]) or "model", results) if results else []


def eval_results_files(facts: Mapping[str, Any]) -> dict[str, str]:
    """The `.eval_results/*.yaml` of a model repo, one file a domain and split: path in the repo -> YAML.

    The format wants a dataset repo for each value, so results on a corpus that is only a folder are left out. The Hub
    shows a leaderboard on the dataset only if it is registered there as a benchmark; the files are valid without.

    Args:
        facts: as `render_model_card` takes them.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files: dict[str, list[EvalResultEntry]] = {}
    for row in facts.get("results") or []:
        dataset = _dataset(row)
        if dataset is None:
            continue
        task = slug(f"{row.get('domain', '')} {row.get('split', '')}") or "results"
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=f"{task}-{slug(row['metric'])}",
            value=float(row["value"]),
            dataset_revision=row.get("revision"),
            notes=_notes(row),
        )
        files.setdefault(f".eval_results/{task}.yaml", []).append(entry)
    return {
        path: yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120)
        for path, entries in files.items()
    }


def _dataset(row: Mapping[str, Any]) -> str | None:
    return row["dataset"] if is_repo_id(row.get("dataset")) else None


def _notes(row: Mapping[str, Any]) -> str:
    """What a bare value leaves out, in words."""
    parts = [row["metric"]]
    if interval(row):
        parts.append(f"95 % interval {interval(row)}")
    if row.get("n"):
        parts.append(f"{number(row['n'])} users")
    if row.get("candidates"):
        parts.append(f"{number(row['candidates'])} candidates a user")
    return one_line(", ".join(parts))
