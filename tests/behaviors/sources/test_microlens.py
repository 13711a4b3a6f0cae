import csv
import io

import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError

NAMES = {"50K": "MicroLens-50k_titles.csv", "100K": "MicroLens-100k_title_en.csv", "1M": "MicroLens-1M_title.csv"}


def write_titles(folder, edition, world):
    rows = [*world.titles.items(), ("2", world.titles["2"])]
    if edition == "50K":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("item", "title"), *rows])
        (folder / NAMES[edition]).write_text("\ufeff" + text.getvalue(), encoding="utf-8")
    else:  # no header, and quotes are plain characters
        (folder / NAMES[edition]).write_text("".join(f"{i},{title}\n" for i, title in rows), encoding="utf-8")


def write_pairs(folder, world, times):
    if times:
        rows = [f"{u},{i},{t}{ms}" for ms, (u, i, t, _) in zip(range(100, 999), world.events, strict=False)]
        rows[5] = rows[4]  # a repeated row is the same to the millisecond
        (folder / "MicroLens-50k_pairs.csv").write_text("\n".join(["user,item,timestamp", *rows, "20,3"]))
    else:
        lines = [f"{user}\t{' '.join(items)}" for user, items in world.histories().items()]
        (folder / "MicroLens-50k_pairs.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("edition", NAMES)
@pytest.mark.parametrize("times", [True, False])
def test_every_edition_is_the_same_world(edition, times, tmp_path, world):
    write_titles(tmp_path, edition, world)
    write_pairs(tmp_path, world, times)
    (tmp_path / "tags_to_summary.csv").write_text("".join(f"{i},{' & '.join(g)}\n" for i, g in world.genres.items()))
    behaviors = read_source({"kind": "microlens", "folder": str(tmp_path)}, "r.yaml")
    world.check(behaviors, "Videos", categories=" & ")
    items, events = (step.refused for step in behaviors.account.steps)
    assert items == {"no title": 1, "same item twice": 1}
    dirt = {"item without a usable title": 1, "item not in the catalogue": 1}
    assert events == dirt | ({"no timestamp": 1, "duplicate event": 1} if times else {})
    assert behaviors.about.order == ("time" if times else "position")


def test_without_labels_there_is_no_category_and_without_titles_no_world(tmp_path, world):
    write_titles(tmp_path, "1M", world)
    write_pairs(tmp_path, world, True)
    behaviors = read_source({"kind": "microlens", "folder": str(tmp_path)}, "r.yaml")
    assert behaviors.items.collect_schema().names() == ["item_id", "domain", "title"]
    (tmp_path / NAMES["1M"]).unlink()
    with pytest.raises(InputError, match=r"no layout that is known here; it must hold \*_pairs.csv and \*_titles.csv"):
        read_source({"kind": "microlens", "folder": str(tmp_path)}, "r.yaml")
