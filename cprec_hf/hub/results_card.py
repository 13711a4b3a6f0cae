"""The card of an evaluation's report, a dataset repo: the table, how to read it, how to load all users' values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprec_hf.hub.card_parts import is_repo_id, literal, place, put_together
from cprec_hf.hub.markdown import Safe, escape, one_line, render, table
from cprec_hf.hub.report import score_of

_KINDS = {
    "model": "language model",
    "generate": "language model whose written answers are looked up",
    "item_knn": "items often taken by the same users (item-kNN)",
    "title_overlap": "words shared with the history's titles",
    "bm25": "titles found by the words of the history's titles (BM25)",
    "repeat": "seen before first",
    "embedding": "titles like the history's, by a language model's embeddings",
    "gru4rec": "recurrent network over item ids (GRU4Rec)",
    "sasrec": "causal attention over item ids (SASRec)",
    "bert4rec": "attention both ways over item ids (BERT4Rec)",
    "sasrec_llm": "SASRec that begins from a language model's title embeddings",
    "hybrid": "other methods' scores added up, weights fitted on validation",
    "best_of": "the one of several methods that did best on validation",
    "pointwise": "language model that is asked about each candidate, yes against no",
    "popularity": "most taken first",
    "random": "chance",
    "candidate_memoriser": "remembers candidate lists; must be at chance",
    "latent_oracle": "ceiling: knows the simulated users' tastes",
    "bayes_oracle": "ceiling: best possible from the same history",
}


def render_results_card(results: Mapping[str, Any], free: str = "", *, repo_id: str | None = None) -> str:
    """The README.md of a report folder: `results.json`, `per_user.parquet`, `report.md` and pictures.

    Args:
        results: what stands in `results.json`.
        free: what a person wrote, see `card_parts.free_section`.
        repo_id: the dataset repo it is pushed to, for the code that loads it.
    """
    corpus, reference, ks = results["corpus"], results["reference"], results["k"]
    hr, ndcg = f"hr@{ks[0]}", f"ndcg@{ks[-1]}"
    body = render(
        "dataset_cards",
        "results.md.jinja",
        {
            **{key: results[key] for key in ("domain", "split", "users", "rows", "candidates", "items", "seed")},
            "where": literal(repo_id if is_repo_id(repo_id) else "path/or/repo-id"),
            "split_literal": literal(results["split"]),
            "column": literal(f"/{hr}"),
            "hr": hr,
            "chance": ks[0] / max(1, results["candidates"]),
            "resamples": results["bootstrap_resamples"],
            "corpus": corpus,
            "location": place(corpus["location"]),
            "policy": corpus["split_policy"]["policy"],
            "methods": _methods(results, hr, ndcg),
            "references": sorted({reference[metric] for metric in (hr, ndcg)}) if reference else [],
            "curves": bool(results["curves"]),
            "reliability": any("calibration" in method for method in results["methods"]),
            "versions": ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        },
    )
    metadata = {
        "pretty_name": one_line(f"{results['domain']}, {results['split']} split of {corpus['name']}: results"),
        "tags": ["cprec", "recommendation", "sequential-recommendation", "evaluation-results"],
        "configs": [
            {
                "config_name": "per_user",
                "data_files": [{"split": results["split"], "path": "per_user.parquet"}],
                "default": True,
            }
        ],
    }
    return put_together(metadata, body, free)


def _methods(results: Mapping[str, Any], *metrics: str) -> Safe:
    """A row a method: what it is, its metrics with intervals, n, and how sure its gain over the reference is."""
    tested = [metric for metric in metrics if results["reference"]]
    rows = [
        [
            Safe(f"**{escape(method['name'])}**") if method.get("model") else method["name"],
            _what(method),
            *(_value(method["metrics"][metric]) for metric in metrics),
            results["users"],
            *(_gain(method["against_reference"].get(metric)) for metric in tested),
        ]
        for method in results["methods"]
    ]
    columns = ["method", "what it is", *(f"{metric} \\[95 % interval\\]" for metric in metrics), "n"]
    return table([*columns, *(f"gain in {metric} (p)" for metric in tested)], rows)


def _what(method: Mapping[str, Any]) -> str:
    kind = _KINDS.get(method["kind"], method["kind"])
    if not method.get("model"):
        return kind
    revision = f" at {method['revision']}" if method["revision"] else ""
    score = f", score {score_of(method)}" if method["kind"] == "model" else ""
    return f"{kind}: {place(method['model'])}{revision}{score}"


def _value(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _gain(compared: Mapping[str, float] | None) -> str:
    if compared is None:
        return "reference"
    p = compared["p_bootstrap"]
    return f"{compared['difference']:+.3f} ({f'{p:.3f}' if p >= 0.001 else '< .001'})"
