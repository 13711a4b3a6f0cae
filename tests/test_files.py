"""Files get the mode that the umask asks for, whoever wrote them."""

import os
import stat
from pathlib import Path

import pytest

from cprec_hf.files import use_default_modes


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
