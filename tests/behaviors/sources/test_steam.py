import gzip

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError


def python2(value):
    """A value as Python 2 prints it: every string `u''`, nothing beyond ASCII."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{python2(k)}: {python2(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(python2, value))}]"
    return f"u{value!a}" if isinstance(value, str) else repr(value)


def write(folder, world, reviews="steam_reviews.json.gz"):
    rows = [
        {
            "username": u, "hours": 0.1, "products": 41, "product_id": i, "page_order": 0,
            "date": world.iso(t, "%Y-%m-%d"), "text": "u'username': u'nobody', \"it's\" {'date': '1999-01-01'}\n",
            "early_access": False, "page": 1,
        }
        for u, i, t, _ in world.events
    ]  # fmt: skip
    lines = "\n".join(map(python2, rows)) + "\n{u'username': u'20', u'product_id': u'3', u'da"
    (folder / reviews).write_bytes(gzip.compress(lines.encode()))
    games = []
    for item in [*world.titles, "2"]:
        named = {"app_name": "not this name", "title": world.titles[item]}
        if item == "3":  # known by its name in the store alone
            named = {"app_name": world.titles[item]}
        games.append({"publisher": "O'Reilly", "genres": world.genres[item], **named, "price": 4.99, "id": item})
    del games[3]["title"], games[3]["app_name"]
    (folder / "steam_games.json.gz").write_bytes(gzip.compress("\n".join(map(python2, games)).encode()))


@pytest.mark.parametrize("reviews", ["steam_reviews.json.gz", "steam_new.json.gz"])
def test_both_editions_are_the_same_world(reviews, tmp_path, world):
    write(tmp_path, world, reviews)
    behaviors = read_source({"kind": "steam", "folder": str(tmp_path)}, "r.yaml")
    world.check(behaviors, "Games", categories=", ")
    assert [step.refused for step in behaviors.account.steps] == [
        {"no title": 1, "same item twice": 1},
        {
            "truncated last line": 1,
            "item without a usable title": 1,
            "item not in the catalogue": 1,
            "duplicate event": 1,
        },
    ]


def test_a_missing_file_is_named(tmp_path, world):
    write(tmp_path, world)
    (tmp_path / "steam_games.json.gz").unlink()
    with pytest.raises(InputError, match=r"must hold steam_reviews\.json\* and steam_games\.json\*"):
        read_source({"kind": "steam", "folder": str(tmp_path)}, "r.yaml")
