"""A small corpus on disk in the contract's layout, written straight from a simulated marketplace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.behaviors.marketplace import Marketplace, MarketplaceConfig

WORLD = {"seed": 5, "domains": ["Books"], "unseen": ["Music"], "users": 2, "events_per_user": 2, "items_per_domain": 60,
         "unseen_users": 80, "unseen_events_per_user": 6}  # fmt: skip
CANDIDATES = 6


def example(user: str, history: list[str], target: str, candidates: list[str], timestamp: int) -> dict[str, Any]:
    return {"prompt": "", "completion": "", "user_id": user, "history": history, "target": target,
            "candidates": candidates, "timestamp": timestamp}  # fmt: skip


SCHEMA = pa.schema(
    [("prompt", pa.string()), ("completion", pa.string()), ("user_id", pa.string()), ("history", pa.list_(pa.string())),
     ("target", pa.string()), ("candidates", pa.list_(pa.string())), ("timestamp", pa.int64())]
)  # fmt: skip


def write_corpus(folder: Path, splits: dict[str, list[dict]], items: list[dict], source: dict, candidates: int) -> Path:
    """Parquet files and facts as `build_corpus` lays them out; domain Music, slug music."""
    items = [{**item, "full_title": item["title"]} for item in items]
    for split, rows in splits.items():
        (folder / "sft-music").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "sft-music" / f"{split}.parquet")
    (folder / "items").mkdir()
    pq.write_table(pa.Table.from_pylist(items), folder / "items" / "train.parquet")
    facts = {
        "format": 1, "name": "toy", "source": source, "content_sha256": "c0ffee", "seed": 0,
        "tokenizer": "tokenizer",
        "template": {"version": "1", "max_title_tokens": 24, "history_length": 20, "window_tokens": 256,
                     "candidate_list_in_prompt": False},
        "about": {"redistributable": True, "licence": "CC BY 4.0"},
        "domains": {"Music": {"slug": "music", "role": "downstream"}, "Books": {"slug": "books", "role": "cpt"}},
        "split": {"policy": "leave_one_out", "cuts": None}, "candidates": {"count": candidates, "sha256": "beef"},
        "counts": {"sft-music": {k: len(v) for k, v in splits.items()}, "items": {"train": len(items)}},
    }  # fmt: skip
    (folder / "cprec-corpus.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="session")
def world() -> dict[str, list[tuple[str, int]]]:
    """Each Music user's (item, timestamp) events in order."""
    market = Marketplace(MarketplaceConfig(**WORLD))
    events: dict[str, list[tuple[str, int]]] = {}
    for chunk in market.event_chunks():
        for row in chunk.sort("user_id", "timestamp").iter_rows(named=True):
            if row["domain"] == "Music":
                events.setdefault(row["user_id"], []).append((row["item_id"], row["timestamp"]))
    return events


@pytest.fixture(scope="session")
def make_corpus(world: dict[str, list[tuple[str, int]]]) -> Callable[..., Path]:
    """Leave-one-out corpus of the world; `rename` maps user ids, `seeded_by_target` makes candidates leak."""

    def make(folder: Path, rename: Callable[[str], str] = str, seeded_by_target: bool = False) -> Path:
        items = Marketplace(MarketplaceConfig(**WORLD)).items().to_dicts()
        music = [item["item_id"] for item in items if item["domain"] == "Music"]
        rng = np.random.default_rng(0)
        splits: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
        for user, events in world.items():
            ids = [item for item, _ in events]
            splits["train"].append(example(rename(user), ids[:-3], ids[-3], [], events[-3][1]))
            for split, at in (("validation", -2), ("test", -1)):
                if seeded_by_target:
                    rng = np.random.default_rng(music.index(ids[at]))
                    others = [i for i in music if i != ids[at]]
                else:
                    others = [i for i in music if i not in ids]
                offered = [*rng.choice(others, CANDIDATES - 1, replace=False).tolist(), ids[at]]
                offered = [offered[i] for i in rng.permutation(CANDIDATES)]
                splits[split].append(example(rename(user), ids[:at], ids[at], offered, events[at][1]))
        return write_corpus(folder, splits, items, {"kind": "marketplace", **WORLD}, CANDIDATES)

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpora") / "toy")
