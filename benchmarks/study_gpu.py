"""A study on a GPU in short leases: corpora are built beforehand, on a CPU, and only cells go to the GPU.

    python benchmarks/study_gpu.py --prepare                       # on a CPU: builds the corpora that the cells read
    python benchmarks/study_gpu.py --minutes 9 --pack cells.tar    # on the GPU: does what fits into nine minutes
    python benchmarks/study_gpu.py --unpack cells.tar              # back home: the report of what is there
    python benchmarks/study_gpu.py --toy                           # all three on a CPU, a study of seconds

The study is `recipes/study-real.yaml` or that of --config, in the folder that it names, and its cells are those of
`cprec study`: a call does what is missing, a cell that was cut off goes on from its last checkpoint. --tables takes
tables in order, so that a lease that ends early still has the first ones. Several cells run on the GPU at once, for
small models do not fill it (--workers). A machine that may hold no data frames needs none: with the corpora there,
nothing here imports Polars, but for the oracles of a marketplace.

--pack writes all but weights, checkpoints and corpora. So a report can be made of it anywhere, and a later lease does
again only the models that its own missing measurements stand on. --minutes bounds when cells begin: none is begun that
should not end in time, by the study's own figures or by the cells like it.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cprec_hf.command import run_as_command
from cprec_hf.errors import InputError
from cprec_hf.evaluation.study.aggregate import aggregate
from cprec_hf.evaluation.study.cells import CORPUS, MODEL, Cells
from cprec_hf.evaluation.study.config import StudyConfig, read_study
from cprec_hf.evaluation.study.plan import Plan, make_plan
from cprec_hf.evaluation.study.report import write_study
from cprec_hf.evaluation.study.run import Outcome, describe, run_study
from cprec_hf.files import atomic_file

KEPT = ("cprec.json", "log.jsonl")  # of a model: what it was trained on, and how its loss went


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", default="study-real.yaml", help="a study")
    parser.add_argument("--tables", nargs="+", help="only these, in this order")
    parser.add_argument("--prepare", action="store_true", help="build the corpora, and nothing else")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with an estimate, and do nothing")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no cell that should not end within so many")
    parser.add_argument("--workers", type=int, default=4, help="cells at a time")
    parser.add_argument("--pack", metavar="TAR", help="write the results there, without weights")
    parser.add_argument("--unpack", metavar="TAR", help="put results into the study's folder, and report them")
    parser.add_argument("--json", metavar="FILE", help="write what was done, as JSON")
    parser.add_argument("--toy", action="store_true", help="a study of seconds, in a folder of its own")
    given = parser.parse_args(argv)
    if given.toy:
        with tempfile.TemporaryDirectory() as folder:
            _toy(Path(folder), given.json)
        return
    study = read_study(given.config)
    plan = narrowed(make_plan(study), given.tables or list(study.tables))
    if given.dry_run:
        print(describe(study, plan, given.workers))
        return
    if given.unpack:
        unpack(study, given.unpack)
    done = None
    if given.prepare:
        done = run_study(study, Plan({h: c for h, c in plan.cells.items() if c.kind == "corpus"}, []), workers=1)
    elif not given.unpack:
        done = run_study(study, missing_only(study, plan), workers=given.workers, minutes=given.minutes)
    write_study(study, aggregate(study, plan))
    if given.pack:
        pack(study, given.pack)
    if given.json and done is not None:
        _write_json(given.json, done)
    if done is not None and done.failed:
        raise InputError("cells failed:" + "".join(f"\n  {name}: {why}" for name, why in done.failed.items()))


def narrowed(plan: Plan, tables: Sequence[str]) -> Plan:
    """Only the cells of some tables, the first table's first."""
    places = [place for table in tables for place in plan.places if place.table == table]
    if unknown := set(tables) - {place.table for place in plan.places}:
        raise InputError(f"--tables: the study has no table {min(unknown)!r}")
    return Plan(_closure(plan, [place.cell for place in places]), places)


def missing_only(study: StudyConfig, plan: Plan) -> Plan:
    """Only what measurements that are not there need; models whose measurements are there are not made again."""
    cells = Cells(study.output)
    wanted = [place.cell for place in plan.places if not cells.is_done(plan.cells[place.cell])]
    return Plan(_closure(plan, wanted), plan.places)


def _closure(plan: Plan, wanted: Sequence[str]) -> dict[str, Any]:
    """Some cells after all that they need, in the order of the wanted ones."""
    found: dict[str, Any] = {}

    def add(hash: str) -> None:
        if hash not in found:
            for need in plan.cells[hash].needs.values():
                add(need)
            found[hash] = plan.cells[hash]

    for hash in wanted:
        add(hash)
    return found


def pack(study: StudyConfig, path: str) -> None:
    """A tar of the study's folder without weights, checkpoints and corpora; unfinished cells stay behind.

    Of a model its record stays, but not the file that says that its cell is finished: without weights it is not.
    """
    folder = Path(study.output)
    with atomic_file(Path(path)) as temporary, tarfile.open(temporary, "w:xz") as tar:
        for file in sorted(found for found in folder.rglob("*") if found.is_file()):
            inside = file.relative_to(folder).parts
            if inside[0] == "cells":
                cell = folder / "cells" / inside[1]
                trained = (cell / MODEL).is_dir()
                if cell.suffix == ".partial" or CORPUS in inside[2:3] or inside[1].startswith("corpus."):
                    continue
                if trained and (inside[2] == "cell.json" or (inside[2] == MODEL and inside[-1] not in KEPT)):
                    continue
            tar.add(file, arcname="/".join(inside), recursive=False)


def unpack(study: StudyConfig, path: str) -> None:
    """Put what `pack` wrote into the study's folder; cells that are there stay as they are."""
    cells = Path(study.output) / "cells"
    there = {cell.name for cell in cells.glob("*")} if cells.is_dir() else set()
    with tarfile.open(path) as tar:
        members = [m for m in tar.getmembers() if m.name.startswith("cells/") and m.name.split("/")[1] not in there]
        tar.extractall(study.output, members, filter="data")


def _toy(folder: Path, json_path: str | None) -> None:
    """All that a lease does, on a CPU; raises `AssertionError` unless the report that comes back is the same."""
    source = {
        "kind": "marketplace", "domains": ["Books"], "unseen": ["Music"], "users": 20, "events_per_user": 8,
        "unseen_users": 20, "unseen_events_per_user": 5, "items_per_domain": 40,
    }  # fmt: skip
    corpus = {
        "name": "toy", "pseudonymise": False, "downstream": ["Music"], "split": {"policy": "leave_one_out"},
        "output": "unused", "tokenizer": {"vocab_size": 300}, "window_tokens": 200, "candidates": 10, "source": source,
    }  # fmt: skip
    steps = {"per_device_train_batch_size": 2, "learning_rate": 0.01, "max_steps": 2, "save_strategy": "no"}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    recipe = {
        "name": "toy", "output": str(folder / "gpu"), "seeds": [1],
        "corpora": {"world": {"recipe": str(folder / "corpus.yaml")}},
        "nodes": {
            "base": {"stage": "base", "with": {**steps, **shape}},
            "sft": {"stage": "sft", "from": "base", "with": steps},
        },
        "tables": {"main": {"rows": {"SFT": {"kind": "model", "model": "sft"}, "popularity": {"kind": "popularity"}}}},
    }  # fmt: skip
    (folder / "corpus.yaml").write_text(yaml.safe_dump(corpus), encoding="utf-8")
    home = {**recipe, "output": str(folder / "home")}
    for name, values in {"gpu": recipe, "home": home}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    gpu, packed = ["--config", str(folder / "gpu.yaml"), "--workers", "1"], str(folder / "cells.tar")
    main([*gpu, "--prepare"])
    main([*gpu, "--pack", packed, *(["--json", json_path] if json_path else [])])
    main(["--config", str(folder / "home.yaml"), "--unpack", packed])
    here, there = (json.loads((folder / name / "results.json").read_text("utf-8")) for name in ("gpu", "home"))
    for results in (here, there):
        for model in results["models"]:
            del model["methods"][0]["model"]  # a path
    assert here == there, "the report of what came back is another one"
    print("the report of what came back is the same")


def _write_json(path: str, done: Outcome) -> None:
    with atomic_file(Path(path)) as temporary:
        temporary.write_text(json.dumps(vars(done), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_as_command(main)
