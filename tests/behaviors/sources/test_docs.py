"""docs/sources.md is run: its reader on its sample of a log, its recipes, and the kinds it lists."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

from cprec_hf.behaviors import read_source
from cprec_hf.behaviors.sources import KINDS, source_config
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.recipes import read_recipe

TEXT = (Path(__file__).parents[3] / "docs" / "sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```\n", TEXT, re.DOTALL)


def block(kind: str, opening: str) -> str:
    (found,) = [text for language, text in BLOCKS if language == kind and text.startswith(opening)]
    return found


def test_the_new_source_reads_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lastfm.py").write_text(block("python", "# lastfm.py"), encoding="utf-8")
    (tmp_path / "lastfm.yaml").write_text(block("yaml", "# lastfm.yaml"), encoding="utf-8")
    log = tmp_path / "userid-timestamp-artid-artname-traid-traname.tsv"
    log.write_text(block("text", "user_000001"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LASTFM", str(tmp_path))
    importlib.invalidate_caches()
    config = read_recipe(tmp_path / "lastfm.yaml", CorpusConfig)
    behaviors = read_source(config.source, "lastfm.yaml").validate()
    events = behaviors.interactions.select("user_id", "item_id", "domain", "timestamp").collect().rows()
    assert sorted(events) == [
        ("user_000001", "d1", "Music", 1_241_478_537),
        ("user_000001", "d2", "Music", 1_241_445_250),
        ("user_000002", "d2", "Music", 1_241_444_572),
    ]
    titles = dict(behaviors.items.select("item_id", "title").collect().rows())
    assert titles["d2"] == "Composition 0919 (Live_2009_4_15) by 坂本龍一"
    told = [
        f"{s.name}: {s.rows_in} in, {s.rows_out} out, {', '.join(f'{why}: {n}' for why, n in s.refused.items())}"
        for s in behaviors.account.steps
    ]
    assert told == block("text", "items: read").splitlines()


def test_your_own_logs_are_read_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "corpus.yaml"
    recipe.write_text(block("yaml", "# corpus.yaml"), encoding="utf-8")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events-1.csv").write_text("customer,sku,bought_at\nu1,7,2024-01-02T03:04:05Z\nu1,8,soon\n")
    row = '{"sku": "7", "product_name": "Spade &amp; rake", "department": "Tools", "shop": "Garden"}\n'
    (tmp_path / "logs" / "products.jsonl").write_text(row)
    monkeypatch.chdir(tmp_path)
    behaviors = read_source(read_recipe(recipe, CorpusConfig).source, "corpus.yaml").validate()
    assert behaviors.interactions.select("user_id", "item_id", "domain", "timestamp").collect().rows() == [
        ("u1", "7", "Garden", 1_704_164_645)
    ]
    assert behaviors.items.collect().to_dicts() == [
        {"item_id": "7", "domain": "Garden", "title": "Spade & rake", "category": "Tools"}
    ]
    on_the_hub = yaml.safe_load(block("yaml", "# of the Hub"))
    assert source_config(read_recipe(recipe, CorpusConfig).source | on_the_hub, "corpus.yaml")


def test_every_kind_stands_in_the_table_and_no_other() -> None:
    table = TEXT[TEXT.index("| kind |") : TEXT.index("\n\n", TEXT.index("| kind |"))]
    named = {kind for line in table.splitlines()[2:] for kind in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == set(KINDS)
