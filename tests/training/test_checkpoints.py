import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cprec_hf.errors import InputError
from cprec_hf.training.checkpoints import clear_output, find_checkpoint, is_complete, newest_checkpoint
from cprec_hf.training.trunks import resume_point


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": np.ones(100, dtype=np.float32)}, path / "model.safetensors")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
        torch.save({"step": step}, path / name)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "trainer_state.json").unlink(),
        lambda path: cut(path / "trainer_state.json"),
        lambda path: cut(path / "model.safetensors"),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "optimizer.pt").unlink(),
        lambda path: (path / "scheduler.pt").unlink(),
        lambda path: cut(path / "optimizer.pt"),
        lambda path: cut(path / "scheduler.pt"),
        lambda path: cut(path / "rng_state_0.pth"),
    ],
)
def test_the_newest_complete_one_is_found(tmp_path, damage):
    first, second, third = (checkpoint(tmp_path, step) for step in (9, 10, 100))
    (tmp_path / "checkpoint-final").mkdir()
    assert newest_checkpoint(tmp_path) == third
    damage(third)
    assert not is_complete(third)
    assert newest_checkpoint(tmp_path) == second
    assert find_checkpoint(tmp_path, "init_from") == second
    assert find_checkpoint(first, "init_from") == first


def test_a_missing_shard_is_noticed(tmp_path):
    path = checkpoint(tmp_path, 1)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(path)
    save_file({"b": np.ones(3)}, path / "model-00002-of-00002.safetensors")
    assert is_complete(path)


def test_a_directory_without_a_checkpoint(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"`resume_from_checkpoint`: no complete checkpoint in .*empty"):
        resume_point(str(tmp_path / "empty"), str(tmp_path / "out"), overwrite=False)
    with pytest.raises(InputError, match="no such folder"):
        resume_point(str(tmp_path / "nothing"), str(tmp_path / "out"), overwrite=False)


def test_true_begins_a_run_that_has_saved_nothing_yet(tmp_path):
    """As a scheduler does that starts the same command again, whenever it was killed."""
    out = tmp_path / "run"
    assert resume_point("true", str(out), overwrite=False) is None
    out.mkdir()
    assert resume_point("true", str(out), overwrite=False) is None
    (out / "log.jsonl").touch()
    (out / ".saving.tmp" / "checkpoint-2").mkdir(parents=True)
    assert resume_point("true", str(out), overwrite=False) is None
    saved = checkpoint(out, 2)
    assert resume_point("true", str(out), overwrite=False) == saved
    cut(saved / "optimizer.pt")  # nothing is thrown away that someone may want to mend
    with pytest.raises(InputError, match="exists already"):
        resume_point("true", str(out), overwrite=False)
    assert resume_point("true", str(out), overwrite=True) is None
    shutil.rmtree(saved)
    (out / "cprec.json").touch()
    with pytest.raises(InputError, match="exists already"):
        resume_point("true", str(out), overwrite=False)


def test_where_a_run_may_write(tmp_path):
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    last = checkpoint(run, 3)
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("all I have")
    assert resume_point(None, str(tmp_path / "new"), overwrite=False) is None
    assert resume_point("true", str(run), overwrite=False) == last
    assert resume_point(str(run), str(tmp_path / "new"), overwrite=False) == last
    assert resume_point(None, str(run), overwrite=True) is None
    for resume in (None, str(run)):
        with pytest.raises(InputError, match="exists already"):
            resume_point(resume, str(foreign), overwrite=False)
        with pytest.raises(InputError, match="was not written by a training stage"):
            resume_point(resume, str(foreign), overwrite=True)
    assert (foreign / "thesis.txt").exists()


def test_clearing(tmp_path):
    run = tmp_path / "run"
    kept = checkpoint(run, 3)
    (run / ".saving.tmp" / "checkpoint-4").mkdir(parents=True)
    (run / ".log.jsonl.0123.tmp").touch()
    clear_output(run, keep=True)
    assert [p.name for p in run.iterdir()] == [kept.name]
    clear_output(run, keep=False)
    assert list(run.iterdir()) == []


def test_killed_while_clearing(tmp_path, monkeypatch):
    """Whatever is left, it is still known as a run's, and the same command takes it."""
    run = tmp_path / "run"
    checkpoint(run, 3)
    for name in ("cprec.json", "log.jsonl", "model.safetensors"):
        (run / name).touch()
    unlink, left = Path.unlink, [2]

    def killed(self, missing_ok=False):
        left[0] -= 1
        if left[0] < 0:
            raise OSError("killed")
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(Path, "unlink", killed)
        clear_output(run, keep=False)
    assert {path.name for path in run.iterdir()} > {".saving.tmp"}
    assert resume_point(None, str(run), overwrite=True) is None
    clear_output(run, keep=False)
    assert list(run.iterdir()) == []
