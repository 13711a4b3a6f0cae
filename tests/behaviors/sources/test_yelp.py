import json

from cprec_hf.behaviors import read_source


def test_it_is_the_same_world(tmp_path, world):
    reviews = [
        {
            "review_id": str(n), "user_id": u, "business_id": i, "stars": float(r), "useful": 0, "funny": 0, "cool": 0,
            "text": "It's \"good\"\n", "date": world.iso(t, "%Y-%m-%d %H:%M:%S"),
        }
        for n, (u, i, t, r) in enumerate(world.events)
    ]  # fmt: skip
    businesses = [
        {
            "business_id": i, "name": world.titles[i], "address": "", "city": "Tucson", "stars": 3.5, "is_open": 0,
            "attributes": {"ByAppointmentOnly": "True"}, "hours": None,
            "categories": ", ".join(world.genres[i]) or None,
        }
        for i in [*world.titles, "2"]
    ]  # fmt: skip
    files = {"review": reviews, "business": businesses}
    for name, rows in files.items():
        text = "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows) + json.dumps(rows[0])[:-30]  # it is cut off
        (tmp_path / f"yelp_academic_dataset_{name}.json").write_text(text)
    behaviors = read_source({"kind": "yelp", "folder": str(tmp_path)}, "r.yaml")
    world.check(behaviors, "Businesses", ratings=True, categories=", ")
    assert [step.refused for step in behaviors.account.steps] == [
        {"truncated last line": 1, "no title": 1, "same item twice": 1},
        {
            "truncated last line": 1,
            "item without a usable title": 1,
            "item not in the catalogue": 1,
            "duplicate event": 1,
        },
    ]
