"""The report of an evaluation as text: `report.md` for people, and the same table for the console.

It stands here because a push writes it anew, from results that name repos in place of folders. Names of methods,
domains, corpora and models come from users: in `report.md` they are escaped, so that they stay text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cprec_hf.hub.markdown import escape, one_line
from cprec_hf.hub.report_sections import sections

_ORACLES = ("latent_oracle", "bayes_oracle")
_HOW = {"generate": "greedy answers looked up by text", "pointwise": "asked about each candidate, yes against no"}
_COMPARISON = {"comparison.png": "The methods with their 95 % intervals; dashed lines: what could be reached."}
_CURVES = {
    "learning_rate.png": "Learning rate over steps, phases shaded.",
    "losses.png": "Losses over steps (below) and tokens (above).",
}


def score_of(method: Mapping[str, Any]) -> str:
    """By which score a model ranked: the recipe's, or the one that validation chose."""
    return method["chosen"]["score"] if method["score"] == "validation" else method["score"]


def headline_metrics(ks: Sequence[int]) -> list[str]:
    """The metrics of the table: hr at every k but the last (or the only one), and ndcg at the last."""
    return [f"hr@{k}" for k in (ks[:-1] or ks)] + [f"ndcg@{ks[-1]}"]


def console_table(results: Mapping[str, Any]) -> str:
    """The table as aligned plain text, with a second one if answers were generated and matched."""
    lines = [*_aligned(*_cells(results)), *(f"  {note}" for note in _notes(results, one_line))]
    head, body = _matched_cells(results)
    return "\n".join(lines + (["", *_aligned(head, body)] if body else []))


def report_markdown(results: Mapping[str, Any]) -> str:
    """`report.md`, with the pictures that stand beside it: of training too, if there are `curves`.

    Args:
        results: what stands in `results.json`.
    """
    corpus, head, body = results["corpus"], *_cells(results)
    lines = [
        f"# {escape(results['domain'])}: {escape(results['split'])} split of {escape(corpus['name'])}",
        "",
        *_piped(head, body),
        "",
        *(f"{note}\n" for note in _notes(results, escape)),
    ]
    head, body = _matched_cells(results)
    if body:
        lines += ["## Generate and match", "", *_piped(head, body), ""]
    for file, caption in {**_COMPARISON, **(_CURVES if results["curves"] else {})}.items():
        lines += [f"![{caption}]({file})", "", caption, ""]
    lines += sections(results)
    lines += ["## Protocol", "", *(f"- {line}" for line in _protocol(results)), "", "## Methods", ""]
    lines += [f"- **{escape(m['name'])}**: {_method(m)}" for m in results["methods"]]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines += ["", "## Where it comes from", ""]
    location = corpus["location"] + (f" at {corpus['revision']}" if corpus["revision"] else "")
    lines += [
        f"- Corpus {escape(location)}, content sha256 `{escape(corpus['content_sha256'])}`, "
        f"candidates sha256 `{escape(corpus['candidates_sha256'])}`.",
        f"- {escape(versions)}.",
        "- Every number with its interval is in `results.json`, every user's in `per_user.parquet`.",
    ]
    return "\n".join(lines) + "\n"


def _aligned(head: list[str], body: list[list[str]]) -> list[str]:
    """A table as lines of plain text, the first column to the left."""
    rows = [[one_line(cell) for cell in row] for row in [head, *body]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _piped(head: list[str], body: list[list[str]]) -> list[str]:
    """A table as lines of Markdown; the first column holds untrusted names."""
    return [
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join([escape(row[0]), *row[1:]]) + " |" for row in body),
    ]


def _cells(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    metrics, reference = headline_metrics(results["k"]), results["reference"]
    tested = [m for m in (metrics[0], metrics[-1]) if reference]
    head = ["method", *(f"{m} [95 %]" for m in metrics), "n", *(f"gain {m} (p boot / t)" for m in tested)]
    body = []
    for method in results["methods"]:
        row = [method["name"]]
        for metric in metrics:
            row.append(_value(method["metrics"][metric]))
        row.append(f"{results['users']:,}")
        for metric in tested:
            compared = method["against_reference"].get(metric)
            row.append(_gain(compared) if compared else "reference")
        body.append(row)
    return head, body


def _matched_cells(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The second table: a row for each method of kind generate."""
    metrics = ["hr_all", "hr_valid", "valid_ratio"]
    body = [
        [method["name"], *(_value(method["matched"][metric]) for metric in metrics), f"{results['users']:,}"]
        for method in results["methods"]
        if "matched" in method
    ]
    return ["generate and match", *(f"{metric} [95 %]" for metric in metrics), "n"], body


def _value(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _gain(compared: Mapping[str, Any]) -> str:
    p = [f"{compared[key]:.3f}" if compared[key] >= 0.001 else "<.001" for key in ("p_bootstrap", "p_t")]
    return f"{compared['difference']:+.3f} ({p[0]} / {p[1]})"


def _notes(results: Mapping[str, Any], shown: Callable[[object], str]) -> list[str]:
    """Lines under the table; `shown` makes untrusted names safe for where they stand."""
    notes = []
    if results["reference"]:
        metrics = headline_metrics(results["k"])
        against = "; ".join(f"{m}: {shown(results['reference'][m])}" for m in (metrics[0], metrics[-1]))
        notes.append(
            f"gain: over the reference ({against}); p: paired over users, by bootstrap and by t-test, two-sided, not "
            "corrected for the number of rows."
        )
    corpus_hash = results["corpus"]["content_sha256"]
    strangers = [m["name"] for m in results["methods"] if "record" in m and m["record"]["corpus_hash"] != corpus_hash]
    if strangers:
        notes.append(f"Trained on another corpus than the one evaluated: {', '.join(map(shown, strangers))}.")
    share = results.get("train_share")
    others = [m["name"] for m in results["methods"] if _share(m) != share and m.get("record", {}).get("domain")]
    if others:
        saw = "all training users" if share is None else f"{share:.4g} of the training users"
        notes.append(f"Baselines saw {saw}, not as many as these were fine-tuned on: {', '.join(map(shown, others))}.")
    return notes


def _share(method: Mapping[str, Any]) -> float | None:
    """The share of the training users that a model was fine-tuned on; None for all of them."""
    data = method.get("record", {}).get("data") or {}
    return data.get("train_share")


def _protocol(results: Mapping[str, Any]) -> list[str]:
    policy = results["corpus"]["split_policy"]["policy"]
    generated = [
        "Generate and match, for comparison with earlier work: the model writes an answer greedily, which is looked up "
        "by its text among the candidates. hr_all: right answers among all; hr_valid: among those that name a "
        "candidate; valid_ratio: how many do. In the first table the answer stands first, what names no candidate too, "
        "and the others follow in random order: hr@1 is hr_all.",
    ]
    return [
        f"{results['users']:,} users, {results['rows']:,} rows, split policy {escape(policy)}; {_ranked(results)}.",
        "Models score by log-likelihood, never by parsing generated text. Ties count as the mean over their orders.",
        *(generated if any("matched" in method for method in results["methods"]) else []),
        "A user's value is the mean over the user's rows; a method's is the mean over users.",
        f"95 % percentile intervals and bootstrap p-values from {results['bootstrap_resamples']:,} resamples of users, "
        f"the same for all methods (seed {results['seed']}).",
        "The reference is the best of the methods named as such, chosen for each metric by its value here.",
        "Baselines are fitted on training events only; histories, which every method is given, hold all "
        "the user did before the target, in the test split the validation events too.",
        "Baselines are fitted on training rows of at least two events: a lone event of a user or window makes no row.",
        "Methods with settings chose them on the validation split, from the grids above"
        + ("; these are the very rows shown here." if results["split"] == "validation" else "."),
        *_few_shot(results),
    ]


def _few_shot(results: Mapping[str, Any]) -> list[str]:
    if results.get("train_share") is None:
        return []
    seed = results["subset_seed"]
    drawn = "frozen in the corpus" if seed is None else f"drawn with seed {seed}"
    return [
        f"Few-shot: what is fitted on training rows here saw {results['train_share']:.4g} of the training users "
        f"({drawn}, as the stages' `train_share`); settings were chosen on all validation rows."
    ]


def _ranked(results: Mapping[str, Any]) -> str:
    column = results.get("candidate_set", "candidates")
    if column == "all":
        return f"each row ranks all {results['items']:,} items, for every method, what stands in its history last"
    frozen = f"each row ranks the same {results['candidates']} frozen candidates for every method"
    named = "" if column == "candidates" else f" (`{column}`)"
    return f"{frozen}{named}, out of {results['items']:,} items"


def _method(method: Mapping[str, Any]) -> str:
    parts = [escape(method["kind"])]
    if method.get("model") and "record" not in method:  # its embeddings of the titles are used, nothing else
        parts.append(f"titles read by {escape(method['model'])}")
    elif method.get("model"):
        record = method["record"]
        source = method["model"] + (f" at {method['revision']}" if method["revision"] else "")
        how = _HOW.get(method["kind"]) or f"score {escape(score_of(method))}"
        parts.append(f"{escape(source)}, {how}")
        if record["stage"] == "none":
            parts.append("a plain language model, as it is: zero-shot, with the corpus' template and items")
        else:
            parts.append(f"stage {escape(record['stage'])} from {escape(record['base'] or 'random weights')}")
            parts.append(f"{record['tokens']:,} tokens, seed {record['seed']}")
    elif method["kind"] in _ORACLES:
        parts.append("a ceiling: it knows the simulated marketplace's parameters")
    if "chosen" in method:
        chosen = ", ".join(f"{key} {value}" for key, value in method["chosen"].items())
        tried = len(method["grid"]) if isinstance(method["grid"], list) else method["grid"]  # a number in format 1
        parts.append(escape(f"{chosen} ({method['by']} {method['validation']:.3f}, best of {tried} settings)"))
    if "weights" in method:
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in method["weights"].items())
        parts.append(f"weights of standardised scores: {escape(weights)}")
    return "; ".join(parts) + "."
