"""Cells on disk: a folder each, whole or not there.

    cells/sft.music.s101.0f3a9c1d2b/
      cell.json      name, hash, what it is made from, the cells it needs, seconds taken
      config.yaml    the resolved recipe, to run it again by hand
      log.txt        what it printed
      model/ or corpus/, or result.json with per_user.parquet

A cell is made in a folder of the same name with `.partial` behind it, which is renamed when all is written. What a
killed one has left there a training stage goes on from.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cprec_hf.corpus.record import read_json
from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.plan import CELL_FORMAT, Cell
from cprec_hf.files import atomic_file, require_writable
from cprec_hf.recipes import expand_environment

MODEL, CORPUS, RESULT, PER_USER, LOG = "model", "corpus", "result.json", "per_user.parquet", "log.txt"
_ABOUT, _CONFIG = "cell.json", "config.yaml"


class Cells:
    """The cells of one study.

    Args:
        output: folder of the study.
    """

    def __init__(self, output: str | Path) -> None:
        self.folder = Path(output) / "cells"

    def path(self, cell: Cell) -> Path:
        """Where a finished cell is."""
        return self.folder / cell.name

    def partial(self, cell: Cell) -> Path:
        """Where it is made."""
        return self.folder / f"{cell.name}.partial"

    def is_done(self, cell: Cell) -> bool:
        """Whether it is finished, as a corpus that was there already is."""
        return "folder" in cell.config or (self.path(cell) / _ABOUT).is_file()

    def about(self, cell: Cell) -> dict[str, Any]:
        """The `cell.json` of a finished cell. Raises `InputError` if it is broken."""
        return read_json(self.path(cell) / _ABOUT, CELL_FORMAT)

    def corpus(self, cell: Cell) -> str:
        """The folder of a corpus: its cell's, or the one that was there."""
        if "folder" in cell.config:
            return expand_environment(cell.config["folder"], f"corpus {cell.label!r}")
        return str(self.path(cell) / CORPUS)

    def model(self, cell: Cell, inside: str = "") -> str:
        """The folder of a stage's model, or of a checkpoint in it."""
        return str(self.path(cell) / MODEL / inside)

    def begin(self, cell: Cell, config: Mapping[str, Any]) -> Path:
        """Make ready the folder in which a cell is made; returns it."""
        folder = self.partial(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / _CONFIG) as temporary:
            temporary.write_text(
                yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120), encoding="utf-8"
            )
        return folder

    def finish(self, cell: Cell, needs: Mapping[str, Cell], seconds: float, cpu_seconds: float) -> None:
        """Say what the cell is, and give it its name."""
        about = {
            "format": CELL_FORMAT, "name": cell.name, "hash": cell.hash, "kind": cell.kind, "label": cell.label,
            "group": cell.group, "seed": cell.seed, "domain": cell.domain, "config": cell.config,
            "needs": {role: need.name for role, need in needs.items()}, "inside": cell.inside,
            "seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2),
        }  # fmt: skip
        with atomic_file(self.partial(cell) / _ABOUT) as temporary:
            temporary.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.partial(cell).rename(self.path(cell))

    def measured(self) -> dict[str, list[float]]:
        """Seconds of all finished cells, whatever recipe they were of, by group."""
        found: dict[str, list[float]] = {}
        for path in sorted(self.folder.glob(f"*/{_ABOUT}")):
            about = read_json(path, CELL_FORMAT)
            found.setdefault(about["group"], []).append(about["seconds"])
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the study for this process alone. Raises `InputError` if another one runs it or it cannot be written."""
        require_writable(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{self.folder.parent}: another process is running this study") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(lock)
