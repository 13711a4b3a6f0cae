"""What a corpus card says of its held-out rows: sets of candidates, few-shot subsets, and how much of it is cold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cprec_hf.hub.markdown import Safe, code_span, table

_POLICIES = {
    "uniform": "uniformly",
    "popularity": "in proportion to an item's training events in the domain plus one",
    "category": "uniformly from the target's category, which the set therefore gives away",
}


def downstream_values(facts: Mapping[str, Any]) -> dict[str, Safe | None]:
    """Tables for the card's template, each None where there is nothing to say.

    Args:
        facts: the keys of `cprec-corpus.json`; those of older releases have neither `few_shot` nor `cold`.

    Returns:
        `sets` (None where the one set is uniform), `few_shot`, `cold`.
    """
    sets = facts["candidates"].get("sets") or {"candidates": "uniform"}
    drawn = [[code_span(column), Safe(_POLICIES[policy])] for column, policy in sets.items()]
    return {
        "sets": table(["column", "its negatives are drawn"], drawn) if [*sets.values()] != ["uniform"] else None,
        "few_shot": _few_shot(facts) if facts.get("few_shot") else None,
        "cold": _cold(facts["cold"]) if facts.get("cold") else None,
    }


def _few_shot(facts: Mapping[str, Any]) -> Safe:
    rows = [
        [code_span(config), code_span(split), f"{share:.4%}".rstrip("0%").rstrip(".") + " %", splits[split]]
        for config, splits in facts["counts"].items()
        for split, share in facts["few_shot"].items()
        if splits.get(split)
    ]
    return table(["config", "split", "of the training users", "rows"], rows)


def _cold(cold: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Safe:
    rows = [
        [domain, split, *(n[key] for key in ("rows", "cold_user", "cold_item", "both"))]
        for domain, splits in cold.items()
        for split, n in splits.items()
    ]
    return table(["domain", "split", "rows", "of cold users", "of cold items", "of both"], rows)
