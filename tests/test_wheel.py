"""The wheel: recipes and card templates are inside, and it runs outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("recipes", "dataset_cards", "model_cards")


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("cprec_hf-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    run("-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=site)
    return site


def test_the_wheel_holds_the_package_recipes_and_templates(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = (path for room in SHIPPED for path in (ROOT / room).rglob("*") if path.is_file())
    expected = {f"cprec_hf/_shipped/{path.relative_to(ROOT)}" for path in shipped}
    assert any(name.endswith("tiny/corpus.yaml") for name in expected) and expected <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cprec_hf").rglob("*.py")}
    assert modules <= names
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2 and "cprec_hf" in tops, f"only the package and its metadata belong in a wheel: {tops}"


def test_the_installed_wheel_finds_its_recipes_and_templates(installed: Path, tmp_path: Path) -> None:
    code = """
import cprec_hf, sys
from pathlib import Path
from cprec_hf.recipes import find_recipe, read_yaml, shipped
assert Path(cprec_hf.__file__).is_relative_to(sys.argv[1]), cprec_hf.__file__
for room, name in (("dataset_cards", "corpus.md.jinja"), ("model_cards", "model.md.jinja")):
    assert (shipped(room) / name).is_relative_to(sys.argv[1]) and (shipped(room) / name).is_file()
assert read_yaml(find_recipe("recipes/tiny/corpus.yaml"))["source"]
"""
    run("-c", code, installed, cwd=tmp_path, PYTHONPATH=str(installed))


def test_the_command_line_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    said = run("-m", "cprec_hf.cli", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert all(verb in said for verb in ("demo", "corpus", "train", "anneal", "evaluate", "recommend"))
    assert "cprec = cprec_hf.cli:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()
