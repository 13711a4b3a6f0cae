"""From cells to numbers: means over users, domains and seeds, how they vary, and who is better than whom.

A row's value on a domain is the mean over seeds of the mean over users. Its interval, and its comparison with the best
of the table's reference rows, come from `metrics/paired_significance.compare_paired`: seeds are resampled, then users.
P-values of a row are adjusted by Holm over the domains. Overall: the mean over domains, with the standard deviation
over seeds (of that mean) and over domains (of the means over seeds).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cprec_hf.evaluation.study.cells import PER_USER, RESULT, Cells
from cprec_hf.evaluation.study.config import StudyConfig, Table
from cprec_hf.evaluation.study.details import details, trained_on
from cprec_hf.evaluation.study.plan import Place, Plan
from cprec_hf.metrics.paired_significance.paired_significance import RESAMPLES, compare_paired, holm

STUDY_FORMAT = 1
_NO_METRICS = ("user_id", "rows")


@dataclass(frozen=True)
class Measured:
    """A row on a domain: the values of all users of all finished seeds."""

    seeds: np.ndarray
    """int64 [n]."""
    users: np.ndarray
    """Labels [n]: a user of the same corpus is the same in all seeds, of another corpus another."""
    values: dict[str, np.ndarray]
    """By metric, float64 [n]."""
    results: list[dict[str, Any]]
    """`result.json` of each seed."""

    def by_seed(self, metric: str) -> dict[int, float]:
        """Each seed's mean over users."""
        return {int(s): float(self.values[metric][self.seeds == s].mean()) for s in np.unique(self.seeds)}

    def of(self, seeds: Sequence[int]) -> Measured:
        """Only some seeds."""
        keep = np.isin(self.seeds, seeds)
        values = {metric: values[keep] for metric, values in self.values.items()}
        return Measured(self.seeds[keep], self.users[keep], values, self.results)


def headline(ks: Sequence[int]) -> list[str]:
    """The metrics that tables show and tests are made on: the first hit rate and the last ndcg."""
    return [f"hr@{ks[0]}", f"ndcg@{ks[-1]}"]


def aggregate(study: StudyConfig, plan: Plan) -> dict[str, Any]:
    """All tables of a plan, from the cells that are finished: what `results.json` holds.

    Rows whose cells are not all there say so (`cells`, `planned`), and are compared on the seeds that both sides have.
    """
    cells = Cells(study.output)
    tables = {}
    for name in dict.fromkeys(place.table for place in plan.places):
        places = [place for place in plan.places if place.table == name]
        tables[name] = _table(study, study.tables[name], places, cells, plan)
    return {
        "format": STUDY_FORMAT, "study": study.name, "seeds": study.seeds, "k": study.k,
        "bootstrap_resamples": RESAMPLES, "tables": tables, "models": _models(study, plan, cells),
    }  # fmt: skip


def _models(study: StudyConfig, plan: Plan, cells: Cells) -> list[dict[str, Any]]:
    """Of each model that was ranked on test users an evaluation of it alone, as its card takes it; once a cell."""
    found = {}
    for place in plan.places:
        cell = plan.cells[place.cell]
        wanted = cell.config["method"]["kind"] == "model" and cell.config["split"] == "test"
        if place.cell in found or not wanted or not cells.is_done(cell):
            continue
        result = json.loads((cells.path(cell) / RESULT).read_text(encoding="utf-8"))
        method = {"name": place.row, "revision": None, "score": "sum", **result["method"], "metrics": result["metrics"]}
        found[place.cell] = {
            "study_seed": place.seed, "corpus": result["corpus"], "domain": place.domain, "split": "test",
            "candidates": result["candidates"], "users": result["users"], "k": study.k, "methods": [method],
            "curves": [],
        }  # fmt: skip
    return [*found.values()]


def _table(study: StudyConfig, table: Table, places: list[Place], cells: Cells, plan: Plan) -> dict[str, Any]:
    domains = list(dict.fromkeys(place.domain for place in places))
    found: dict[tuple[str, str], Measured] = {}
    planned: dict[str, list[Place]] = {}
    for place in places:
        planned.setdefault(place.row, []).append(place)
    for row, mine in planned.items():
        for domain in domains:
            measured = _read(cells, plan, [place for place in mine if place.domain == domain])
            if measured is not None:
                found[row, domain] = measured
    metrics = headline(study.k)
    rows = {}
    for name, mine in planned.items():
        by_domain = {domain: found[name, domain] for domain in domains if (name, domain) in found}
        rows[name] = {
            **_what(table, name),
            "cells": sum(cells.is_done(plan.cells[place.cell]) for place in mine),
            "planned": len(mine),
            "seeds": sorted({place.seed for place in mine}),
            "domains": {domain: _summary(measured, metrics) for domain, measured in by_domain.items()},
            "overall": _overall(by_domain, metrics),
            "trained": trained_on([plan.cells[place.cell] for place in mine], plan, cells),
            "details": details([result for measured in by_domain.values() for result in measured.results]),
        }
    for name in rows:
        _compare(rows[name], name, table, found, domains, metrics)
    _shares(rows, table, metrics[0])
    return {
        "title": table.title, "question": table.question, "axis": table.axis, "split": table.split,
        "reference": table.reference, "ceiling": table.ceiling, "details": table.details, "domains": domains,
        "seeds": sorted({place.seed for place in places}), "rows": rows,
    }  # fmt: skip


def _read(cells: Cells, plan: Plan, places: list[Place]) -> Measured | None:
    """The finished cells of a row on a domain."""
    seeds, users, parts, results = [], [], [], []
    for place in places:
        cell = plan.cells[place.cell]
        if not cells.is_done(cell):
            continue
        table = pq.read_table(cells.path(cell) / PER_USER)
        result = json.loads((cells.path(cell) / RESULT).read_text(encoding="utf-8"))
        corpus = result["corpus"]["content_sha256"]
        seeds.append(np.full(len(table), place.seed))
        users.append(np.array([f"{corpus}/{user}" for user in table["user_id"].to_pylist()]))
        parts.append({name: table[name].to_numpy() for name in table.column_names if name not in _NO_METRICS})
        results.append(result)
    if not parts:
        return None
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Measured(np.concatenate(seeds), np.concatenate(users), values, results)


def _what(table: Table, name: str) -> dict[str, Any]:
    row = table.methods[name]
    return {"method": row.method, "change": row.change, "line": row.line or name, "at": row.at}


def _summary(measured: Measured, metrics: Sequence[str]) -> dict[str, Any]:
    """A row on a domain: every metric's mean and its spread over seeds, the headline ones with intervals."""
    summary: dict[str, Any] = {"users": measured.results[0]["users"], "metrics": {}, "against": {}}
    for metric, values in measured.values.items():
        by_seed = measured.by_seed(metric)
        means = np.array(list(by_seed.values()))
        said = {"mean": float(means.mean()), "std_seeds": _std(means), "by_seed": by_seed}
        if metric in metrics:
            interval = compare_paired(values, np.zeros(len(values)), users=measured.users, seeds=measured.seeds)
            said |= {"low": interval.low, "high": interval.high}
        summary["metrics"][metric] = said
    return summary


def _overall(by_domain: Mapping[str, Measured], metrics: Sequence[str]) -> dict[str, Any]:
    """Means over domains, on the seeds that are there for all of them."""
    if not by_domain:
        return {}
    common = set.intersection(*({int(s) for s in measured.seeds} for measured in by_domain.values()))
    if not common:
        return {}
    overall = {}
    for metric in metrics:
        values = np.array([[measured.by_seed(metric)[s] for s in sorted(common)] for measured in by_domain.values()])
        overall[metric] = {
            "mean": float(values.mean()),
            "std_seeds": _std(values.mean(axis=0)),
            "std_domains": _std(values.mean(axis=1)),
        }
    return overall


def _compare(
    row: dict[str, Any], name: str, table: Table, found: Mapping[tuple[str, str], Measured], domains: Sequence[str],
    metrics: Sequence[str],
) -> None:  # fmt: skip
    """Compare a row with the best of the reference rows, domain by domain; adjust over the domains."""
    if name in table.reference:
        return
    for metric in metrics:
        compared: dict[str, dict[str, Any]] = {}
        for domain in domains:
            rivals = [r for r in table.reference if (r, domain) in found]
            if (name, domain) not in found or not rivals:
                continue
            means = [np.mean([*found[rival, domain].by_seed(metric).values()]) for rival in rivals]
            best = rivals[int(np.argmax(means))]
            ours, theirs = found[name, domain], found[best, domain]
            common = sorted({*ours.seeds.tolist()} & {*theirs.seeds.tolist()})
            if not common:
                continue
            ours, theirs = ours.of(common), theirs.of(common)
            comparison = compare_paired(ours.values[metric], theirs.values[metric], users=ours.users, seeds=ours.seeds)
            compared[domain] = {"reference": best, **dataclasses.asdict(comparison)}
        for test in ("p_bootstrap", "p_t", "p_wilcoxon") if compared else ():
            adjusted = holm([one[test] for one in compared.values()])
            for one, p in zip(compared.values(), adjusted, strict=True):
                one[f"{test}_holm"] = float(p)
        for domain, one in compared.items():
            row["domains"][domain]["against"][metric] = one


def _shares(rows: dict[str, dict[str, Any]], table: Table, metric: str) -> None:
    """Each row's share of the ceiling's value, on each domain and overall; of a line's at the row's own place."""
    for row in rows.values():
        ceiling = rows.get(table.ceiling or "") or next(
            (r for other, r in rows.items() if table.methods[other].line == table.ceiling and r["at"] == row["at"]),
            None,
        )
        for where, top in ((row["domains"], ceiling["domains"]), (row, ceiling)) if ceiling else ():
            for key in where if where is row["domains"] else ["overall"]:
                if key not in top or not top[key] or not where[key]:
                    continue
                mine, best = (side[key].get("metrics", side[key]).get(metric) for side in (where, top))
                if mine and best and best["mean"] > 0:
                    where[key]["share_of_ceiling"] = mine["mean"] / best["mean"]


def _std(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
