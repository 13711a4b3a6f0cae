"""Predictions to files are those of the Recommender, user by user; killed at any moment they end in the same bytes."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate import PartialState

from cprec_hf.errors import InputError
from cprec_hf.ranking.predict import PredictConfig, main, run_predict
from cprec_hf.ranking.predictions import Predictions
from cprec_hf.ranking.recommender import Recommender

ROOT = Path(__file__).parents[2]
USERS: list[tuple[str | None, list[str | None] | None]] = [
    ("u0", ["Ga1", "Ga4"]),
    ("u1", []),
    ("u2", None),
    ("u3", ["sold out", "Ga6", None, "Games 1", "Ga2"]),
    (None, ["Ga1"]),
    ("u0", ["Ga7", "Ga7", "Ga1"]),
    ("u4", ["nothing known"]),
    (None, None),
    ("u5", [f"Ga{i}" for i in range(11)]),
    *((f"v{i}", [f"Ga{i}"]) for i in range(4)),
]
SHARD = 5  # three parts, the last one shorter


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No state of accelerate's is handed from test to test."""
    yield
    PartialState._reset_state()


@pytest.fixture(scope="module")
def folder(byte_level_tokenizer: Any, make_recommender: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recommender(byte_level_tokenizer).save_pretrained(tmp_path_factory.mktemp("predict") / "model")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    schema = pa.schema({"user_id": pa.string(), "history": pa.list_(pa.string())})
    path = tmp_path_factory.mktemp("users") / "users.parquet"
    pq.write_table(pa.table([list(column) for column in zip(*USERS, strict=True)], schema=schema), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder: Path, users: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "predictions"
    run_predict(PredictConfig(str(folder), str(users), str(output), k=4, shard_users=SHARD))
    PartialState._reset_state()
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".parquet")}


def rows(folder: Path) -> list[dict[str, Any]]:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))).to_pylist()


def test_each_user_gets_what_the_recommender_gives(folder: Path, undisturbed: Path) -> None:
    recommender = Recommender.from_pretrained(folder, device="cpu")
    known = set(recommender.items.to_pydict()["item_id"][:12])
    served = [(user, items) for user, items in USERS if user is not None and items is not None]
    predicted = rows(undisturbed)
    assert [row["user_id"] for row in predicted] == [user for user, _ in served]
    for row, (_, items) in zip(predicted, served, strict=True):
        expected = recommender.recommend([[item for item in items if item in known]], k=4)[0]
        assert row["item_ids"] == [item.item_id for item in expected]
        assert row["titles"] == [item.title for item in expected]
        assert row["scores"] == pytest.approx([item.score for item in expected], abs=1e-4)
    assert [len(row["item_ids"]) for row in predicted] == [4] * 5 + [1] + [4] * 4  # one user has all items but one
    assert [pq.read_metadata(undisturbed / f"part-0000{i}.parquet").num_rows for i in range(3)] == [3, 4, 3]


def test_every_row_and_item_is_accounted_for(folder: Path, users: Path, undisturbed: Path) -> None:
    summary = json.loads((undisturbed / "predict.json").read_text())
    assert summary["counts"] == {
        "rows": 13,
        "predicted": 10,
        "refused": {"no user id": 2, "no history": 1},
        "empty_histories": 2,
        "history_items": 26,
        "unknown_items": 4,
    }
    assert summary["rows"] == 13 and summary["parts"] == 3
    settings = summary["settings"]
    assert (settings["domain"], settings["k"], settings["score"], settings["dtype"]) == ("Garden", 4, "sum", "float32")
    assert summary["model"] == str(folder) and summary["input"] == str(users)


def test_rows_depend_neither_on_the_shards_nor_on_the_kind_of_file(
    folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    lines = (json.dumps({"who": user, "took": items}) + "\n" for user, items in USERS)
    (tmp_path / "users.jsonl").write_text("".join(lines))
    argv = ["--model", str(folder), "--input", str(tmp_path / "users.jsonl"), "-k", "4", "--column", "user_id=who"]
    main([*argv, "--column", "history=took", "--shard-users", str(SHARD), "--output", str(tmp_path / "same")])
    assert parts(tmp_path / "same") == parts(undisturbed)
    main([*argv, "--column", "history=took", "--shard-users", "2", "--output", str(tmp_path / "other")])
    assert len(parts(tmp_path / "other")) == 7
    for one, other in zip(rows(undisturbed), rows(tmp_path / "other"), strict=True):
        assert one["scores"] == pytest.approx(other.pop("scores"), abs=1e-4)
        assert {key: value for key, value in one.items() if key != "scores"} == other


def test_a_recipe_and_flags_in_its_place(folder: Path, users: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "predict.yaml"
    recipe.write_text(f"model: {folder}\ninput: [{users}]\noutput: {tmp_path / 'out'}\nk: 7\nscore: mean\n")
    assert main(["--config", str(recipe), "--no-exclude-history", "-k", "12"]) == tmp_path / "out"
    recommender = Recommender.from_pretrained(folder, device="cpu")
    expected = recommender.recommend([["Ga1", "Ga4"]], k=12, exclude_history=False, score="mean")[0]
    first = rows(tmp_path / "out")[0]
    assert first["item_ids"] == [item.item_id for item in expected] and len(first["item_ids"]) == 12
    assert first["scores"] == pytest.approx([item.score for item in expected], abs=1e-4)


def test_other_settings_over_a_folder_are_refused(folder: Path, users: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = shutil.copytree(undisturbed, tmp_path / "out")
    before = contents(output)
    given: dict[str, Any] = {"model": str(folder), "input": str(users), "output": str(output), "k": 4}
    given |= {"shard_users": SHARD}
    other_model = shutil.copytree(folder, tmp_path / "other")
    items = pq.read_table(other_model / "items.parquet")
    pq.write_table(items.slice(1), other_model / "items.parquet")
    other_input = tmp_path / "users.parquet"
    pq.write_table(pq.read_table(users).slice(1), other_input)
    both = tmp_path / "both.parquet"
    table = pq.read_table(users)
    pq.write_table(table.append_column("other", table["user_id"]), both)
    for changed, key in (
        ({"k": 5}, "k"),
        ({"score": "pmi"}, "score"),
        ({"exclude_history": False}, "exclude_history"),
        ({"shard_users": 4}, "shard_users"),
        ({"domain": "Games"}, "domain"),
        ({"model": str(other_model)}, "model"),
        ({"input": str(other_input)}, r"input\.users\.parquet"),
        ({"input": str(both), "columns": {"user_id": "other"}}, r"columns\.user_id"),
    ):
        with pytest.raises(InputError, match=rf"was begun with `{key}` .* --overwrite"):
            run_predict(PredictConfig(**given | changed))
        assert contents(output) == before
    moved = shutil.copytree(folder, tmp_path / "moved")  # what decides is content, not where it lies
    (moved / "README.md").write_text("a card")
    run_predict(PredictConfig(**given | {"model": str(moved)}))
    assert parts(output) == parts(undisturbed)
    run_predict(PredictConfig(**given | {"k": 5}), overwrite=True)
    assert {len(row["item_ids"]) for row in rows(output)} == {1, 5}
    assert json.loads((output / "predict.json").read_text())["settings"]["k"] == 5


def test_files_that_are_no_predictions_stay(folder: Path, users: Path, undisturbed: Path, tmp_path: Path) -> None:
    config = PredictConfig(str(folder), str(users), str(tmp_path), k=4, shard_users=SHARD)
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds thesis\.tex, which is no prediction"):
            run_predict(config, overwrite=overwrite)
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "part-00000.parquet").write_text("whose?")
    with pytest.raises(InputError, match=r"parts without a predict\.json"):
        run_predict(config)
    run_predict(config, overwrite=True)
    assert parts(tmp_path) == parts(undisturbed)


def test_nothing_is_begun_on_bad_input(folder: Path, users: Path, tmp_path: Path) -> None:
    given = {"model": str(folder), "input": str(users), "output": str(tmp_path / "out")}
    chooses = shutil.copytree(folder, tmp_path / "chooses")
    record = json.loads((chooses / "cprec.json").read_text())
    (chooses / "cprec.json").write_text(json.dumps(record | {"candidate_list_in_prompt": True}))
    (tmp_path / "none.csv").write_text("user_id,history\n")
    (tmp_path / "bad.csv").write_text("user_id,history\nu,[a]\n")
    for changed, said in (
        ({"domain": "Cars"}, "no items of domain 'Cars'"),
        ({"model": str(chooses)}, "this model needs candidates"),
        ({"model": str(tmp_path / "nowhere")}, "no such folder"),
        ({"input": str(tmp_path / "none.csv")}, "no rows"),
        ({"input": str(tmp_path / "bad.csv")}, r"bad\.csv, row 1: history is '\[a\]'"),
        ({"input": str(folder / "items.parquet")}, "no column `user_id`"),
    ):
        with pytest.raises(InputError, match=said):
            run_predict(PredictConfig(**given | changed))
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="`k` is 0"):
        PredictConfig(**given, k=0)


def test_an_interrupted_overwrite_mixes_nothing(
    folder: Path, users: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = shutil.copytree(undisturbed, tmp_path / "out")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            Predictions, "_summarise", die
        )  # the parts of the old settings are gone, the new do not stand yet
        run_predict(PredictConfig(str(folder), str(users), str(output), k=2, shard_users=SHARD), overwrite=True)
    run_predict(PredictConfig(str(folder), str(users), str(output), k=4, shard_users=SHARD))
    assert contents(output) == contents(undisturbed)


FORKS = """
    import json, os, shutil, signal, socket, sys
    from pathlib import Path

    import torch

    import cprec_hf.behaviors.sources.histories
    from cprec_hf.command import run_as_command
    from cprec_hf.ranking import Recommender
    from cprec_hf.ranking.predict import main

    torch.set_num_threads(1)
    model, users, outputs, size = sys.argv[1:]
    Recommender.from_pretrained(model, device="cpu").recommend([[]])  # imports what the forks need
    replace = Path.replace

    def fork(output, kill_at=None, k=4, **env):
        if pid := os.fork():
            return pid
        os.environ.update(env)
        renames = 0

        def dying(path, target):
            nonlocal renames
            if renames == kill_at:
                os.truncate(path, os.path.getsize(path) // 2)  # in the midst of writing
                os.kill(os.getpid(), signal.SIGKILL)
            renames += 1
            return replace(path, target)

        Path.replace = dying
        argv = ["--model", model, "--input", users, "--output", str(output), "-k", str(k), "--shard-users", size]
        try:
            run_as_command(lambda: main(argv))
        except SystemExit as end:
            os._exit(end.code)
        os._exit(0)

    def run(*args):
        return os.waitstatus_to_exitcode(os.waitpid(fork(*args), 0)[1])

    def pair(output, k=4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        both = [fork(output, None, k, RANK=i, LOCAL_RANK=i, **env) for i in "01"]
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in both]

    found = []
    for moment in range(5):
        output = Path(outputs) / str(moment)
        killed = run(output, moment)
        shutil.copytree(output, f"{output}-killed")
        before = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
        again = pair(output) if moment in (0, 2) else run(output)
        stayed = all((output / name).stat().st_mtime_ns == time for name, time in before.items())
        found.append([killed, again, stayed])
    print(json.dumps([found, pair(output, k=3)]))
"""


def test_killed_at_any_moment_it_ends_in_the_same_bytes(
    folder: Path, users: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """SIGKILL in the midst of each file that is written: predict.json, three parts, predict.json.

    One process finishes what is left, or two; and what two refuse they say once.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKS), str(folder), str(users), str(tmp_path), str(SHARD)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, refused = json.loads(done.stdout.splitlines()[-1])
    assert found == [[-9, [0, 0] if moment in (0, 2) else 0, True] for moment in range(5)]
    expected = contents(undisturbed)
    for moment in range(5):
        killed = contents(tmp_path / f"{moment}-killed")
        assert len([name for name in killed if name.endswith(".tmp")]) == 1
        whole = {name: data for name, data in killed.items() if name.startswith("part-")}
        assert len(whole) == max(moment - 1, 0)
        assert all(data == expected[name] for name, data in whole.items())
        assert contents(tmp_path / str(moment)) == expected
    assert refused == [2, 2] and done.stderr.count("was begun with `k` 4, and now it is 3") == 1


LAUNCH = """
    compute_environment: LOCAL_MACHINE
    distributed_type: MULTI_GPU
    use_cpu: true
    num_machines: 1
    num_processes: 2
    mixed_precision: "no"
"""


@pytest.mark.filterwarnings("ignore:It seems that you are about to commit a data file")
def test_accelerate_launch_with_a_model_and_a_dataset_of_the_hub(
    folder: Path, users: Path, undisturbed: Path, hub_machine: Any, tmp_path: Path
) -> None:
    model, commit = hub_machine.push(folder, "model")
    hub_machine.push(users.parent, "users", "dataset")
    (tmp_path / "launch.yaml").write_text(textwrap.dedent(LAUNCH))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "launch.yaml")]
    command += ["--main_process_port", "0", "-m", "cprec_hf.ranking.predict", "--model", model, "-k", "4"]
    command += ["--input", "hf://datasets/local/users/*.parquet", "--output", str(tmp_path / "out")]
    env = os.environ | hub_machine.hub.env | {"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--shard-users", str(SHARD)], env=env, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert parts(tmp_path / "out") == parts(undisturbed)
    summary, alone = (json.loads((at / "predict.json").read_text()) for at in (tmp_path / "out", undisturbed))
    assert summary["commit"] == commit and summary["counts"] == alone["counts"]
    assert summary["settings"] == alone["settings"] | {"model": f"commit {commit}"}
