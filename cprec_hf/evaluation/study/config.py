"""What a study recipe may say (`recipes/study-*.yaml`), checked before any work starts.

    corpora:
      world: {recipe: study-tiny/corpus.yaml, with: {source.seed: "{seed}"}}
    nodes:
      base: {stage: base, recipe: study-tiny/base.yaml, corpus: world}
      cpt: {stage: cpt, recipe: study-tiny/cpt.yaml, from: base}
      sft: {stage: sft, recipe: study-tiny/sft.yaml, from: cpt}
    tables:
      main:
        rows:
          CPT + SFT: {kind: model, model: sft}
          SFT only: {kind: model, model: sft, change: {sft: {from: base}}}
          twice as wide: {kind: model, model: sft, change: {base: {hidden_size: 192}}}

A row is a method of an evaluation whose `model` is a node. Its `change` varies nodes or corpora that it stands on: one
factor a row, and what the change does not touch is trained once for all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cprec_hf.errors import InputError
from cprec_hf.evaluation.config import EvaluateConfig, MethodConfig
from cprec_hf.recipes import check_keys, find_recipe, from_mapping, read_yaml

_NAMES = {"with": "keys", "from": "start"}  # words that Python keeps for itself
_ROW = ("change", "line", "at", "seconds", "train_share", "seeds")


@dataclass(frozen=True)
class CorpusNode:
    """A corpus: built from a recipe, or a folder that is there already."""

    recipe: str | None = None
    """A corpus recipe."""
    keys: dict[str, Any] = field(default_factory=dict)
    """In place of the recipe's, `source.seed: 3` within a mapping; `{seed}` is the study's seed. Written as `with`."""
    folder: str | None = None
    """A corpus folder, in place of a recipe; `${NAME}` is that environment variable."""
    seconds: float | None = None
    """What building it takes, until one has been measured."""

    def __post_init__(self) -> None:
        """Raise `InputError` unless there is either a recipe or a folder."""
        if (self.recipe is None) == (self.folder is None):
            raise InputError("a corpus has a `recipe` to build it by, or a `folder` where it is; give one of them")
        if self.folder is not None and self.keys:
            raise InputError("a corpus in a `folder` is what it is; `with` goes with a `recipe`")


@dataclass(frozen=True)
class StageNode:
    """A training stage, run for each seed, and for each downstream domain if it takes one."""

    stage: str
    """As `cprec train` calls it, or anneal."""
    recipe: str | None = None
    """A recipe of the stage. Its corpus, its model, its output and its seed are the study's."""
    start: str | None = None
    """The model it begins from: a node, a checkpoint of one (`cpt/checkpoint-300`), or a folder or repo (with `${NAME}`
    as an environment variable). Written as `from`."""
    corpus: str | None = None
    """One of `corpora`; by default that of the node it begins from, or the only one."""
    keys: dict[str, Any] = field(default_factory=dict)
    """In place of the recipe's, null to leave one out. Written as `with`."""
    seconds: float | None = None
    """What it takes, until one has been measured."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    method: dict[str, Any]
    """Keys of `MethodConfig`; `model` is a node, a checkpoint of one (`trunk/checkpoint-300`), or a folder or repo;
    `parts` are rows of the table."""
    change: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By node or corpus: its `from`, `corpus` or `seconds`, and any other key as in its `with`."""
    line: str | None = None
    """Of a table with an axis: which line of the plot the row is on; its name if not given."""
    at: float | str | None = None
    """Where on the axis."""
    seconds: float | None = None
    """What measuring it takes, until one has been measured."""
    train_share: float | None = None
    """Share of the training users that a baseline is fitted on; a model's is a `change` of its fine-tuning."""
    seeds: list[int] | None = None
    """Some of the table's seeds, for a row that takes long; all if not given. It is compared on these alone."""


@dataclass(frozen=True)
class Table:
    """A question: some rows, on all or some of the domains and seeds."""

    rows: dict[str, dict[str, Any]]
    """Name -> keys of `Row` and of `MethodConfig` side by side."""
    title: str | None = None
    question: str | None = None
    """What the table answers, in a sentence."""
    reference: list[str] = field(default_factory=list)
    """Rows: each other row is compared with the best of them, domain by domain and metric by metric."""
    ceiling: str | None = None
    """A row: the others' share of its hit rate is given. Or a line of the axis: each row's share of the line's row at
    the same place."""
    details: bool = False
    """Whether the report says too how rows are calibrated, where among the candidates their choices stand, and what
    their lists are like."""
    axis: str | None = None
    """What the rows' `at` counts; the table is then drawn as lines."""
    seeds: list[int] | None = None
    """Some of the study's; all if not given."""
    domains: list[str] | None = None
    """Some of the downstream domains; all if not given."""
    split: Literal["test", "validation"] = "test"
    """What is scored."""
    candidates: Literal["uniform", "popularity", "category", "all"] | None = None
    """What each row ranks, as in an evaluation."""

    @cached_property
    def methods(self) -> dict[str, Row]:
        """The rows, by name."""
        return {name: _row(name, values) for name, values in self.rows.items()}

    def parts(self, name: str) -> list[str]:
        """All rows that a hybrid is made of, hybrids among them after their own parts; none of any other row."""
        found: list[str] = []
        for part in self.methods[name].method.get("parts", []):
            found += [other for other in [*self.parts(part), part] if other not in found]
        return found

    def leaves(self, name: str) -> dict[str, Row]:
        """The rows a hybrid is made of in the end, by name; of any other row itself."""
        return {one: self.methods[one] for one in [*self.parts(name), name] if "parts" not in self.methods[one].method}

    def __post_init__(self) -> None:
        """Raise `InputError` for rows that make no table."""
        if not self.rows:
            raise InputError("`rows` is empty; name at least one")
        methods = [from_mapping({**row.method, "name": name}, MethodConfig, "") for name, row in self.methods.items()]
        EvaluateConfig("", "", "", methods, split=self.split, candidates=self.candidates)  # whether they go together
        lines = [row.line for row in self.methods.values() if row.line is not None]
        unknown = [name for name in self.reference if name not in self.rows]
        unknown += [self.ceiling] if self.ceiling and self.ceiling not in [*self.rows, *lines] else []
        if unknown:
            raise InputError(f"{unknown[0]!r} is named and is no row of the table; it has {', '.join(self.rows)}")
        off = [name for name, row in self.methods.items() if (row.at is not None) and self.axis is None]
        if off:
            raise InputError(f"row {off[0]!r} stands at a place of an axis; give the table an `axis`, in words")


@dataclass(frozen=True)
class Quick:
    """What `--quick` leaves of a study; its cells are among the whole study's."""

    tables: list[str]
    seeds: list[int]
    without: list[str] = field(default_factory=list)
    """Rows that are left out."""


@dataclass(frozen=True)
class StudyConfig:
    """A study."""

    name: str
    output: str
    """Folder to write: `cells/`, and the report."""
    seeds: list[int]
    """Each runs everything anew: `{seed}` in a corpus, and `seed` of every stage."""
    corpora: dict[str, CorpusNode]
    nodes: dict[str, StageNode]
    tables: dict[str, Table]
    """Name -> a table, or the file of one."""
    k: list[int] = field(default_factory=lambda: [1, 5, 10])
    """Cut-offs of the metrics."""
    score: str | None = None
    """`score` of the rows of kind model that do not say their own; see `MethodConfig`."""
    evaluate_seconds: float | None = None
    """What measuring a row on one domain takes, until one has been measured."""
    quick: Quick | None = None

    def __post_init__(self) -> None:
        """Raise `InputError` for names that clash or lead nowhere."""
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"`seeds` is {self.seeds}; give one or more, from 0 up, each once")
        if both := self.corpora.keys() & self.nodes.keys():
            raise InputError(f"{min(both)!r} names a corpus and a node; give each its own name")
        if slashed := [name for name in [*self.corpora, *self.nodes] if "/" in name or not name]:
            raise InputError(f"{slashed[0]!r} is no name for a corpus or a node: a slash leads to a checkpoint")
        for name, node in self.nodes.items():
            if node.corpus is not None:
                check_keys([node.corpus], self.corpora, f"node {name!r}: `corpus`")
        for name, table in self.tables.items():
            named = [*(table.seeds or []), *(seed for row in table.methods.values() for seed in row.seeds or [])]
            if strange := [seed for seed in named if seed not in self.seeds]:
                raise InputError(f"table {name!r}: seed {strange[0]} is not among the study's: {self.seeds}")
            for row in table.methods.values():
                check_keys(row.change, [*self.corpora, *self.nodes], f"table {name!r}: `change`")
        if self.quick is not None:
            check_keys(self.quick.tables, self.tables, "`quick.tables`")
            check_keys(map(str, self.quick.seeds), map(str, self.seeds), "`quick.seeds`")


def read_study(recipe: str | Path) -> StudyConfig:
    """Read a study and the files of its tables.

    Raises:
        InputError: unknown or missing keys, values of a wrong type, names that clash or lead nowhere.
    """
    file = find_recipe(str(recipe))
    values = read_yaml(file)
    for part in ("corpora", "nodes"):
        if isinstance(values.get(part), dict):
            values[part] = {name: _renamed(node) for name, node in values[part].items()}
    if isinstance(values.get("tables"), dict):
        files = {name: find_recipe(table) for name, table in values["tables"].items() if isinstance(table, str)}
        values["tables"] = {**values["tables"], **{name: read_yaml(file) for name, file in files.items()}}
    return from_mapping(values, StudyConfig, str(file))


def _row(name: str, values: Mapping[str, Any]) -> Row:
    own = {key: value for key, value in values.items() if key in _ROW}
    method = {key: value for key, value in values.items() if key not in _ROW}
    from_mapping({**method, "name": name}, MethodConfig, f"row {name!r}")  # whether it is one, before there is a model
    return from_mapping({**own, "method": method}, Row, f"row {name!r}")


def _renamed(node: Any) -> Any:
    return {_NAMES.get(key, key): value for key, value in node.items()} if isinstance(node, dict) else node
