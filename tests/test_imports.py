"""What importing loads, and who imports whom: the arrows of the house, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cprec_hf"
HEAVY = ("torch", "transformers", "polars", "trl", "datasets", "evaluate", "matplotlib", "huggingface_hub")
SHARED = {"errors", "files", "quiet", "recipes", "__version__"}
COMMANDS = {"command"}  # modules that are also run with `python -m`
ORDER = ("behaviors", "corpus", "ranking", "training", "evaluation")
ALLOWED = {room: {*ORDER[: i + 1], "hub", "metrics", *SHARED} for i, room in enumerate(ORDER)}
ALLOWED |= {room: ALLOWED[room] | COMMANDS for room in ("ranking", "training", "evaluation")}
ALLOWED |= {"hub": {"hub", *SHARED}, "metrics": set()}
WITHOUT_POLARS = tuple(f"corpus/{name}" for name in ("encoder", "ragged", "template", "load", "record", "tokenizer"))


def imported(path: Path) -> set[str]:
    """Modules a file imports, at its top, within functions, or for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module or ""} if node.module != "cprec_hf" else {f"cprec_hf.{a.name}" for a in node.names}
    return found


def files_of(room: str) -> list[Path]:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    return files


def loaded_after(code: str) -> set[str]:
    """Top-level packages in sys.modules after running `code` in a fresh process."""
    script = f"import sys\n{code}\nprint('\\n', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_only_run_down(room: str) -> None:
    for path in files_of(room):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("cprec_hf.")}
        assert ours <= ALLOWED[room], f"{path} imports {sorted(ours - ALLOWED[room])}"


def test_shared_modules_import_no_room() -> None:
    for name in SHARED - {"__version__"}:
        ours = {found.split(".")[1] for found in imported(PACKAGE / f"{name}.py") if found.startswith("cprec_hf.")}
        assert ours <= SHARED


@pytest.mark.parametrize(
    "code",
    [
        "import cprec_hf; dir(cprec_hf)",
        "from cprec_hf import cli\ntry: cli.main(['--help'])\nexcept SystemExit as end: assert not end.code",
        "import cprec_hf.behaviors, cprec_hf.corpus, cprec_hf.evaluation, cprec_hf.hub, cprec_hf.metrics",
    ],
    ids=["cprec_hf", "cprec --help", "rooms"],
)
def test_nothing_heavy_is_loaded_at_import(code: str) -> None:
    assert not loaded_after(code) & set(HEAVY)


def test_a_machine_without_polars_trains_and_ranks() -> None:
    """Polars is hidden: all of ranking and training, and what they need of corpus, import without it."""
    files = [*files_of("ranking"), *files_of("training"), *(PACKAGE / f"{name}.py" for name in WITHOUT_POLARS)]
    for path in files:
        assert "polars" not in imported(path), f"{path} imports polars"
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]
    modules = ", ".join(name.removesuffix(".__init__") for name in names)
    loaded_after(f"sys.modules['polars'] = None\nimport {modules}")


def test_every_public_name_exists() -> None:
    code = "import cprec_hf\nfor name in cprec_hf.__all__: getattr(cprec_hf, name)\nassert cprec_hf.__all__"
    loaded_after(code)
    with pytest.raises(AssertionError, match="has no attribute 'nothing'"):
        loaded_after("import cprec_hf; cprec_hf.nothing")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_no_longer_than_it_may_be(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
