"""Where can be written is known before work starts, and what is written gets the mode that the umask asks for."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cprec_hf.errors import InputError
from cprec_hf.files import atomic_folder, refuse_existing, require_writable, use_default_modes, without_interrupts
from cprec_hf.training.trunks import resume_point


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_mode_of_new_ones(umask: int, mode: int, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir(mode=0o700)
    files = [tmp_path / "a", inner / "b"]
    for file, given in zip(files, (0o600, 0o755), strict=True):
        file.touch()
        file.chmod(given)
    before = os.umask(umask)
    try:
        use_default_modes(tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [mode, mode]
    assert stat.S_IMODE(inner.stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b", "inner"}


@pytest.mark.parametrize("path", ["file", "file/below", "file/far/below"])
def test_an_output_below_a_file_is_said(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for check in (lambda p: refuse_existing(p, overwrite=True), lambda p: resume_point(None, str(p), overwrite=True)):
        with pytest.raises(InputError, match=r"file is a file; choose another output folder or remove it"):
            check(tmp_path / path)


def test_an_output_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    """A folder that refuses even root, where there is one; else one that refuses whoever runs this."""
    folder = Path("/proc/self")
    if not folder.is_dir():
        folder = tmp_path
        folder.chmod(0o500)
    with pytest.raises(InputError, match=r"out cannot be written: .*; choose another output folder"):
        refuse_existing(folder / "out", overwrite=True)
    with pytest.raises(InputError, match="cannot be written"), atomic_folder(folder / "out"):
        pass


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from cprec_hf.files import atomic_folder

target, moment = Path(sys.argv[1]), sys.argv[2]
renames = []

def hook(event, args):
    if event == "os.rename":
        renames.append(event)
        if moment == f"rename {len(renames)}":
            os.kill(os.getpid(), signal.SIGKILL)
    if event == "shutil.rmtree" and moment == "behind the renames":
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
with atomic_folder(target, overwrite=True) as folder:
    (folder / "a").write_text("new")
    if moment == "within":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["within", "rename 1", "rename 2", "behind the renames"])
def test_what_a_killed_process_left_is_cleared_by_the_next(moment: str, tmp_path: Path) -> None:
    target = tmp_path / "a [b]"
    target.mkdir()
    (target / "a").write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, target, moment], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) >= 2 - (moment == "rename 2")
    stands = "new" if moment == "behind the renames" else "old"
    with pytest.raises(InputError, match="exists already"), atomic_folder(target):
        raise AssertionError("what stood there stands again, and is not replaced unasked")
    assert list(tmp_path.iterdir()) == [target] and (target / "a").read_text() == stands


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as one:
        with atomic_folder(target) as other:
            (other / "a").write_text("other")
            assert one.is_dir()
        assert one.is_dir()
    similar = tmp_path / ".out.more.12345678.tmp"  # of another output
    similar.mkdir()
    with atomic_folder(target, overwrite=True):
        pass
    assert similar.is_dir()


def test_an_interrupt_waits_for_what_belongs_together() -> None:
    done, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), without_interrupts():
        signal.raise_signal(signal.SIGINT)
        done.append("all")
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is before
    with without_interrupts():
        done.append("again")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
