"""Configurations resolved: a recipe with a study's keys in place of its own, and the seed filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cprec_hf.errors import InputError
from cprec_hf.recipes import check_keys

OF_NODE = {"from": "start", "corpus": "corpus", "seconds": "seconds"}
"""Keys of a change that are the node's own, with their names in Python."""
OF_STUDY = ("corpus", "output_dir", "model_name_or_path", "init_from")
"""Keys of a stage that the study decides."""


def recipe_keys(change: Mapping[str, Any]) -> dict[str, Any]:
    """What a change says of the recipe, the node's own keys left out."""
    return {key: value for key, value in change.items() if key not in OF_NODE}


def stage_keys(stage: str, where: str) -> set[str]:
    """The keys a stage's recipe may have; raises `InputError` for an unknown stage."""
    import trl

    from cprec_hf.training.arguments import STAGES

    check_keys([stage], STAGES, f"{where}: `stage`")
    classes: Iterable[Any] = (STAGES[stage], trl.DPOConfig if stage == "preference" else trl.SFTConfig, trl.ModelConfig)
    return {f.name for cls in classes for f in dataclasses.fields(cls) if f.init}


def override(config: Mapping[str, Any], keys: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """A configuration with some keys replaced and `{seed}` filled in.

    `a.b` is a key within `a`, `a.0.b` one in the first of a list; null leaves a key out.

    Args:
        config: what a recipe says.
        keys: what takes its place.
        seed: of the study; None leaves `{seed}` as it stands.

    Raises:
        InputError: a list that is not so long.
    """
    made = dict(config)
    for key, value in keys.items():
        first, _, rest = key.partition(".")
        if rest and isinstance(made.get(first), list):
            number, _, deeper = rest.partition(".")
            made[first] = list(made[first])
            if not number.isdigit() or int(number) >= len(made[first]) or not deeper:
                raise InputError(f"`{key}`: `{first}` is a list of {len(made[first])}; count from 0, then name a key")
            made[first][int(number)] = override(made[first][int(number)], {deeper: value}, None)
        elif rest:
            made[first] = override(made.get(first) or {}, {rest: value}, None)
        elif value is None:
            made.pop(key, None)
        else:
            made[key] = value
    return made if seed is None else _seeded(made, seed)


def _seeded(value: Any, seed: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _seeded(inner, seed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_seeded(inner, seed) for inner in value]
    if isinstance(value, str) and "{seed}" in value:
        return seed if value == "{seed}" else value.replace("{seed}", str(seed))
    return value
