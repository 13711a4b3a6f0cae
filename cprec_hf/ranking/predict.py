"""Recommend to every user of a dataset, millions of them: Parquet in, Parquet out, resumed where it stopped.

    cprec predict --config recipes/tiny/predict.yaml
    cprec predict --model me/my-shop-recommender --input 'histories/*.parquet' --output predictions -k 20
    accelerate launch -m cprec_hf.ranking.predict --config my/predict.yaml      # a process a GPU

Users are read some at a time and written a part at a time. Process i of n makes the parts i, i + n, ...; the parts do
not depend on n, nor on how often the run was killed (on machines that compute alike). `datasets.load_dataset("parquet",
data_files="predictions/*.parquet")` reads them back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from tqdm import tqdm

from cprec_hf.command import run_as_command
from cprec_hf.corpus.ragged import offsets_of
from cprec_hf.errors import InputError
from cprec_hf.files import require_free_space
from cprec_hf.hub.files import local_path
from cprec_hf.ranking.catalogue import choose_domain
from cprec_hf.ranking.loading import ADAPTER, locate
from cprec_hf.ranking.predictions import PREDICTIONS, Predictions, refuse_other_files
from cprec_hf.ranking.recommender import Recommendation, Recommender, Score
from cprec_hf.recipes import from_mapping, read_recipe

if TYPE_CHECKING:
    from cprec_hf.behaviors.sources.files import SourceFile
    from cprec_hf.behaviors.sources.histories import Histories

_WAIT = timedelta(days=1)  # other processes wait while the first one reads the input through
_DECIDING = ("config.json", "adapter_config.json", "cprec.json", "items.parquet", "tokenizer*", "vocab*", "merges.txt")
_TRIE = "catalogue.safetensors"  # follows from tokenizer and items


@dataclass(frozen=True)
class PredictConfig:
    """Whom to recommend what (`recipes/<model>/predict.yaml`)."""

    model: str
    """Folder or repo of a model with its items."""
    input: str | list[str]
    """Files with a row a user: paths, globs, a list, or hf://datasets/USER/NAME/FILE; a corpus' SFT split too."""
    output: str
    """Folder to write: part-00000.parquet, ... and predict.json."""
    revision: str | None = None
    """Branch, tag or commit of the model's repo."""
    domain: str | None = None
    """Domain of the histories and of what is recommended; the model's own if not given."""
    columns: dict[str, str] = field(default_factory=dict)
    """user_id, history -> their names in the files, where they differ."""
    k: int = 10
    """Items for each user."""
    score: Score = "sum"
    """How token log-probabilities make an item's score; see `Recommender.recommend`."""
    exclude_history: bool = True
    """Never recommend what the user's history holds."""
    shard_users: int = 4096
    """Rows of the input read at once and written as one part: what memory holds, and what an interruption can cost."""

    def __post_init__(self) -> None:
        """Raise `InputError` for numbers below one."""
        for name in ("k", "shard_users"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` is {getattr(self, name)}; give 1 or more")


def run_predict(config: PredictConfig, *, overwrite: bool = False) -> Path:
    """Recommend to all users of `config.input`; goes on where an earlier call with the same settings stopped.

    Ids that the model's catalogue lacks (logs hold items that are no longer sold) are left out of histories, and rows
    without a user id or a history are left out of the output; `predict.json` counts both.

    Args:
        config: see `PredictConfig`.
        overwrite: make parts anew that are there already, whatever they were made of.

    Returns:
        The output folder.

    Raises:
        InputError: before anything is written: input that cannot be read, what `Recommender` refuses, or an output
            folder that was begun with other settings or holds other files.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    process = PartialState(cpu=on_cpu, timeout=_WAIT)
    recommender, said = None, [{}, ""]
    if process.is_main_process:
        try:
            recommender, said[0] = _begin(config, process.device, overwrite)
        except InputError as error:
            said[1] = str(error)
    about, refusal = broadcast_object_list(said)
    if refusal:
        raise InputError(refusal) if process.is_main_process else SystemExit(2)
    settings, predictions = about["settings"], Predictions(config.output, about)
    if recommender is None:
        recommender = Recommender.from_pretrained(config.model, about["commit"], str(process.device))
    of_domain = pc.equal(recommender.items["domain"], settings["domain"])
    known = recommender.items.filter(of_domain)["item_id"].combine_chunks()
    mine = [part for part in predictions.missing() if part % process.num_processes == process.process_index]
    with tqdm(
        desc="predict", total=about["rows"], initial=predictions.rows_done(), unit="user", smoothing=0.1,
        disable=None if process.is_main_process else True,
    ) as bar:  # fmt: skip
        for number, users in _histories(config).shards(settings["shard_users"], mine):
            predictions.write(number, *_recommend(recommender, users, known, settings))
            bar.update(predictions.rows_done() - bar.n)  # of all processes
    if summary := predictions.finish():
        print(_sentence(summary, config.output), flush=True)
    return Path(config.output)


def _begin(config: PredictConfig, device: torch.device, overwrite: bool) -> tuple[Recommender, dict[str, Any]]:
    """Check all that can be checked, the cheap first, and begin the folder; the recommender, and what the run is of."""
    refuse_other_files(config.output)
    histories = _histories(config)
    commit = locate(config.model, config.revision)[1]
    recommender = Recommender.from_pretrained(config.model, commit, str(device))
    domain = choose_domain(config.domain or recommender.record.domain, recommender.domains)
    recommender.recommend([[]], config.k, domain, config.exclude_history, config.score)  # says what it cannot do
    rows = histories.count()
    if not rows:
        raise InputError(f"{config.input}: no rows; predict needs at least one user")
    require_free_space(config.output, rows * config.k * 24 + 10**7)  # ids, scores and a share of the titles, compressed
    settings = {
        "model": _identity(config.model, commit),
        "domain": domain,
        **{key: getattr(config, key) for key in ("k", "score", "exclude_history", "shard_users")},
        "columns": dict(histories.columns),
        "input": dict(zip(_names(histories.paths), histories.sha256(), strict=True)),
        "device": device.type,
        "dtype": str(recommender.model.dtype).removeprefix("torch."),
    }
    about = {
        "model": config.model,
        "commit": commit,
        "input": config.input,
        "rows": rows,
        "settings": settings,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "pyarrow")},
    }
    Predictions(config.output, about).begin(overwrite=overwrite)
    return recommender, about


def _recommend(
    recommender: Recommender, users: pa.Table, known: pa.Array, settings: dict[str, Any]
) -> tuple[pa.Table, dict[str, Any]]:
    """The recommendations to a shard's users, as in `PREDICTIONS`, and its account."""
    no_user = users["user_id"].is_null()
    no_history = pc.and_not(users["history"].is_null(), no_user)
    kept = users.filter(pc.invert(pc.or_(no_user, no_history)))
    history = kept["history"].combine_chunks()
    items = history.flatten()
    is_known = pc.is_in(items, value_set=known)
    user = np.repeat(np.arange(len(kept)), np.asarray(history.value_lengths(), dtype=np.int64))
    lengths = np.bincount(user[np.asarray(is_known)], minlength=len(kept))
    usable = pa.LargeListArray.from_arrays(pa.array(offsets_of(lengths)), items.filter(is_known))
    found = recommender.recommend(
        usable.to_pylist(), settings["k"], settings["domain"], settings["exclude_history"], settings["score"]
    )
    account = {
        "rows": len(users),
        "predicted": len(kept),
        "refused": {"no user id": pc.sum(no_user).as_py(), "no history": pc.sum(no_history).as_py()},
        "empty_histories": int((lengths == 0).sum()),
        "history_items": len(items),
        "unknown_items": len(items) - int(lengths.sum()),
    }
    return pa.table([kept["user_id"].cast(pa.string()), *_lists(found)], schema=PREDICTIONS), account


def _lists(found: Sequence[Sequence[Recommendation]]) -> list[pa.ListArray]:
    """Columns item_ids, titles, scores."""
    offsets = pa.array(offsets_of(np.array([len(items) for items in found], dtype=np.int64)), pa.int32())
    flat = [item for items in found for item in items]
    columns = (
        pa.array([item.item_id for item in flat], pa.string()),
        pa.array([item.title for item in flat], pa.string()),
        pa.array([item.score for item in flat], pa.float32()),
    )
    return [pa.ListArray.from_arrays(offsets, column) for column in columns]


def _histories(config: PredictConfig) -> Histories:
    from cprec_hf.behaviors.sources.histories import Histories  # needs Polars, which the rest of ranking does not

    return Histories.find(config.input, config.columns, "`input`")


def _names(paths: Sequence[SourceFile]) -> list[str]:
    """Names of files, numbered where two folders hold the same one."""
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else f"{i}: {name}" for i, name in enumerate(names)]


def _identity(model: str, commit: str | None) -> str:
    """What a model is, by content: the commit of its repo, or a hash of the files that decide what it predicts."""
    if commit is not None:
        return f"commit {commit}"
    folder, digest = Path(model).expanduser(), hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != _TRIE and any(fnmatch(path.name, pattern) for pattern in (*_DECIDING, "*.safetensors")):
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    if (folder / ADAPTER).is_file():
        values = json.loads(local_path(folder, ADAPTER).read_text(encoding="utf-8"))
        base = values["base_model_name_or_path"]
        digest.update(_identity(base, locate(base, values.get("revision"))[1]).encode())
    return f"sha256 {digest.hexdigest()}"


def _sentence(summary: dict[str, Any], output: str) -> str:
    counts = summary["counts"]
    refused = ", ".join(f"{n:,} rows with {reason}" for reason, n in counts["refused"].items() if n)
    unknown = f"{counts['unknown_items']:,} of {counts['history_items']:,} history items unknown and left out"
    return f"{counts['predicted']:,} users in {output}; " + "; ".join(filter(None, (refused, unknown)))


def main(argv: Sequence[str] | None = None) -> Path:
    """`cprec predict`: read a recipe or flags, run it. Returns the output folder."""
    parser = argparse.ArgumentParser(prog="cprec predict", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", help="a recipe, for example recipes/tiny/predict.yaml; flags take its keys' place")
    parser.add_argument("--overwrite", action="store_true", help="make parts anew that are there already")
    parser.add_argument("--model", help="folder or Hub repo of a model with its items")
    parser.add_argument("--revision", help="branch, tag or commit of the repo")
    parser.add_argument(
        "--input", nargs="+", help="files with a row a user: paths, globs, hf://datasets/USER/NAME/FILE"
    )
    parser.add_argument("--output", help="folder to write")
    parser.add_argument("--domain", help="domain to recommend in; the model's own if not given")
    parser.add_argument("--column", action="append", metavar="OURS=THEIRS", help="user_id or history, and its name")
    parser.add_argument("-k", "--k", type=int, help="items for each user (default 10)")
    parser.add_argument("--score", choices=("sum", "mean", "pmi"), help="see docs/method.md")
    parser.add_argument("--exclude-history", action=argparse.BooleanOptionalAction, help="by default it is excluded")
    parser.add_argument("--shard-users", type=int, help="users read at once and written as one part (default 4096)")
    given = {key: value for key, value in vars(parser.parse_args(argv)).items() if value is not None}
    recipe, overwrite = given.pop("config", None), given.pop("overwrite")
    if len(given.get("input", ())) == 1:
        given["input"] = given["input"][0]
    if "column" in given:
        given["columns"] = dict(_pair(column) for column in given.pop("column"))
    config = (
        read_recipe(recipe, PredictConfig, given) if recipe else from_mapping(given, PredictConfig, "cprec predict")
    )
    return run_predict(config, overwrite=overwrite)


def _pair(column: str) -> tuple[str, str]:
    ours, equals, theirs = column.partition("=")
    if not (ours and equals and theirs):
        raise InputError(f"--column {column}: expected OURS=THEIRS, for example user_id=customer")
    return ours, theirs


if __name__ == "__main__":
    run_as_command(main)
