"""From a study to its cells: what each is made from, and the hash that says so.

A corpus is a cell, a stage is a cell for each seed (and domain), a row is a cell for each domain and seed. A cell's
hash is of its resolved configuration, the hashes of the cells it needs, and the package's version: whatever is changed,
just what depends on it has another hash, and rows that share a model share its cell.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import cprec_hf
from cprec_hf.corpus.load import load_facts
from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import MethodConfig
from cprec_hf.evaluation.study.config import Row, StageNode, StudyConfig, Table
from cprec_hf.evaluation.study.resolve import OF_NODE, OF_STUDY, override, recipe_keys, stage_keys
from cprec_hf.recipes import check_keys, expand_environment, find_recipe, from_mapping, read_yaml

CELL_FORMAT = 1
"""Raised when a cell's files change their meaning."""
Changes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One thing to do, and all that its result depends on."""

    kind: Literal["corpus", "stage", "evaluate"]
    label: str
    """The corpus', the node's or the method's name."""
    config: dict[str, Any]
    """Resolved, without the paths of other cells."""
    needs: dict[str, str] = field(default_factory=dict)
    """What for -> the hash of another cell: corpus, start, model."""
    inside: str = ""
    """The checkpoint of `start` that is taken; empty for the finished model."""
    seed: int | None = None
    domain: str | None = None
    group: str = ""
    """The same for cells that differ in seed and domain alone, and so should take the same time."""
    seconds: float | None = None
    """Declared in the study."""

    @cached_property
    def hash(self) -> str:
        """sha256, in hex."""
        parts = [self.kind, self.config, self.needs, self.inside, CELL_FORMAT, cprec_hf.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of its folder: what, where, which seed, and the first ten digits of the hash."""
        parts = [
            self.kind if self.kind != "stage" else "",
            self.label,
            self.domain,
            self.seed is not None and f"s{self.seed}",
        ]
        said = [re.sub(r"[^a-z0-9]+", "-", str(part).lower()).strip("-")[:40] for part in parts if part]
        return ".".join([*(part for part in said if part), self.hash[:10]])


@dataclass(frozen=True)
class Place:
    """Where a cell's result stands in the tables."""

    table: str
    row: str
    domain: str
    seed: int
    cell: str
    """Hash."""


@dataclass(frozen=True)
class Plan:
    """All cells of a study by their hash, each after those it needs, and what they are for."""

    cells: dict[str, Cell]
    places: list[Place]


def make_plan(study: StudyConfig, *, quick: bool = False, only: str | None = None) -> Plan:
    """The cells of a study, those of the first tables and seeds first.

    Args:
        study: the study.
        quick: only what its `quick` says.
        only: the name of one table.

    Raises:
        InputError: an unknown table, stage or key, a circle of nodes, a row that changes what it does not stand on.
    """
    seeds, tables, without = study.seeds, list(study.tables), []
    if quick:
        if study.quick is None:
            raise InputError("--quick: the study has no `quick`")
        seeds, tables, without = study.quick.seeds, study.quick.tables, study.quick.without
    if only is not None:
        check_keys([only], study.tables, "--only")
        tables = [only]
    planner, places = _Planner(study), []
    for name in tables:
        table = study.tables[name]
        for seed in [seed for seed in seeds if seed in (table.seeds or seeds)]:
            for row_name, row in table.methods.items():
                if row_name not in without and seed in (row.seeds or seeds):
                    cells = planner.row(f"table {name!r}, row {row_name!r}", row_name, table, seed)
                    places += [Place(name, row_name, domain, seed, cell) for domain, cell in cells.items()]
    return Plan(planner.cells, places)


class _Planner:
    """Makes cells, each once."""

    def __init__(self, study: StudyConfig) -> None:
        self.study = study
        self.cells: dict[str, Cell] = {}
        self._recipes: dict[str, dict[str, Any]] = {}

    def row(self, where: str, name: str, table: Table, seed: int) -> dict[str, str]:
        """A row's cells by domain."""
        row, leaves = table.methods[name], table.leaves(name)
        for one in leaves:
            self._check_changes(where, leaves[one].change, self._node(leaves[one])[0])
        if row.change and name not in leaves:
            raise InputError(f"{where}: it is made of its parts; give them the `change`")
        corpora = {self._corpus_of_row(where, one, seed) for one in leaves.values()}
        if len(corpora) > 1:
            raise InputError(f"{where}: its parts stand on different corpora, and have no candidates in common")
        (corpus,) = corpora
        downstream = self._downstream(self.cells[corpus])
        check_keys(table.domains or [], downstream, f"{where}: `domains`")
        settings: dict[str, Any] = {
            "split": table.split,
            "candidates": table.candidates,
            "k": self.study.k,
            "seed": seed,
        }
        if row.train_share is not None:
            settings["train_share"] = row.train_share
        found = {}
        for domain in table.domains or downstream:
            needs = {"corpus": corpus}
            method, inside = self._method(where, row, seed, domain, needs, "model")
            config: dict[str, Any] = {"method": method}
            if name not in leaves:
                parts = [(part, table.methods[part]) for part in table.parts(name)]
                config["parts"] = [
                    {"name": part, **self._method(where, of, seed, domain, needs, f"model of {part}")[0]}
                    for part, of in parts
                ]
            shape = {**config, **settings, "seed": None}
            config |= {"domain": domain, **settings}
            label, seconds = self._node(row)[0] or row.method["kind"], row.seconds or self.study.evaluate_seconds
            cell = Cell("evaluate", label, config, needs, inside, seed, domain, "", seconds)
            found[domain] = self._add(cell, shape)
        return found

    def _method(
        self, where: str, row: Row, seed: int, domain: str, needs: dict[str, str], role: str
    ) -> tuple[dict[str, Any], str]:
        """A row's method without its model, which becomes a need of that role, and the checkpoint in it that is meant.

        A part's checkpoint stands in its method instead, since a cell has one `inside`.
        """
        method = dict(row.method)
        if method["kind"] == "model" and self.study.score is not None:
            method = {"score": self.study.score, **method}
        from_mapping({**method, "name": "row"}, MethodConfig, where)
        node, inside = self._node(row)
        if node is not None:
            needs[role] = self._stage(node, row.change, seed, domain, ())
            del method["model"]
            if role != "model":
                return {**method, "of": role, "inside": inside}, ""
        return method, inside

    def _node(self, row: Row) -> tuple[str | None, str]:
        """The node that a row's model is, and the checkpoint in it; none for a folder, a repo, or no model."""
        node, _, inside = (row.method.get("model") or "").partition("/")
        return (node, inside) if node in self.study.nodes else (None, "")

    def _corpus_of_row(self, where: str, row: Row, seed: int) -> str:
        return self._corpus(self._corpus_of(self._node(row)[0], row.change, where), row.change, seed)

    def _stage(self, name: str, changes: Changes, seed: int, domain: str | None, behind: tuple[str, ...]) -> str:
        """The hash of a node's cell, after those it needs."""
        if name in behind:
            raise InputError(f"nodes go round in a circle: {' from '.join([*behind, name])}")
        node, where = self._changed(name, changes), f"node {name!r}"
        config = {key: value for key, value in self._recipe(node.recipe).items() if key not in OF_STUDY}
        config |= {"seed": "{seed}"}
        config, shape = (override(config, node.keys, s) for s in (seed, None))
        stage_domain = None
        known = stage_keys(node.stage, where)
        check_keys(config, known - set(OF_STUDY), where)
        if "domain" in known:
            stage_domain = config["domain"] = domain
        needs = {"corpus": self._corpus(self._corpus_of(name, changes, where), changes, seed)}
        start, _, inside = (node.start or "").partition("/")
        if start in self.study.nodes:
            needs["start"] = self._stage(start, changes, seed, domain, (*behind, name))
        elif node.start is not None:
            config["start"], inside = node.start, ""
        if (node.start is None) == (node.stage != "base"):
            raise InputError(f"{where}: `from` is needed by every stage but base, which begins from nothing")
        cell = Cell("stage", name, {"stage": node.stage, **config}, needs, inside, seed, stage_domain, "", node.seconds)
        return self._add(cell, {"stage": node.stage, **shape, "domain": None, "start": config.get("start")})

    def _corpus(self, name: str, changes: Changes, seed: int) -> str:
        node = self.study.corpora[name]
        if node.folder is not None:
            folder = expand_environment(node.folder, f"corpus {name!r}")
            facts = load_facts(folder)
            hashes = {"content": facts["content_sha256"], "candidates": facts["candidates"]["sha256"]}
            return self._add(Cell("corpus", name, {"folder": node.folder, **hashes}), hashes)
        recipe = {key: value for key, value in self._recipe(node.recipe).items() if key != "output"}
        keys = {**node.keys, **recipe_keys(changes.get(name, {}))}
        config, shape = (override(recipe, keys, s) for s in (seed, None))
        seconds = changes.get(name, {}).get("seconds", node.seconds)
        return self._add(Cell("corpus", name, config, seed=seed if config != shape else None, seconds=seconds), shape)

    def _add(self, cell: Cell, shape: Mapping[str, Any]) -> str:
        """Keep a cell; `shape` is its configuration without seed and domain."""
        groups = {role: self.cells[need].group for role, need in cell.needs.items()}
        group = hashlib.sha256(json.dumps([cell.kind, cell.label, shape, groups, cell.inside], sort_keys=True).encode())
        self.cells.setdefault(cell.hash, dataclasses.replace(cell, group=group.hexdigest()[:16]))
        return cell.hash

    def _changed(self, name: str, changes: Changes) -> StageNode:
        node, change = self.study.nodes[name], dict(changes.get(name, {}))
        own = {field: change.pop(key) for key, field in OF_NODE.items() if key in change}
        return dataclasses.replace(node, keys={**node.keys, **change}, **own)

    def _corpus_of(self, node: str | None, changes: Changes, where: str) -> str:
        """The name of the corpus that a node reads, or of the only one there is."""
        seen: list[str] = []
        while node is not None and node not in seen:
            seen.append(node)
            changed = self._changed(node, changes)
            if changed.corpus is not None:
                check_keys([changed.corpus], self.study.corpora, f"node {node!r}: `corpus`")
                return changed.corpus
            start = (changed.start or "").partition("/")[0]
            node = start if start in self.study.nodes else None
        first, *others = self.study.corpora
        if others:
            raise InputError(f"{where}: name one of several corpora: {', '.join(self.study.corpora)}")
        return first

    def _downstream(self, corpus: Cell) -> list[str]:
        if "folder" in corpus.config:
            domains = load_facts(expand_environment(corpus.config["folder"], f"corpus {corpus.label!r}"))["domains"]
            return [domain for domain, about in domains.items() if about["role"] == "downstream"]
        if not corpus.config.get("downstream"):
            raise InputError(f"corpus {corpus.label!r}: its recipe names no `downstream` domains to evaluate on")
        return list(corpus.config["downstream"])

    def _check_changes(self, where: str, changes: Changes, node: str | None) -> None:
        """Refuse a change of what the row does not stand on, which would do nothing."""
        stands_on = {self._corpus_of(node, changes, where)}
        while node is not None and node not in stands_on:
            stands_on |= {node, self._corpus_of(node, changes, where)}
            start = (self._changed(node, changes).start or "").partition("/")[0]
            node = start if start in self.study.nodes else None
        if idle := [name for name in changes if name not in stands_on]:
            raise InputError(f"{where}: it changes {idle[0]!r}, and stands on {', '.join(sorted(stands_on))} alone")

    def _recipe(self, name: str | None) -> dict[str, Any]:
        if name is None:
            return {}
        if name not in self._recipes:
            self._recipes[name] = read_yaml(find_recipe(name))
        return self._recipes[name]
