import csv
import io
import re
from pathlib import Path

import polars as pl
import pytest

from cprec_hf.behaviors import read_source
from cprec_hf.errors import InputError

SETS = {"Food": "Bili_Food", "Cartoon": "Bili_Cartoon"}


def write_set(folder, name, world, behaviour):
    folder = folder / name
    folder.mkdir(exist_ok=True)
    text = io.StringIO()
    rows = [(i, f"中文{title}" if title else "", title) for i, title in world.titles.items()]
    csv.writer(text, lineterminator="\n").writerows([*rows, rows[1]])
    (folder / f"{name}_item.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    if behaviour == "pair":
        lines = [f"{i},{u},{t}" for u, i, t, _ in world.events]
        (folder / f"{name}_pair.csv").write_text("\n".join([*lines, "3,20"]))
    elif behaviour == "behaviour":
        lines = [f"{user}\t{' '.join(items)}" for user, items in world.histories().items()]
        (folder / f"{name}_behaviour.tsv").write_text("\n".join([*lines, "30"]))
    else:
        lines = [f"{user} {' '.join(items)} " for user, items in world.histories().items()]
        (folder / "sequential_data.txt").write_text("\n".join([*lines, "30 "]))


def read(folder, sets=SETS, **keys):
    mapping = {"kind": "ninerec", "language": "en", "sets": {d: str(folder / name) for d, name in sets.items()}, **keys}
    return read_source(mapping, "r.yaml")


@pytest.mark.parametrize("behaviour", ["pair", "behaviour", "sequential"])
def test_every_layout_is_the_same_world_in_each_set(behaviour, tmp_path, world):
    for name in SETS.values():
        write_set(tmp_path, name, world, behaviour)
    behaviors = read(tmp_path)
    for domain in SETS:
        world.check(behaviors, domain, user=f"{domain}/")
    assert behaviors.about.order == ("time" if behaviour == "pair" else "position")
    items, events = (step.refused for step in behaviors.account.steps)
    assert items == {"no title": 2, "same item twice": 2}
    dirt = {"item without a usable title": 2, "item not in the catalogue": 2}
    lists = {"no item id": 2}  # a user without items
    assert events == dirt | ({"no timestamp": 2, "duplicate event": 2} if behaviour == "pair" else lists)


def test_the_language_chooses_the_title(tmp_path, world):
    write_set(tmp_path, "Bili_Food", world, "pair")
    titles = read(tmp_path, {"Food": "Bili_Food"}, language="zh").items.collect()
    assert dict(titles.select("item_id", "title").rows()) == {i: f"中文{title}" for i, title in world.cleaned.items()}
    with pytest.raises(InputError, match="`language` is 'fr'; choose one of zh, en"):
        read(tmp_path, language="fr")


def test_positions_have_gaps_where_an_item_was_refused(tmp_path, world):
    write_set(tmp_path, "Bili_Food", world, "sequential")
    events = read(tmp_path, {"Food": "Bili_Food"}).interactions.collect().sort("user_id", "timestamp")
    histories = world.histories()
    expected = [
        (f"Food/{user}", item, place)
        for user, items in histories.items()
        for place, item in enumerate(items)
        if item in world.cleaned
    ]
    assert events.select("user_id", "item_id", "timestamp").rows() == expected


def test_one_set_without_times_takes_the_times_of_all(tmp_path, world):
    write_set(tmp_path, "Bili_Food", world, "pair")
    write_set(tmp_path, "Bili_Food", world, "behaviour")
    write_set(tmp_path, "Bili_Cartoon", world, "behaviour")
    behaviors = read(tmp_path)
    assert behaviors.about.order == "position"
    for domain in SETS:
        world.check(behaviors, domain, user=f"{domain}/")
    (tmp_path / "Bili_Food" / "Bili_Food_behaviour.tsv").unlink()
    with pytest.raises(InputError, match=r"Bili_Food has no layout .* \*_behaviour\.tsv \(users' histories\)"):
        read(tmp_path)


def test_milliseconds_and_folders_are_found_out(tmp_path, world):
    write_set(tmp_path, "Bili_Food", world, "pair")
    pairs = tmp_path / "Bili_Food" / "Bili_Food_pair.csv"
    pairs.write_text("".join(f"{i},{u},{t}123\n" for u, i, t, _ in world.events))
    with pytest.raises(InputError, match=r"Bili_Food_pair\.csv, row 1: timestamp is '1512.*timestamp_unit: ms"):
        read(tmp_path, {"Food": "Bili_Food"})
    world.check(read(tmp_path, {"Food": "Bili_Food"}, timestamp_unit="ms"), "Food", user="Food/")
    with pytest.raises(InputError, match="`sets` is empty"):
        read(tmp_path, {})
    (tmp_path / "Bili_Food" / "Other_item.csv").write_text("1,a,b\n")
    with pytest.raises(InputError, match=r"Bili_Food holds 2 files \*_item\.csv; leave one"):
        read(tmp_path, {"Food": "Bili_Food"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Bili_Food_item.csv", b"1,a,b\n2,a,b,c\n", "line 2: 4 fields under a header of 3"),
        ("Bili_Food_item.csv", b'1,a,b\n2,"a,b\n3,c,d\n', "line 2: a quote that is not closed"),
        ("Bili_Food_item.csv", b"", "line 1: the file is empty"),
        ("Bili_Food_behaviour.tsv", b"u1\t1 2\nu\xff\t1 2\n", "line 2: bytes that are not UTF-8 near b'u"),
        ("Bili_Food_behaviour.tsv", b"", "not one interaction can be used (the file has no rows)"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(name, content, message, tmp_path, world):
    write_set(tmp_path, "Bili_Food", world, "behaviour")
    (tmp_path / "Bili_Food" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(name)}(,|:) {re.escape(message)}"):
        read(tmp_path, {"Food": "Bili_Food"})


@pytest.mark.parametrize("language", ["zh", "en"])
def test_bilibili(language, real_data: Path):
    folder = real_data / "bilibili"
    if not folder.is_dir():
        pytest.skip(f"no Bilibili sets at {folder}")
    behaviors = read(folder, language=language).validate()
    sizes = {"Food": (6_549, 1_579), "Cartoon": (30_300, 4_721)}  # three cartoons have a blank for a title
    events, items = behaviors.interactions.collect(), behaviors.items.collect()
    for domain, name in SETS.items():
        lines = (folder / name / "sequential_data.txt").read_text().splitlines()
        of_domain = events.filter(domain=domain).sort("timestamp").group_by("user_id").agg("item_id")
        found = {user: list(sequence) for user, sequence in of_domain.rows()}
        titles = dict(items.filter(domain=domain).select("item_id", "title").rows())
        expected = {f"{domain}/{line.split()[0]}": [i for i in line.split()[1:] if i in titles] for line in lines}
        assert found == {user: sequence for user, sequence in expected.items() if sequence}
        assert (len(lines), events.filter(domain=domain)["user_id"].n_unique(), len(titles)) == (
            sizes[domain][0], len(found), sizes[domain][1]
        )  # fmt: skip
        chinese = pl.Series(list(titles.values())).str.contains(r"\p{Han}").mean()
        assert chinese > 0.9 if language == "zh" else chinese < 0.05
    read_items, read_events = behaviors.account.steps
    assert (read_items.rows_in, read_items.refused) == (6_303, {"no title": 3})
    assert read_events.refused == {"item without a usable title": 21} and read_events.rows_out == events.height
