"""`read_source`: the kind chooses the reader, the rest of the mapping is that reader's config."""

from typing import Any

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "r.yaml: missing key `kind`; choose one of marketplace, recbole, table"),
        ({"kind": "tabel"}, "r.yaml: `kind`: unknown key `tabel`; did you mean `table`?"),
        ({"kind": "table"}, "r.yaml: missing key `name`"),
        ({"kind": "recbole", "folde": "x"}, "r.yaml: unknown key `folde`; did you mean `folder`?"),
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
