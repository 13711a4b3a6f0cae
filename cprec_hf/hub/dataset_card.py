"""The card of a corpus: what it is, how to load it, how it was made and checked, and the recipe to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import yaml

from cprec_hf.hub.card_parts import is_repo_id, last_part, licence_metadata, literal, place, put_together
from cprec_hf.hub.downstream_card import downstream_values
from cprec_hf.hub.markdown import Safe, fenced, one_line, render, table

SPLITS = ("train", "validation", "test")
_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
)  # fmt: skip
_KINDS = {
    "domain": "what one user did in one domain",
    "all_domain": "what one user did in all domains, in the order it was done",
    "domain_shuffled_time": "a control: the `domain` documents with the lines of each in random order",
    "all_domain_shuffled_time": "a control: the `all_domain` documents with the lines of each in random order",
    "all_domain_shuffled_users": "a control: `all_domain` documents of users who do not exist, whose histories in "
    "different domains are different users'",
    "items": "an item's own text, without any behaviour (config `items`)",
}
_LENGTHS = ("median", "p90", "max")
# Keys of a source that hold words; whatever else holds a slash is a path.
_WORDS = ("kind", "name", "licence", "citation", "domain", "domains", "unseen", "columns", "item_columns")


def render_dataset_card(facts: Mapping[str, Any], *, repo_id: str | None = None, free: str = "") -> str:
    """The README.md of a corpus.

    Args:
        facts: the keys of `cprec-corpus.json`. `counts` decides which configs and splits the card offers to
            `load_dataset`: those with rows. Where there, it shows as well `recipe` (the whole recipe as a mapping;
            without it the recipe is told as far as the other facts hold it), `documents` (kind -> number) and in each
            domain `lengths` (`median`, `p90` and `max` of the interactions of a user), `figures` (what `figures/*.png`
            are drawn from) and `shards` (config -> split -> number of files, one if not given).
        repo_id: the dataset repo it is pushed to, for the code that loads it.
        free: what a person wrote, see `card_parts.free_section`.
    """
    about, cuts = facts["about"], facts["split"].get("cuts") or {}
    downstream = [name for name, d in facts["domains"].items() if d["role"] == "downstream"]
    configs = _configs(facts["counts"], facts.get("shards", {}))
    body = render(
        "dataset_cards",
        "corpus.md.jinja",
        {
            **{key: facts[key] for key in ("name", "template", "candidates", "content_sha256", "titles", "seed")},
            "where": literal(repo_id if is_repo_id(repo_id) else "path/or/repo-id"),
            "about": about,
            "citation": fenced(about["citation"]),
            "source_kind": facts["source"].get("kind", "unknown"),
            "tokenizer": place(facts["tokenizer"]),
            "trained_tokenizer": facts["tokenizer"] == "tokenizer",
            "policy": facts["split"]["policy"],
            "cuts": [(name, _time(value, about["order"])) for name, value in cuts.items()],
            "domains": _domains(facts["domains"]),
            "downstream": downstream,
            "pretrained": any(c["config_name"] == "cpt" for c in configs),
            "sft": [literal(c["config_name"]) for c in configs if c["config_name"].startswith("sft-")],
            "pseudonymised": facts.get("pseudonymised"),
            "counts": table(
                ["config", *SPLITS],
                [[name, *(splits.get(s, 0) for s in SPLITS)] for name, splits in facts["counts"].items()],
            ),
            "kinds": _kinds(facts),
            **_pictures(facts.get("figures")),
            **downstream_values(facts),
            "audit": table(
                ["check", "passed", "rows looked at", "found"],
                [[row["check"], "yes" if row["passed"] else "NO", row["n"], row["detail"]] for row in facts["audit"]],
            ),
            "account": table(
                ["step", "rows in", "rows out", "refused"],
                [[s["name"], s["rows_in"], s["rows_out"], _refused(s["refused"])] for s in facts["account"]],
            ),
            "recipe": fenced(_yaml(recipe_of(facts)), "yaml"),
            "whole_recipe": "recipe" in facts,
            "package_version": facts.get("cprec_hf"),
        },
    )
    rows = sum(n for splits in facts["counts"].values() for n in splits.values())
    metadata = {
        "pretty_name": one_line(facts["name"]),
        **licence_metadata(about["licence"]),
        "task_categories": ["text-generation"],
        "tags": ["cprec", "recommendation", "sequential-recommendation", "continual-pre-training"],
        "size_categories": [next((name for below, name in _SIZES if rows < below), "10B<n<100B")],
        "configs": configs,
    }
    return put_together(metadata, body, free)


def recipe_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a corpus, as far as its facts hold it, with nothing of this machine but the names of files."""
    if "recipe" in facts:
        recipe = dict(facts["recipe"])
    else:
        recipe = {
            "name": facts["name"],
            "source": facts["source"],
            "downstream": [name for name, d in facts["domains"].items() if d["role"] == "downstream"],
            "tokenizer": facts["tokenizer"],
            **{key: value for key, value in facts["template"].items() if key != "version"},
            "split": {"policy": facts["split"]["policy"]},
            "candidates": facts["candidates"]["count"],
            **({"pseudonymise": facts["pseudonymised"]} if "pseudonymised" in facts else {}),
            "seed": facts["seed"],
        }
    recipe["source"] = {
        key: value if key in _WORDS else _without_folders(value) for key, value in recipe["source"].items()
    }
    if isinstance(recipe["tokenizer"], str):
        recipe["tokenizer"] = place(recipe["tokenizer"])
    return recipe | {"output": "corpus"}


def _configs(counts: Mapping[str, Mapping[str, int]], shards: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = []
    for name, splits in counts.items():
        wanted = [*SPLITS, *(split for split in splits if split not in SPLITS)]  # few-shot splits last
        of_config = shards.get(name, {})
        files = [
            {"split": split, "path": f"{name}/{split}{'-*' if of_config.get(split, 1) > 1 else ''}.parquet"}
            for split in wanted
            if splits.get(split)
        ]
        if files:
            configs.append({"config_name": name, "data_files": files, **({"default": True} if name == "cpt" else {})})
    return configs


def _domains(domains: Mapping[str, Mapping[str, Any]]) -> Safe:
    """A row a domain; the quantiles of its lengths where they were recorded."""
    measured = any(d.get("lengths") for d in domains.values())
    columns = ["domain", "role", "users", "items", "interactions", "interactions a user: mean"]
    rows = []
    for name, d in domains.items():
        row = [name, d["role"], d["users"], d["items"], d["interactions"], d["interactions"] / max(1, d["users"])]
        rows.append([*row, *((d.get("lengths") or {}).get(key, "") for key in _LENGTHS if measured)])
    return table([*columns, *(("median", "most, of 90 % of users", "most") if measured else ())], rows)


def _pictures(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the card says of its pictures, and the table of titles; nothing of a corpus without them."""
    if figures is None:
        return {"overlap_alt": None, "lengths_alt": None, "titles_table": None}
    names, users = figures["overlap"]["domains"], figures["overlap"]["users"]
    pairs = [(users[i][j], names[i], names[j]) for i in range(len(names)) for j in range(i)]
    n, one, other = max(pairs, default=(0, "", ""), key=lambda pair: pair[0])
    most = f"; most users in {one} and {other}: {n:,}" if n else "; no user is active in two"
    titles = [[name, c["items"], c["repeated"], c["shared"]] for name, c in figures["titles"].items()]
    kinds = figures["document_tokens"]["documents"]
    return {
        "overlap_alt": f"Heatmaps: users active in both of two domains, and titles that both have{most}.",
        "lengths_alt": "Histograms: interactions of a user in each domain, on logarithmic axes, and tokens of a "
        f"pre-training document ({', '.join(kinds)}).",
        "titles_table": table(
            ["domain", "items", "share their title within the domain", "share it with another domain"], titles
        ),
    }


def _kinds(facts: Mapping[str, Any]) -> Safe:
    """A row a kind of document: what it is, how many there are where that was recorded, and their tokens."""
    documents = facts.get("documents")
    rows = [
        [kind, Safe(_KINDS.get(kind, "")), *([documents.get(kind, "")] if documents else []), tokens]
        for kind, tokens in facts["tokens"].items()
    ]
    return table(["kind of document", "what it tells", *(["documents"] if documents else []), "tokens"], rows)


def _without_folders(value: Any) -> Any:
    """Paths cut to their last part, in lists too; a leading `${VARIABLE}` and addresses of the Hub and the web stay."""
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, Mapping):
        return {key: item if key == "dataset" else _without_folders(item) for key, item in value.items()}
    if not isinstance(value, str) or re.match(r"(hf|https?)://", value) or not re.search(r"[/\\]", value):
        return value
    variable = re.match(r"\$\{\w+\}/", value)
    return f"{variable[0] if variable else ''}{last_part(value)}"


def _yaml(values: Mapping[str, Any]) -> str:
    """YAML that reads back equal from a code block, where invisible characters would not stand as they are."""
    plain = json.loads(json.dumps(values))  # no tuples, and no object twice, which YAML would write as an alias
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=110)
    if all(line.isprintable() for line in text.split("\n")):
        return text
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=False, width=110)


def _refused(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {n:,}" for reason, n in refused.items() if n) or "none"


def _time(value: Any, order: str) -> str:
    if order == "time" and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return str(value)
