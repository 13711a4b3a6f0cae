"""A corpus to the Hub and back, and what is not pushed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from huggingface_hub import HfApi

from cprec_hf.corpus import files
from cprec_hf.corpus.build import build_corpus
from cprec_hf.corpus.config import CorpusConfig
from cprec_hf.corpus.files import split_files
from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.push import plan_audited_corpus
from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub
from cprec_hf.hub.publish import publish

ROUND_TRIP = """
import json, sys
from huggingface_hub import HfApi
from datasets import load_dataset
from cprec_hf.corpus.load import load_corpus, load_facts
from cprec_hf.corpus.push import plan_audited_corpus
from cprec_hf.hub.publish import publish

url = publish(plan_audited_corpus(sys.argv[1], "ada/small")).url
again = publish(plan_audited_corpus(sys.argv[1], "ada/small")).url
info = HfApi().dataset_info("ada/small")
commits = HfApi().list_repo_commits("ada/small", repo_type="dataset")
streamed = load_dataset("ada/small", "cpt", streaming=True)
print(json.dumps({
    "streamed": {split: [row["text"] for row in rows] for split, rows in streamed.items()},
    "files": HfApi().list_repo_files("ada/small", repo_type="dataset"),
    "url": url, "again": again, "private": info.private, "commits": len(commits),
    "hash": load_facts("ada/small", info.sha)["content_sha256"],
    "test": load_corpus("ada/small", "sft-music")["test"].num_rows,
    "cpt": load_dataset("ada/small", "cpt", split="train").num_rows,
}))
"""


@pytest.fixture
def sharded(make_config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small corpus in shards of 40 rows and row groups of 10."""
    monkeypatch.setattr(files, "SHARD_ROWS", 40)
    monkeypatch.setattr(files, "ROW_GROUP", 10)
    return build_corpus(make_config(tmp_path / "sharded"))


def test_there_and_back_in_one_commit(sharded: Path, corpus: Path, tmp_path: Path) -> None:
    """A corpus in several shards, whole and streamed."""
    assert load_facts(sharded)["shards"]["cpt"]["train"] == len(split_files(sharded, "cpt")["train"]) > 3
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_ada_secret"}) as hub:
        root = Path(__file__).parents[2]
        env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", ROUND_TRIP, str(sharded)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, facts = json.loads(done.stdout.splitlines()[-1]), load_facts(corpus)
    for split in ("train", "validation"):
        assert found["streamed"][split] == pl.read_parquet(corpus / "cpt" / f"{split}.parquet")["text"].to_list()
    assert {"figures/overlap.png", "figures/lengths.png", "README.md"} <= set(found["files"])
    assert found["url"] == found["again"] and "/commit/" in found["url"]
    assert found["private"] and found["commits"] == 2  # the repo's first, and the corpus
    assert found["hash"] == facts["content_sha256"]
    assert found["test"] == facts["counts"]["sft-music"]["test"]
    assert found["cpt"] == facts["counts"]["cpt"]["train"]


def test_a_source_that_may_not_be_published_again_is_not_pushed_in_public(corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus, tmp_path / "copy")
    facts = (copy / "cprec-corpus.json").read_text(encoding="utf-8")
    (copy / "cprec-corpus.json").write_text(facts.replace('"redistributable": true', '"redistributable": false'))
    with pytest.raises(InputError, match="may not be published again"):
        plan_audited_corpus(copy, "someone/corpus", private=False)


def test_a_corpus_that_fails_its_audit_is_not_pushed(corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(corpus, tmp_path / "copy")
    rows = pl.read_parquet(copy / "cpt" / "train.parquet").with_columns(n_tokens=pl.lit(1, pl.Int32))
    rows.write_parquet(copy / "cpt" / "train.parquet")
    with pytest.raises(InputError, match=r"audit of .* failed: token counts"):
        plan_audited_corpus(copy, "someone/corpus")


def test_large_files_that_have_arrived_are_not_sent_again(corpus: Path, tmp_path: Path) -> None:
    """A push that fails at its last request; its repo stood before, so what was sent stays there."""
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_ada_secret"}) as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("ada/small", repo_type="dataset", private=True)
        plan = plan_audited_corpus(corpus, "ada/small")
        hub.inject("commit", 403)
        with pytest.raises(InputError, match="may not write there"):
            publish(dataclasses.replace(plan, folder=None), api)
        assert api.list_repo_files("ada/small", repo_type="dataset") == [".gitattributes"]
        sent = hub.seen["lfs_put"]
        assert sent >= len([name for name in plan.files if name.endswith(".parquet")])
        publish(dataclasses.replace(plan, folder=None), api)
        assert hub.seen["lfs_put"] == sent
        assert len(api.list_repo_files("ada/small", repo_type="dataset")) == len(plan.files) + 2
