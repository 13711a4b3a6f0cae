"""One small world in the layouts of Amazon 2023, 2018 and 2014, with their dirt: each gives the same rows back."""

import ast
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cprec_hf.behaviors import Behaviors, read_source
from cprec_hf.errors import InputError

CATEGORIES = {"Musical_Instruments": "Instruments", "Arts_Crafts_and_Sewing": "Arts, Crafts & Sewing"}
BOM = b"\xef\xbb\xbf"
START = 1_400_000_000
EVENTS = [  # user, item, category, unix seconds, rating
    ("AU1", "B1", "Musical_Instruments", START, 5.0),
    ("AU1", "B2", "Musical_Instruments", START + 7, 4.0),
    ("AU2", "B1", "Musical_Instruments", START + 9, 1.0),
    ("AU1", "0007", "Arts_Crafts_and_Sewing", START + 5, 3.0),
    ("AU3", "B2", "Arts_Crafts_and_Sewing", START + 6, 2.0),
]
DIRTY = [
    *EVENTS,
    EVENTS[1],
    ("AU2", "B9", "Musical_Instruments", START, 5.0),
    ("AU2", "B3", "Musical_Instruments", 1, 1.0),
]
ITEMS = [  # item, category, title, category, description, brand
    ("B1", "Musical_Instruments", "Fender's \"Strat\" & strap", "Guitars > Electric", "It's loud.\nVery.", "Fender"),
    ("B2", "Musical_Instruments", "Café triangle, 6\"", "Percussion", None, None),
    ("0007", "Arts_Crafts_and_Sewing", "Glue [NEW]", "Crafts", "[sticky] 'stuff'", "u'hu"),
    ("B2", "Arts_Crafts_and_Sewing", "Blue <b>paint", None, "One \\ two", "Acme"),
]  # fmt: skip
CLEAN_EVENTS = sorted((u, i, CATEGORIES[c], t, r) for u, i, c, t, r in EVENTS)
CLEAN_ITEMS = sorted((i, CATEGORIES[c], t, *rest) for i, c, t, *rest in ITEMS)
READ_ITEMS = {"no title": 3, "same item twice": 1, "truncated last line": 1}
READ_EVENTS = {
    "duplicate event": 1, "item not in the catalogue": 1, "item without a usable title": 1, "truncated last line": 1
}  # fmt: skip


def pack(path: Path, lines: list[str], cut: str = "") -> None:
    """A byte order mark, lines, and the beginning of one more."""
    path.write_bytes(gzip.compress(BOM + "".join(line + "\n" for line in lines).encode() + cut.encode()))


def dirty_title(title: str) -> str:
    return title.replace("&", "&amp;").replace("é", "&eacute;") + " "


def with_dirt(rows: list[dict[str, Any]], key: str, title: str) -> list[dict[str, Any]]:
    """Three items more that have no title, in each way there is, and one twice."""
    bare = {name: value for name, value in rows[0].items() if name != title}
    return [{**bare, key: "B3"}, *rows, {**bare, key: "B4", title: ""}, {**bare, key: "B5", title: None}, rows[0]]


def of(category: str, rows: list[tuple[Any, ...]], place: int) -> list[tuple[Any, ...]]:
    return [row for row in rows if row[place] == category]


def write_2023(folder: Path) -> dict[str, Any]:
    for category in CATEGORIES:
        reviews = [
            {
                "rating": r, "title": "Great &amp; loud", "text": f'"user_id": "nobody", \\"{u}\\" 好', "images": [],
                "asin": f"V{i}", "parent_asin": i, "user_id": u, "timestamp": t * 1000 + 923, "helpful_vote": 0,
                "verified_purchase": True,
            }
            for u, i, _, t, r in of(category, DIRTY, 2)
        ]  # fmt: skip
        items = [
            {
                "main_category": "All", "title": dirty_title(t), "average_rating": 4.8, "features": ["a"],
                "description": text.split(". ") if text else [], "price": None, "images": [{"hi_res": None}],
                "videos": [{"title": "not this title", "url": "x"}], "store": brand,
                "categories": kinds.split(" > ") if kinds else [], "details": {"title": "nor this", "store": "x"},
                "parent_asin": i, "bought_together": None,
            }
            for i, _, t, kinds, text, brand in of(category, ITEMS, 1)
        ]  # fmt: skip
        for item in items:
            if not item["categories"]:
                item["main_category"] = None
        music = category == "Musical_Instruments"
        items = with_dirt(items, "parent_asin", "title") if music else items
        pack(folder / f"{category}.jsonl.gz", list(map(json.dumps, reviews)), '{"rating": 5.0, "ti' if music else "")
        pack(folder / f"meta_{category}.jsonl.gz", list(map(json.dumps, items)), '{"main_c' if music else "")
    return {"reviews": f"{folder}/{{category}}.jsonl.gz", "items": f"{folder}/meta_{{category}}.jsonl.gz"}


def older_reviews(category: str) -> list[str]:
    rows = [
        {
            "overall": r, "verified": True, "reviewTime": "05 13, 2014", "reviewerID": u, "asin": i,
            "style": {"Size:": " L"}, "reviewerName": "N", "reviewText": "\"asin\": \"no\"", "unixReviewTime": t,
        }
        for u, i, _, t, r in of(category, DIRTY, 2)
    ]  # fmt: skip
    return list(map(json.dumps, rows))


def write_2018(folder: Path) -> dict[str, Any]:
    for category in CATEGORIES:
        items = [
            {
                "category": kinds.split(" > ") if kinds else [], "tech1": "", "fit": "", "title": dirty_title(t),
                "description": [text] if text else [], "also_buy": ["B1"], "brand": brand or "", "rank": ["1"],
                "main_cat": "", "price": "$1", "asin": i,
            }
            for i, _, t, kinds, text, brand in of(category, ITEMS, 1)
        ]  # fmt: skip
        music = category == "Musical_Instruments"
        if music:
            items = with_dirt(items, "asin", "title")
            items[-2]["title"] = 'var aPageStart = (new Date()).getTime(); <span id="x">\nBuy</span>'
        pack(folder / f"{category}_5.json.gz", older_reviews(category), '{"overall": 5.0, "ver' if music else "")
        pack(folder / f"meta_{category}.json.gz", list(map(json.dumps, items)), '{"category": ["' if music else "")
    return {"reviews": f"{folder}/{{category}}_5.json.gz", "items": f"{folder}/meta_{{category}}.json.gz"}


def write_2014(folder: Path, spell: Callable[[Any], str] = repr) -> dict[str, Any]:
    for category in CATEGORIES:
        items = [
            {
                "asin": i, "related": {"also_bought": ["B1", "B2"]}, "title": dirty_title(t), "price": 9.99,
                "salesRank": {"Toys & Games": 211836}, "imUrl": "http://x/y.jpg", "brand": brand or "",
                "categories": [kinds.split(" > "), ["Another", "path"]] if kinds else [[]], "description": text or "",
            }
            for i, _, t, kinds, text, brand in of(category, ITEMS, 1)
        ]  # fmt: skip
        music = category == "Musical_Instruments"
        items = with_dirt(items, "asin", "title") if music else items
        reviews = older_reviews(category)
        pack(folder / f"reviews_{category}_5.json.gz", reviews, '{"reviewerID": "AU1"' if music else "")
        pack(folder / f"meta_{category}.json.gz", list(map(spell, items)), "{'asin': 'B1', 'titl" if music else "")
    return {"reviews": f"{folder}/reviews_{{category}}_5.json.gz", "items": f"{folder}/meta_{{category}}.json.gz"}


def rows(behaviors: Behaviors) -> tuple[list[Any], list[Any], dict[str, Any]]:
    """Events and items as values, and what was refused."""
    behaviors.validate()
    events = behaviors.interactions.select("user_id", "item_id", "domain", "timestamp", "rating").collect().rows()
    items = behaviors.items.collect()
    assert items.columns == ["item_id", "domain", "title", "category", "description", "brand"]
    return sorted(events), sorted(items.rows()), {step.name: step.refused for step in behaviors.account.steps}


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("amazon_2023", write_2023),
        ("amazon_2018", write_2018),
        ("amazon_2014", write_2014),
        ("amazon_2014", lambda folder: write_2014(folder, json.dumps)),
    ],
    ids=["2023", "2018", "2014", "2014 strict"],
)
def test_every_edition_is_the_same_world(kind: str, write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    behaviors = read_source({"kind": kind, "categories": CATEGORIES, **write(tmp_path)}, "r.yaml")
    assert rows(behaviors) == (
        CLEAN_EVENTS,
        CLEAN_ITEMS,
        {"items: read": READ_ITEMS, "interactions: read": READ_EVENTS},
    )
    assert behaviors.about.order == "time" and not behaviors.about.redistributable
    assert [step.rows_in - step.rows_out for step in behaviors.account.steps] == [5, 4]


def test_the_literals_of_2014_are_what_python_reads(tmp_path: Path) -> None:
    write_2014(tmp_path)
    lines = gzip.decompress((tmp_path / "meta_Arts_Crafts_and_Sewing.json.gz").read_bytes()).decode("utf-8-sig")
    assert [ast.literal_eval(line)["title"].strip() for line in lines.splitlines()] == ["Glue [NEW]", "Blue <b>paint"]


@pytest.mark.parametrize("parts", [[""], [".train", ".valid", ".test"]], ids=["whole", "a split's parts"])
def test_the_ratings_of_2023_are_read_whatever_split_they_come_in(parts: list[str], tmp_path: Path) -> None:
    paths = write_2023(tmp_path)
    for category in CATEGORIES:
        events = of(category, DIRTY, 2)
        for place, part in enumerate(parts):
            history = ",history" if len(parts) > 1 else ""
            lines = [f"user_id,parent_asin,rating,timestamp{history}"]
            lines += [
                f"{u},{i},{r},{t}923{',B1 B2' if history else ''}" for u, i, _, t, r in events[place :: len(parts)]
            ]
            content = BOM + "\n".join(lines).encode()
            (tmp_path / f"{category}{part}.csv.gz").write_bytes(gzip.compress(content))
    reviews = f"{tmp_path}/{{category}}{'.*' if len(parts) > 1 else ''}.csv.gz"
    found = read_source({"kind": "amazon_2023", "categories": CATEGORIES, **paths, "reviews": reviews}, "r.yaml")
    refused = {reason: n for reason, n in READ_EVENTS.items() if reason != "truncated last line"}
    assert rows(found) == (CLEAN_EVENTS, CLEAN_ITEMS, {"items: read": READ_ITEMS, "interactions: read": refused})


def test_categories_named_by_a_list_are_domains_by_their_names(tmp_path: Path) -> None:
    behaviors = read_source({"kind": "amazon_2018", "categories": [*CATEGORIES], **write_2018(tmp_path)}, "r.yaml")
    assert set(behaviors.items.collect()["domain"]) == {"Musical Instruments", "Arts Crafts and Sewing"}


def test_what_is_wrong_with_a_recipe_or_a_file_is_said(tmp_path: Path) -> None:
    paths = write_2023(tmp_path)

    def read(**keys: Any) -> Behaviors:
        return read_source({"kind": "amazon_2023", "categories": CATEGORIES, **paths, **keys}, "r.yaml")

    for keys, message in [
        ({"categories": []}, "r.yaml: `categories` is empty"),
        ({"categories": ["Books"]}, r"r.yaml: no file .*Books\.jsonl\.gz"),
        ({"categories": {"Musical_Instruments": "A", "Arts_Crafts_and_Sewing": "A"}}, "names a domain twice: A, A"),
        ({"reviews": f"{tmp_path}/Musical_Instruments.jsonl.gz"}, "write {category} there"),
        ({"reviews": paths["items"]}, r"has no column `user_id` .*Its columns: .*parent_asin"),
        ({"items": paths["reviews"], "reviews": f"{tmp_path}/{{category}}.parquet"}, "no file"),
    ]:
        with pytest.raises(InputError, match=message):
            read(**keys)
    (tmp_path / "Musical_Instruments.parquet").touch()
    with pytest.raises(InputError, match=r"Instruments\.parquet is neither JSON Lines nor CSV"):
        read(reviews=f"{tmp_path}/{{category}}.parquet", categories=["Musical_Instruments"])
    whole = (tmp_path / "Musical_Instruments.jsonl.gz").read_bytes()
    (tmp_path / "Musical_Instruments.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(
        InputError, match=r"Musical_Instruments\.jsonl\.gz, after line \d: the gzip stream ends before its end"
    ):
        read()
    lines = gzip.decompress(whole).split(b"\n")
    (tmp_path / "Musical_Instruments.jsonl.gz").write_bytes(
        gzip.compress(b"\n".join([*lines[:2], b'{"rating": 5.0,', *lines[2:]]))
    )
    with pytest.raises(InputError, match=r"Musical_Instruments\.jsonl\.gz, line 3: not JSON"):
        read()
