from pathlib import Path

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.behaviors.sources.movielens import GENRES_100K
from cprec_hf.errors import InputError

ITEMS_READ = {"no title": 1, "same item twice": 1}
DIRT = {"no timestamp": 1, "item without a usable title": 1, "item not in the catalogue": 1, "duplicate event": 1}


def write_100k(folder, world):
    rows = [f"{u}\t{i}\t{r}\t{t}" for u, i, t, r in world.events]
    (folder / "u.data").write_text("\n".join([*rows, "20\t3\t5"]))  # the last line is cut off
    flags = {i: "|".join(str(int(genre in world.genres[i])) for genre in GENRES_100K) for i in world.titles}
    lines = [f"{i}|{world.titles[i]}|01-Jan-1995||http://us.imdb.com/M/{i}|{flags[i]}" for i in [*world.titles, "2"]]
    (folder / "u.item").write_bytes("\n".join(lines).encode("latin-1") + b"\n")


def write_1m(folder, world, encoding="latin-1"):
    rows = [f"{u}::{i}::{r}::{t}" for u, i, t, r in world.events]
    (folder / "ratings.dat").write_text("\r\n".join([*rows, "20::3::5"]))
    lines = [f"{i}::{world.titles[i]}::{'|'.join(world.genres[i])}" for i in [*world.titles, "2"]]
    (folder / "movies.dat").write_bytes("\n".join(lines).encode(encoding) + b"\n")


def write_25m(folder, world):
    rows = [f"{u},{i},{r}.0,{t}" for u, i, t, r in world.events]
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows, "20,3,5.0"]))
    genres = {i: "|".join(names) or "(no genres listed)" for i, names in world.genres.items()}
    quoted = {i: '"' + title.replace('"', '""') + '"' if "," in title else title for i, title in world.titles.items()}
    lines = ["movieId,title,genres", *(f"{i},{quoted[i]},{genres[i]}" for i in [*world.titles, "2"])]
    (folder / "movies.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n")


def write_10m(folder, world):
    write_1m(folder, world, "utf-8")


@pytest.mark.parametrize(
    ("write", "edition"),
    [(write_100k, "100K"), (write_1m, "1M or 10M"), (write_10m, "1M or 10M"), (write_25m, "20M and later")],
)
def test_every_edition_is_the_same_world(write, edition, tmp_path, world):
    write(tmp_path, world)
    behaviors = read_source({"kind": "movielens", "folder": str(tmp_path)}, "r.yaml")
    world.check(behaviors, "Movies", ratings=True, categories=", ")
    assert behaviors.items.collect_schema().names() == ["item_id", "domain", "title", "category"]
    assert [step.refused for step in behaviors.account.steps] == [ITEMS_READ, DIRT]
    assert [step.rows_in for step in behaviors.account.steps] == [5, 9]
    assert (behaviors.about.name, behaviors.about.order) == (f"MovieLens {edition}", "time")


def test_a_folder_of_no_edition_says_what_it_must_hold(tmp_path, world):
    write_100k(tmp_path, world)
    (tmp_path / "u.item").unlink()
    with pytest.raises(InputError, match=r"r.yaml: .* must hold u.data and u.item \(100K\); or ratings.dat and movies"):
        read_source({"kind": "movielens", "folder": str(tmp_path)}, "r.yaml")


def test_a_bad_row_names_its_file(tmp_path, world):
    write_25m(tmp_path, world)
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(ratings.read_text() + "\n1,2,3.0,4,5\n")
    with pytest.raises(InputError, match=r"ratings\.csv"):
        read_source({"kind": "movielens", "folder": str(tmp_path)}, "r.yaml")


def test_the_same_ratings_as_recbole_has_them(real_data: Path, tmp_path):
    """The real ML-100K of RecBole's layout, written as GroupLens publishes it, reads as it does from RecBole."""
    recbole = real_data / "ml-100k"
    if not recbole.is_dir():
        pytest.skip(f"no ML-100K at {recbole}")
    keys = {"domain": "Movies", "licence": "research only", "citation": "Harper and Konstan, 2015"}
    theirs = read_source({"kind": "recbole", "folder": str(recbole), **keys}, "r.yaml")
    rows = (recbole / "ml-100k.inter").read_text().splitlines()[1:]
    (tmp_path / "u.data").write_text("\n".join(rows) + "\n")
    items = [line.split("\t") for line in (recbole / "ml-100k.item").read_text().splitlines()[1:]]
    lines = [
        f"{i}|{title}|01-Jan-{year}||url|" + "|".join(str(int(g in genres.split())) for g in GENRES_100K)
        for i, title, year, genres in items
    ]
    (tmp_path / "u.item").write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    ours = read_source({"kind": "movielens", "folder": str(tmp_path)}, "r.yaml").validate()
    key = ["user_id", "item_id", "timestamp"]
    assert ours.interactions.collect().sort(key).equals(theirs.interactions.collect().sort(key))
    found = dict(ours.items.select("item_id", "category").collect().rows())
    wanted = {i: None if genres == "unknown" else genres.replace(" ", ", ") for i, _, _, genres in items}
    assert found == wanted and len(found) == 1_682
