"""The loopback Hub's disk: killed before any of its file operations, it has each change whole or not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cprec_hf.errors import InputError
from cprec_hf.hub.loopback_store import Store

ROOT = Path(__file__).parents[3]

# One life of a few repos, in a process that kills itself before its n-th operation on a file, for every n there is.
# Each line of the output is what had been answered by then.
LIVES = """
import json, os, signal, sys
from pathlib import Path
from cprec_hf.hub.loopback_repo import Operation
from cprec_hf.hub.loopback_store import Store, check_repo_id

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
root = Path(sys.argv[1])
check_repo_id("load/it")  # its imports open files of their own

def live(n, answered):
    def hook(event, args, left=[n]):
        if event in EVENTS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def done(what):
        os.write(answered, what.encode() + b" ")

    sys.addaudithook(hook)
    store = Store(root / str(n))
    repo = store.create("models", "ada/r", visibility="public")
    done("created")
    for title in ("one", "two"):
        put = [Operation("put", f"{i}.txt", repo.put_object(iter([title.encode(), b"%d" % i]))) for i in range(2)]
        repo.add_commit("main", put, title=title, message="", author="ada")
        done(title)
    repo.set_ref("branches", "b", repo.resolve("main"))
    done("branch")
    store.duplicate(repo, "ada/copy")
    done("copy")
    store.move(repo, "ada/moved")
    done("moved")
    store.delete(store.repo("models", "ada/moved"))
    done("deleted")

for n in range(1, 1000):
    (root / str(n)).mkdir()
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        live(n, writes)
        os._exit(0)
    os.close(writes)
    status = os.waitpid(child, 0)[1]
    print(json.dumps([n, os.read(reads, 1000).decode().split()]))
    os.close(reads)
    if status == 0:
        break
"""


def test_killed_before_any_file_operation_nothing_is_half_done(
    tmp_path: Path, whole: Callable[[Path], dict[str, dict[str, list[str]]]]
) -> None:
    script = [sys.executable, "-c", LIVES, tmp_path]
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lives) > 50
    one, two = ["one", "initial commit"], ["two", "one", "initial commit"]
    branched = {"main": two, "b": two}
    after: dict[str, dict[str, dict[str, list[str]]]] = {
        "": {},
        "created": {"models/ada/r": {"main": ["initial commit"]}},
        "one": {"models/ada/r": {"main": one}},
        "two": {"models/ada/r": {"main": two}},
        "branch": {"models/ada/r": branched},
        "copy": {"models/ada/r": branched, "models/ada/copy": branched},
        "moved": {"models/ada/moved": branched, "models/ada/copy": branched},
        "deleted": {"models/ada/copy": branched},
    }
    steps = list(after)
    for n, answered in lives:
        last = len(answered)
        assert answered == steps[1 : last + 1]
        root = tmp_path / str(n)
        assert whole(root) in [after[step] for step in steps[last : last + 2]], f"killed before operation {n}"
        Store(root).close()
        assert not [p for p in root.rglob("*") if p.name.endswith(".tmp")] and not list((root / "trash").iterdir())
    assert lives[-1][1] == steps[1:]


def test_after_any_kill_the_work_can_be_done_again(tmp_path: Path) -> None:
    """Leftovers of a killed create neither stand in the way nor show."""
    store = Store(tmp_path)
    store.create("models", "ada/r", visibility="public")
    left = tmp_path / "repos" / "models" / "ada" / ".s.0123abcd.tmp"
    left.mkdir()
    (left / "repo.json").write_text("{}")
    assert [repo.id for repo in store.repos("models")] == ["ada/r"]
    store.close()
    assert Store(tmp_path).create("models", "ada/s", visibility="public").refs() and not left.exists()


def test_an_old_name_leads_to_the_repo_until_another_takes_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.move(store.create("models", "ada/a", visibility="public"), "ada/b")
    store.move(store.repo("models", "ada/b"), "ada/c")
    assert [store.find("models", f"ada/{name}").id for name in "abc"] == ["ada/c"] * 3
    assert store.find("datasets", "ada/a") is None
    store.create("models", "ada/a", visibility="public")
    assert [store.find("models", f"ada/{name}").id for name in "abc"] == ["ada/a", "ada/c", "ada/c"]
    store.move(store.repo("models", "ada/c"), "ada/b")  # b -> c -> b
    store.delete(store.repo("models", "ada/b"))
    assert store.find("models", "ada/b") is None and store.find("models", "ada/c") is None


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trash").mkdir()
    (tmp_path / "trash" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        Store(tmp_path)
    assert (tmp_path / "trash" / "mine.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot keep its repos there"):
            Store(root)
