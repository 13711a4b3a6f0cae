"""`read_source`: the kind chooses the reader, the rest of the mapping is that reader's config."""

import dataclasses
import inspect
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.behaviors.sources import KINDS
from cprec_hf.errors import InputError


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, f"r.yaml: missing key `kind`; choose one of {', '.join(KINDS)}"),
        ({"kind": "tabel"}, "r.yaml: `kind`: unknown key `tabel`; did you mean `table`?"),
        ({"kind": "table"}, "r.yaml: missing key `name`"),
        ({"kind": "recbole", "folde": "x"}, "r.yaml: unknown key `folde`; did you mean `folder`?"),
        (
            {"kind": "no_such_package.mine:Config"},
            "r.yaml: `kind` is no_such_package.mine:Config: No module named 'no_such_package'; "
            "put the folder of no_such_package.mine on PYTHONPATH",
        ),
        ({"kind": "marketplace", "seeds": 1}, "r.yaml: unknown key `seeds`; did you mean `seed`?"),
    ],
)
def test_a_wrong_mapping_is_refused(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        read_source(mapping, "r.yaml")
    assert str(error.value) == message


def test_the_marketplace_is_a_source_like_the_others() -> None:
    sizes = {"users": 20, "unseen_users": 20, "items_per_domain": 160, "domains": ["Books", "Games"]}
    behaviors = read_source({"kind": "marketplace", "seed": 3, **sizes}, "r.yaml").validate()
    assert behaviors.about.order == "time"
    assert set(behaviors.items.collect()["domain"]) == {"Books", "Games", "Music"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_class_whose_keys_are_explained(kind: str) -> None:
    module, name = KINDS[kind].split(":")
    config = getattr(import_module(module), name)
    with pytest.raises(InputError, match="unknown key `no_such_key_of_any_source`"):
        read_source({"kind": kind, "no_such_key_of_any_source": 1}, "r.yaml")
    source = "".join(inspect.getsource(base) for base in config.__mro__ if dataclasses.is_dataclass(base))
    for key in [f.name for f in dataclasses.fields(config) if kind != "marketplace"]:
        assert re.search(rf'    {key}: .*\n    """', source), f"{kind}: no word on `{key}`"


def test_no_reader_is_loaded_before_it_is_named() -> None:
    code = (
        "import sys, cprec_hf.behaviors.sources as s; print([m for m in sys.modules if m.startswith(s.__name__ + '.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
