"""Run a study: all its cells that are missing, several at a time, then its report.

    cprec study --config recipes/study-tiny.yaml --dry-run
    cprec study --config recipes/study-tiny.yaml --quick --workers 2

Kill it when you like and call it again: only what is not finished is done, and a training stage goes on from its last
checkpoint. A cell that fails keeps its error in its log; those that do not need it go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from cprec_hf.command import run_as_command
from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.cells import LOG, Cells
from cprec_hf.evaluation.study.config import StudyConfig, read_study
from cprec_hf.evaluation.study.estimate import Estimates, spoken
from cprec_hf.evaluation.study.plan import Cell, Plan, make_plan
from cprec_hf.evaluation.study.work import ENVIRONMENT, work
from cprec_hf.hub.markdown import one_line

_TRIES = 2  # a worker that was killed from outside gets its cell again, once
_PRELOAD = ["cprec_hf.evaluation.study.work", "cprec_hf.training.cpt", "cprec_hf.evaluation.methods", "scipy.stats"]


@dataclass(frozen=True)
class Outcome:
    """What a run of a study came to."""

    done: list[str]
    """Names of the cells that were finished in this run."""
    failed: dict[str, str]
    """Name of a cell -> why it failed."""
    blocked: dict[str, str]
    """Name of a cell that was not begun -> the one it needs that failed or was not begun."""
    left: list[str]
    """Names of the cells that were not begun, for lack of time."""


def run_study(study: StudyConfig, plan: Plan, *, workers: int | None = None, minutes: float | None = None) -> Outcome:
    """Do the missing cells of a plan, in its order as far as needs allow.

    Args:
        study: the study.
        plan: its cells.
        workers: processes, each on one thread; as many as there are cores if not given.
        minutes: no cell is begun that should not end within so many.

    Raises:
        InputError: the study is being run already, or cannot be written.
    """
    with Cells(study.output).held():
        return _Run(study, plan, workers or len(os.sched_getaffinity(0)), minutes).go()


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    cell: Cell | None = None
    begun: float = 0.0


@dataclass
class _Run:
    study: StudyConfig
    plan: Plan
    workers: int
    minutes: float | None
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    def go(self) -> Outcome:
        self.cells = Cells(self.study.output)
        self.done = {hash for hash, cell in self.plan.cells.items() if self.cells.is_done(cell)}
        self.waiting = {hash: cell for hash, cell in self.plan.cells.items() if hash not in self.done}
        self.tries = dict.fromkeys(self.waiting, 0)
        self.estimates = Estimates(self.cells)
        self.begin = time.monotonic()
        self.pool: list[_Worker] = []
        total = len(self.waiting)
        print(f"{self.study.name}: {len(self.done)} of {len(self.plan.cells)} cells done", flush=True)
        try:
            while True:
                self._give()
                busy = [worker for worker in self.pool if worker.cell is not None]
                if not busy:
                    break
                for pipe in wait([worker.pipe for worker in busy]):
                    self._take(next(worker for worker in busy if worker.pipe is pipe), total)
        finally:
            for worker in self.pool:
                worker.pipe.close()
                worker.process.kill() if worker.cell is not None else worker.process.join()
        left = [cell.name for cell in self.waiting.values()]
        return Outcome(self.finished, self.failed, self.blocked, left)

    def _give(self) -> None:
        """Give each idle worker the first cell that can be done now; drop those that never can."""
        for hash, cell in list(self.waiting.items()):
            lost = [name for need in cell.needs.values() if (name := self.plan.cells[need].name) in self._lost()]
            if lost:
                self.blocked[cell.name] = lost[0]
                del self.waiting[hash]
            elif self.done.issuperset(cell.needs.values()) and self._fits(cell) and (worker := self._idle()):
                needs = {role: self.plan.cells[need] for role, need in cell.needs.items()}
                worker.cell, worker.begun = cell, time.monotonic()
                worker.pipe.send((cell, needs))
                self.tries[hash] += 1
                del self.waiting[hash]

    def _lost(self) -> set[str]:
        return {*self.failed, *self.blocked}

    def _fits(self, cell: Cell) -> bool:
        if self.minutes is None:
            return True
        return time.monotonic() - self.begin + (self.estimates.of(cell) or 0.0) <= 60 * self.minutes

    def _idle(self) -> _Worker | None:
        for worker in self.pool:
            if worker.cell is None:
                return worker
        if len(self.pool) == self.workers:
            return None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOAD)
        ours, theirs = context.Pipe()
        before = {key: os.environ.get(key) for key in ENVIRONMENT}
        os.environ |= ENVIRONMENT
        process = context.Process(target=work, args=(self.study.output, theirs), daemon=True)
        process.start()
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        theirs.close()
        self.pool.append(_Worker(process, ours))
        return self.pool[-1]

    def _take(self, worker: _Worker, total: int) -> None:
        """What a worker says of its cell, or what became of a worker that says nothing more."""
        cell = worker.cell
        assert cell is not None
        try:
            failed = worker.pipe.recv()
        except (EOFError, ConnectionError):
            worker.process.join()
            self.pool.remove(worker)
            failed = f"its process ended with status {worker.process.exitcode}"
            if self.tries[cell.hash] < _TRIES:
                print(f"{cell.name}: {failed}; once more", flush=True)
                self.waiting = {cell.hash: cell, **self.waiting}
                return
        worker.cell = None
        seconds = time.monotonic() - worker.begun
        if failed is None:
            self.done.add(cell.hash)
            self.finished.append(cell.name)
            self.estimates.add(cell, seconds)
        else:
            self.failed[cell.name] = failed
        said = f"{seconds:.0f} s" if failed is None else f"FAILED: {failed} ({self.cells.partial(cell) / LOG})"
        busy = [other.cell for other in self.pool if other.cell is not None]
        left = self.estimates.left([*self.waiting.values(), *busy], self.workers)
        count = len(self.finished) + len(self.failed) + len(self.blocked)
        print(f"[{count}/{total}] {cell.name}  {said}{f'; about {spoken(left)} left' if left else ''}", flush=True)


def describe(study: StudyConfig, plan: Plan, workers: int) -> str:
    """The plan as text: cells by what they are, done and missing, and how long they should take."""
    cells, estimates = Cells(study.output), Estimates(Cells(study.output))
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in plan.cells.values():
        groups.setdefault((cell.kind, cell.label, cell.group), []).append(cell)
    rows = _first_rows(plan)
    lines = [f"{'cell':<28} {'all':>5} {'done':>5} {'seconds each':>13} {'left':>9}  first for the row"]
    unknown = 0
    for (kind, label, _), group in groups.items():
        missing = [cell for cell in group if not cells.is_done(cell)]
        each = estimates.of(group[0])
        unknown += len(missing) if each is None else 0
        time_left = "?" if each is None else spoken(each * len(missing))
        said = f"{each:.1f}" if each is not None else "?"
        what = label if kind == "stage" else f"{kind} {label}"
        numbers = f"{len(group):>5} {len(group) - len(missing):>5} {said:>13} {time_left:>9}"
        lines.append(f"{what[:28]:<28} {numbers}  {one_line(rows[group[0].hash])}")
    missing = [cell for cell in plan.cells.values() if not cells.is_done(cell)]
    left = estimates.left(missing, workers)
    lines.append(
        f"{len(plan.cells)} cells, {len(plan.cells) - len(missing)} done, {len(missing)} missing: about "
        f"{spoken(left)} on {workers} workers" + (f", {unknown} cells of unknown length left out" if unknown else "")
    )
    return "\n".join(lines)


def _first_rows(plan: Plan) -> dict[str, str]:
    """Of each cell the first row that stands on it."""
    rows: dict[str, str] = {}
    for place in plan.places:
        open_cells = [place.cell]
        while open_cells:
            hash = open_cells.pop()
            if rows.setdefault(hash, place.row) == place.row:
                open_cells += [need for need in plan.cells[hash].needs.values() if need not in rows]
    return rows


def main(argv: Sequence[str] | None = None) -> Path:
    """`cprec study`: run a study and write its report; returns the folder.

    Raises:
        InputError: something in the recipe is wrong, before any cell; or, at the end, cells failed.
    """
    parser = argparse.ArgumentParser(prog="cprec study", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", required=True, help="a study, for example recipes/study-tiny.yaml")
    parser.add_argument("--quick", action="store_true", help="only the tables and seeds of the study's `quick`")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with an estimate, and do nothing")
    parser.add_argument("--only", metavar="TABLE", help="only the cells of one table; the report has all")
    parser.add_argument("--workers", type=int, help="processes, each on one thread (default: the cores)")
    parser.add_argument("--minutes", type=float, help="begin no cell that should not end within so many")
    given = parser.parse_args(argv)
    if given.workers is not None and given.workers < 1:
        raise InputError(f"--workers is {given.workers}; give at least 1")
    study = read_study(given.config)
    plan = make_plan(study, quick=given.quick, only=given.only)
    workers = given.workers or len(os.sched_getaffinity(0))
    if given.dry_run:
        print(describe(study, plan, workers))
        return Path(study.output)
    from cprec_hf.evaluation.study.aggregate import aggregate
    from cprec_hf.evaluation.study.report import write_study

    outcome = run_study(study, plan, workers=workers, minutes=given.minutes)
    if given.only:  # the report of one table would take the place of all others
        plan = make_plan(study, quick=given.quick)
    folder = write_study(study, aggregate(study, plan))
    print(f"report in {folder}", flush=True)
    if outcome.failed:
        listed = "".join(f"\n  {name}: {why}" for name, why in outcome.failed.items())
        blocked = f"\n{len(outcome.blocked)} that need them were not begun" if outcome.blocked else ""
        raise InputError(f"{len(outcome.failed)} cells failed:{listed}{blocked}")
    if outcome.left:
        print(f"{len(outcome.left)} cells are left; call again", file=sys.stderr)
    return folder


if __name__ == "__main__":
    run_as_command(main)
