"""Your own logs as datasets of the Hub, named by config and split."""

import json
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError

EVENTS = "buyer,sku,bought_at\nu1,007,1600000000\nu2,b,1600000100\n"
ITEMS = '{"sku": "007", "name": "Dune"}\n{"sku": "b", "name": "Emma"}\n'
CARD = """---
configs:
- {config_name: purchases, data_files: [{split: train, path: 2023/*.csv}, {split: test, path: 2024/*.csv}]}
- {config_name: products, data_files: [{split: train, path: products.jsonl}]}
---
"""
KEYS = {"licence": "proprietary", "citation": "none", "name": "shop", "domain": "Books"}
COLUMNS = {"user_id": "buyer", "item_id": "sku", "timestamp": "bought_at", "title": "name"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    for name, text in {
        "2023/a.csv": EVENTS, "2024/b.csv": EVENTS.replace("16", "17"), "products.jsonl": ITEMS, "README.md": CARD,
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_configs_and_splits_of_a_hub_dataset(repo: Path, hub_machine: Any, tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "u.data").write_text("u1\t1\t5\t1600000000\n")
    (tmp_path / "ml" / "u.item").write_text("1|Dune (1984)|\n")
    published, _ = hub_machine.push(tmp_path / "ml", "ml", "dataset")
    name, first = hub_machine.push(repo, "logs", "dataset")
    (repo / "2023" / "a.csv").write_text(EVENTS.replace("u1", "u9"))
    hub_machine.push(repo, "logs", "dataset")
    code = """
        import json, sys
        from cprec_hf.behaviors import read_source
        from cprec_hf.errors import InputError

        keys, name, first, published = json.loads(sys.argv[1]), *sys.argv[2:]
        events = {"dataset": name, "config": "purchases"}
        found = []
        for more in ({}, {"split": "test"}, {"revision": first}, {"split": "tset"}, {"config": "purchase"},
                     {"dataset": name + "x"}, {"revision": "v9"}):
            try:
                source = {"kind": "table", **keys, "interactions": events | more,
                          "items": {"dataset": name, "config": "products"}}
                rows = read_source(source, "r.yaml").validate().interactions.collect()
                found.append(sorted(rows.select("user_id", "item_id", "timestamp").rows()))
            except InputError as error:
                found.append(str(error))
        movies = read_source({"kind": "movielens", "folder": f"hf://datasets/{published}"}, "r.yaml").validate()
        found.append(movies.interactions.join(movies.items, on="item_id").select("user_id", "title").collect().rows())
        print(json.dumps(found))
    """
    found = hub_machine.run(code, json.dumps(KEYS | {"columns": COLUMNS}), name, first, published)
    assert found[0] == [["u2", "b", 1_600_000_100], ["u9", "007", 1_600_000_000]]
    assert found[1] == [["u1", "007", 1_700_000_000], ["u2", "b", 1_700_000_100]]
    assert found[2] == [["u1", "007", 1_600_000_000], ["u2", "b", 1_600_000_100]]
    assert found[3] == f"r.yaml: dataset {name} has no split 'tset'; it has train, test"
    assert "purchase" in found[4] and "products" in found[4]
    assert found[7] == [["u1", "Dune (1984)"]]
    assert "doesn't exist on the Hub" in found[5] and "Revision 'v9' doesn't exist" in found[6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "me/logs", "splt": "test"}, "`interactions`: unknown key `splt`; did you mean `split`"),
        ({"dataset": "logs"}, "`dataset` is 'logs', not USER/NAME on the Hub; give files here by their paths"),
        ({"dataset": "/home/me/logs"}, "not USER/NAME on the Hub"),
    ],
)
def test_what_names_no_dataset_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_source({"kind": "table", **KEYS, "columns": COLUMNS, "items": "i.csv", "interactions": given}, "r.yaml")
