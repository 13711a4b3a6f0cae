import gzip
import json

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError

DATE = "%a %b %d %H:%M:%S %z %Y"
DIRT = {"item without a usable title": 1, "item not in the catalogue": 1, "duplicate event": 1}


def pack(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def write_json(folder, world, events="dedup", books=""):
    rows = [
        {
            "user_id": u, "book_id": i, "review_id": str(n), "is_read": n % 2 == 0, "rating": r,
            "date_added": world.iso(t, DATE, -8), "date_updated": world.iso(t + 99, DATE, -7), "read_at": "",
        }
        for n, (u, i, t, r) in enumerate(world.events)
    ]  # fmt: skip
    rows.append(rows[0] | {"book_id": "3", "date_added": "soon"})
    pack(folder / f"goodreads_interactions_{events}.json.gz", rows)
    write_books(folder, world, books)


def write_books(folder, world, books=""):
    rows = [
        {
            "isbn": "", "series": ["1"], "popular_shelves": [{"count": "9", "name": "to-read"}], "book_id": i,
            "description": f"About\n{i}", "title": world.titles[i], "title_without_series": "no",
        }
        for i in [*world.titles, "2"]
    ]  # fmt: skip
    pack(folder / f"goodreads_books{books}.json.gz", rows)
    genres = [{"book_id": i, "genres": dict.fromkeys(names, 3)} for i, names in world.genres.items()]
    pack(folder / "goodreads_book_genres_initial.json.gz", genres)


def read(folder, **keys):
    return read_source({"kind": "goodreads", "folder": str(folder)} | keys, "r.yaml")


def test_the_whole_graph_is_the_same_world(tmp_path, world):
    write_json(tmp_path, world)
    behaviors = read(tmp_path)
    world.check(behaviors, "Books", ratings=True, categories="; ")
    assert [step.refused for step in behaviors.account.steps] == [
        {"no title": 1, "same item twice": 1}, {"unreadable timestamp": 1, **DIRT}
    ]  # fmt: skip
    descriptions = dict(behaviors.items.select("item_id", "description").collect().rows())
    assert descriptions == {i: f"About\n{i}" for i in world.cleaned}


def test_genres_are_domains_that_share_their_users(tmp_path, world):
    for genre in ("poetry", "comics_graphic"):
        write_json(tmp_path, world, genre, f"_{genre}")
    behaviors = read(tmp_path, genres={"Poetry": "poetry", "Comics": "comics_graphic"})
    for domain in ("Poetry", "Comics"):
        world.check(behaviors, domain, ratings=True, categories="; ")
    assert behaviors.interactions.collect()["user_id"].n_unique() == 2
    with pytest.raises(InputError, match=r"must hold goodreads_interactions_romance\.json\* and goodreads_books_roma"):
        read(tmp_path, genres={"Romance": "romance"})


@pytest.mark.parametrize("order", ["oldest_first", "newest_first"])
def test_the_csv_file_is_read_in_the_order_that_is_said(order, tmp_path, world):
    write_books(tmp_path, world)
    users, books = ["10", "20"], [*world.titles, "99"]  # numbers in the CSV file are others
    rows = sorted([row for n, row in enumerate(world.events) if n != 5], key=lambda row: row[2])
    rows = rows if order == "oldest_first" else rows[::-1]
    lines = [f"{users.index(u)},{books.index(i)},1,{r},0" for u, i, _, r in rows]
    text = "\n".join(["user_id,book_id,is_read,rating,is_reviewed", *lines])
    (tmp_path / "goodreads_interactions.csv").write_text(text + "\n")
    for name, ids in {"book": books, "user": users}.items():
        text = "".join(f"{n},{i}\n" for n, i in enumerate(ids))
        (tmp_path / f"{name}_id_map.csv").write_text(f"{name}_id_csv,{name}_id\n{text}")
    behaviors = read(tmp_path, kind="goodreads_csv", rows=order)
    assert behaviors.about.order == "position"
    world.check(behaviors, "Books", ratings=True, categories="; ")
    with pytest.raises(InputError, match="must hold goodreads_interactions_dedup"):
        read(tmp_path)
    with pytest.raises(InputError, match="missing key `rows`"):
        read(tmp_path, kind="goodreads_csv")
    with pytest.raises(InputError, match="`genres` is empty"):
        read(tmp_path, genres={})


def test_a_rating_of_zero_is_none(tmp_path, world):
    write_json(tmp_path, world)
    path = tmp_path / "goodreads_interactions_dedup.json.gz"
    rows = [json.loads(line) | {"rating": 0} for line in gzip.decompress(path.read_bytes()).splitlines()]
    pack(path, rows)
    assert read(tmp_path).interactions.collect()["rating"].is_null().all()
