"""Pseudonyms: keyed, stable, and the key stays private."""

import hashlib
import hmac
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.pseudonyms import _make_key, pseudonymise
from cprec_hf.errors import InputError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and no key in the environment."""
    monkeypatch.delenv("CPREC_USER_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@given(ids=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5, unique=True))
def test_is_hmac_sha256_under_the_key(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPREC_USER_KEY", "k1")
    expected = [hmac.new(b"k1", user.encode(), hashlib.sha256).hexdigest()[:16] for user in ids]
    assert pseudonymise(ids) == expected
    monkeypatch.setenv("CPREC_USER_KEY", "k2")
    assert not set(pseudonymise(ids)) & set(expected)


def test_key_file_is_made_once_private_and_reused(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = pseudonymise(["a", "b"])
    file = home / ".config" / "cprec" / "user.key"
    key = file.read_text()
    assert len(bytes.fromhex(key)) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert pseudonymise(["b", "a"]) == first[::-1] and file.read_text() == key
    assert [path.name for path in file.parent.iterdir()] == ["user.key"]
    assert first[0] == hmac.new(key.encode(), b"a", hashlib.sha256).hexdigest()[:16]
    assert capfd.readouterr() == ("", "")


def test_the_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPREC_USER_KEY", "k1")
    pseudonymise(["a"])
    assert not (home / ".config").exists()


def test_processes_that_start_together_agree_on_one_key(home: Path) -> None:
    code = "from cprec_hf.corpus.pseudonyms import pseudonymise; print(pseudonymise(['a'])[0])"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) for _ in range(4)]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)


def test_the_first_process_key_stands(tmp_path: Path) -> None:
    file = tmp_path / "user.key"
    _make_key(file)
    key = file.read_text()
    _make_key(file)  # as by a process that saw no file yet
    assert file.read_text() == key and [path.name for path in tmp_path.iterdir()] == ["user.key"]


def test_bad_keys_are_refused_without_being_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pseudonymise(["a"])
    file = home / ".config" / "cprec" / "user.key"
    key = file.read_text()
    file.chmod(0o644)
    with pytest.raises(InputError, match=r"mode 644.*chmod 600") as error:
        pseudonymise(["a"])
    assert key not in str(error.value)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(InputError, match=r"user\.key is empty"):
        pseudonymise(["a"])
    monkeypatch.setenv("CPREC_USER_KEY", " ")
    with pytest.raises(InputError, match="CPREC_USER_KEY is empty"):
        pseudonymise(["a"])
