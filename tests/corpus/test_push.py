"""A corpus to the Hub and back, and what is not pushed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from cprec_hf.corpus.load import load_facts
from cprec_hf.corpus.push import plan_audited_corpus
from cprec_hf.errors import InputError
from cprec_hf.hub.loopback import LoopbackHub

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
print(json.dumps({
    "url": url, "again": again, "private": info.private, "commits": len(commits),
    "hash": load_facts("ada/small", info.sha)["content_sha256"],
    "test": load_corpus("ada/small", "sft-music")["test"].num_rows,
    "cpt": load_dataset("ada/small", "cpt", split="train").num_rows,
}))
"""


def test_there_and_back_in_one_commit(corpus: Path, tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub", {"ada": "hf_ada_secret"}) as hub:
        root = Path(__file__).parents[2]
        env = {**os.environ, **hub.env, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", ROUND_TRIP, str(corpus)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, facts = json.loads(done.stdout.splitlines()[-1]), load_facts(corpus)
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
