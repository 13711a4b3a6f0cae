"""The package itself: light to import, every public name there."""

import subprocess
import sys

import pytest

import cprec_hf.behaviors as behaviors


def test_importing_the_package_and_its_readers_imports_nothing_heavy() -> None:
    code = (
        "import sys, cprec_hf.behaviors, cprec_hf.behaviors.sources\n"
        "print([m for m in ('polars', 'torch', 'transformers', 'pyarrow', 'datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_public_names_resolve() -> None:
    names = {"About", "Account", "Behaviors", "FilterConfig", "apply_filters", "read_source"}
    assert set(behaviors.__all__) == names == set(dir(behaviors))
    assert all(callable(getattr(behaviors, name)) for name in names)
    with pytest.raises(AttributeError, match="Behaviours"):
        behaviors.Behaviours  # noqa: B018
