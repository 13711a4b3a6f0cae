from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.behaviors import Behaviors, read_source
from cprec_hf.errors import InputError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\tmovie_title:token_seq\tgenre:token_seq\n"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text(INTER + '01\t1\t3\t881250949\nu"2\t2\t4.5\t881250950.0\n01\t3\t1\t881250951\n')
    (folder / "toy.item").write_text(ITEM + '1\t"Toy" Story\tAnimation Comedy\n2\tGolden, Eye\t\n')
    return folder


def read(folder: Path, **keys: Any) -> Behaviors:
    about = {"domain": "Movies", "licence": "research only", "citation": "Harper and Konstan, 2015"}
    return read_source({"kind": "recbole", "folder": str(folder), **about, **keys}, "r.yaml").validate()


def test_typed_headers_and_plain_quotes(toy: Path) -> None:
    behaviors = read(toy)
    assert sorted(
        behaviors.interactions.select("user_id", "item_id", "domain", "timestamp", "rating").collect().rows()
    ) == [
        ("01", "1", "Movies", 881_250_949, 3.0),
        ('u"2', "2", "Movies", 881_250_950, 4.5),
    ]
    assert behaviors.items.collect().sort("item_id").to_dicts() == [
        {"item_id": "1", "domain": "Movies", "title": '"Toy" Story', "genre": "Animation Comedy"},
        {"item_id": "2", "domain": "Movies", "title": "Golden, Eye", "genre": None},
    ]
    assert behaviors.account.steps[1].refused == {"item not in the catalogue": 1}
    assert (behaviors.about.name, behaviors.about.order) == ("toy", "time")


def test_columns_are_mapped_by_their_names_without_types(toy: Path) -> None:
    (toy / "toy.item").write_text("id:token\tbook_title:token_seq\tsub_title:token_seq\n1\tA\tB\n2\tC\tD\n3\tE\tF\n")
    (toy / "toy.inter").write_text((toy / "toy.inter").read_text().replace("item_id:token", "id:token"))
    behaviors = read(toy, name="books", columns={"item_id": "id", "title": "book_title"})
    assert behaviors.interactions.collect().height == 3
    assert behaviors.items.collect().sort("item_id")["title"].to_list() == ["A", "C", "E"]
    assert behaviors.items.collect_schema().names() == ["item_id", "domain", "title", "sub_title"]
    with pytest.raises(
        InputError, match=r"toy\.item has no column `title`.*item_id: id|toy\.item has no column `title`"
    ):
        read(toy, columns={"item_id": "id"})


def test_bad_folders_and_columns(toy: Path) -> None:
    with pytest.raises(
        InputError, match=r"toy\.inter has no column `when` \(for timestamp\).*user_id, item_id, rating"
    ):
        read(toy, columns={"timestamp": "when"})
    with pytest.raises(InputError, match=r"unknown key `titel`; did you mean `title`\?"):
        read(toy, columns={"titel": "movie_title"})
    (toy / "toy2.inter").write_text(INTER)
    with pytest.raises(InputError, match=r"holds 2 \.inter files; one is expected"):
        read(toy)
    (toy / "toy.item").unlink()
    (toy / "toy2.inter").unlink()
    with pytest.raises(InputError, match=r"r\.yaml: no file .*toy/\*\.item"):
        read(toy)


def test_milliseconds_are_found_here_too(toy: Path) -> None:
    (toy / "toy.inter").write_text(INTER + "1\t1\t3\t881250949000\n")
    with pytest.raises(InputError, match=r"toy\.inter, row 1: timestamp:float is '881250949000'.*timestamp_unit: ms"):
        read(toy)
    assert read(toy, timestamp_unit="ms").interactions.collect()["timestamp"].to_list() == [881_250_949]


def test_movielens(real_data: Path) -> None:
    behaviors = read(real_data / "ml-100k")
    lines = (real_data / "ml-100k" / "ml-100k.inter").read_text().splitlines()[1:]
    expected = [line.split("\t") for line in lines]
    events = behaviors.interactions.collect()
    found = Counter(events.select("user_id", "item_id", "timestamp", "rating").rows())
    assert found == Counter((u, i, int(t), float(r)) for u, i, r, t in expected)
    assert events.height == 100_000 and events["user_id"].n_unique() == 943
    items = behaviors.items.collect()
    assert items.height == 1_682
    assert items.columns == ["item_id", "domain", "title", "release_year", "class"]
    assert dict(items.select("item_id", "title").rows())["1"] == "Toy Story"
    assert [(step.rows_in, step.rows_out) for step in behaviors.account.steps] == [(1_682, 1_682), (100_000, 100_000)]
