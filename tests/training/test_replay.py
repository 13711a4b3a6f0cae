"""Replay of general text: the same rows from every format and from the Hub, bounded and recorded; and its runs."""

import gzip
import hashlib
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt
from cprec_hf.training.replay import Replay, read_replay, replay_rows
from training.runs import BRANCH, untimed, weights

TEXTS = [
    f"The sea was calm on day {i}.\nNobody was seen at the harbour, and it was {i % 7} o'clock." for i in range(300)
]


@pytest.fixture(scope="module")
def encoder(byte_level_tokenizer):
    return Encoder(byte_level_tokenizer)


@pytest.fixture
def files(tmp_path):
    """The texts in each format, those of the JSON lines in two files."""
    pq.write_table(pa.table({"n": range(len(TEXTS)), "text": TEXTS}), tmp_path / "texts.parquet", row_group_size=70)
    lines = [json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_text("".join(lines[:100]))
    (tmp_path / "b.jsonl").write_text("".join(lines[100:]))
    with gzip.open(tmp_path / "all.jsonl.gz", "wt") as file:
        file.write("".join(lines))
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    return tmp_path


@pytest.mark.parametrize("name", ["texts.parquet", "?.jsonl", "all.jsonl.gz", "texts.txt"])
@pytest.mark.parametrize("tokens", [500, 10**6])
def test_every_format_gives_the_first_texts_that_fit(files, encoder, name, tokens):
    rows, said = replay_rows(Replay(str(files / name), tokens), encoder)
    lengths = encoder.documents(TEXTS).lengths
    n = int((np.cumsum(lengths) <= tokens).sum())
    assert [encoder.decode(ids) for ids in rows["input_ids"]] == TEXTS[:n] and rows["labels"][:] == rows["input_ids"][:]
    assert 5 < n < 300 if tokens == 500 else n == 300
    flat = np.concatenate([np.asarray(ids) for ids in rows["input_ids"]])
    digest = hashlib.sha256(lengths[:n].astype("<i8").tobytes() + flat.astype("<i4").tobytes()).hexdigest()
    assert said == {
        "dataset": str(files / name), "tokens": tokens, "column": "text", "split": "train", "texts": n,
        "tokens_taken": lengths[:n].sum(), "empty": 0, "sha256": digest,
    }  # fmt: skip


def test_texts_with_nothing_in_them_are_counted(tmp_path, encoder):
    pq.write_table(pa.table({"body": ["one", None, "", " \n\t", "two"]}), tmp_path / "x.parquet")
    rows, said = replay_rows(Replay(str(tmp_path / "x.parquet"), 100, column="body"), encoder)
    assert [encoder.decode(ids) for ids in rows["input_ids"]] == ["one", "two"]
    assert (said["texts"], said["empty"]) == (2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"column": "body"}, "no column `body`; it has n, text"),
        ({"column": "n"}, "column `n` is int64, not text"),
        ({"tokens": 3}, "not one text of its column `text` is within 3 tokens; raise `tokens`"),
        ({"dataset": "empty.parquet"}, "not one text of its column `text` has anything in it"),
        ({"dataset": "blank.parquet"}, "not one text of its column `text` has anything in it"),
        ({"dataset": "broken.parquet"}, "cannot be read: "),
        ({"dataset": "none.jsonl"}, "no such file: "),
        ({"dataset": "*.*"}, "give files of one format, .parquet, .jsonl, .json, .txt"),
        ({"dataset": "folder"}, "is a folder; give files of one format"),
        ({"split": "test"}, "`split` has no place beside local files"),
        ({"revision": "v1"}, "`revision` has no place beside local files"),
    ],
)
def test_what_cannot_be_read(files, encoder, change, said):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), files / "empty.parquet")
    pq.write_table(pa.table({"text": pa.array(["", None], pa.string())}), files / "blank.parquet")
    (files / "broken.parquet").write_text("PAR1")
    (files / "folder").mkdir()
    given = {"dataset": "texts.parquet", "tokens": 100} | change
    with pytest.raises(InputError) as error:
        replay_rows(Replay(**given | {"dataset": str(files / given["dataset"])}), encoder)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1], "`replay` is [1]; give {dataset: a repo or files, tokens: most to take}"),
        ("{dataset", "`replay` is '{dataset', not valid JSON"),
        ({"dataset": "x"}, "`replay`: missing key `tokens`"),
        ({"dataset": "x", "tokens": 0}, "`replay`: `tokens` is 0; give at least 1"),
        ({"dataset": "x", "tokens": 9, "colum": "y"}, "unknown key `colum`; did you mean `column`?"),
    ],
)
def test_a_key_that_says_nothing_clear(given, said):
    with pytest.raises(InputError) as error:
        read_replay(given)
    assert said in str(error.value)


def test_a_repo_is_read_at_one_commit(hub, api, encoder, files, flags, monkeypatch):
    """Streamed from the Hub, of the config, split and commit that are asked for; the record says which."""
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    repo = f"{hub.user}/texts"
    api.create_repo(repo, repo_type="dataset")
    config = {"config_name": "sea", "data_files": [{"split": "train", "path": "sea/*.parquet"}]}
    card = f"---\n{json.dumps({'license': 'odc-by', 'configs': [config]})}\n---\n"
    api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo, repo_type="dataset")
    upload = {"path_in_repo": "sea/0.parquet", "repo_id": repo, "repo_type": "dataset"}
    first = api.upload_file(path_or_fileobj=files / "texts.parquet", **upload).oid
    pq.write_table(pa.table({"text": ["later"]}), files / "later.parquet")
    later = api.upload_file(path_or_fileobj=files / "later.parquet", **upload).oid
    replay = {"dataset": repo, "config": "sea", "tokens": 400, "revision": first}
    rows, said = replay_rows(Replay(**replay), encoder)
    own, _ = replay_rows(Replay(str(files / "texts.parquet"), 400), encoder)
    assert rows["input_ids"][:] == own["input_ids"][:]
    assert (said["dataset"], said["revision"], said["licence"]) == (repo, first, "odc-by")
    newest, said = replay_rows(Replay(**{**replay, "revision": None}), encoder)
    assert (len(newest), said["revision"]) == (1, later)

    trunk = cpt.main(flags("trunk", mixture={"domain": 1, "replay": 1}, replay=replay, max_steps=2))
    record = ModelRecord.load(trunk)
    assert record.schedule["data"]["replay"]["revision"] == first
    assert "odc-by" in record.licences
    assert f"datasets:\n- {repo}\n" in (trunk / "README.md").read_text()

    def refused(match, **change):
        with pytest.raises(InputError, match=match):
            replay_rows(Replay(**{**replay, **change}), encoder)

    refused("neither a folder here nor a dataset repo", dataset=f"{hub.user}/nothing")
    refused("has no revision 'v9'", revision="v9")
    refused("cannot be read: .*land", config="land")
    refused("cannot be read: .*test", split="test")
    refused("cannot be a repo id", dataset="a b//c")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused("the Hub at http://127.0.0.1:9 cannot be reached")


def test_a_run_that_reads_it(flags, files, tmp_path):
    """Its share of the tokens is the mixture's; another text is other data, on resume and on reading on."""
    replay = {"dataset": str(files / "texts.parquet"), "tokens": 2000}
    options = {"mixture": {"domain": 2, "replay": 1}, "replay": replay, "save_steps": 2}
    out = cpt.main(flags("trunk", **options))
    data = ModelRecord.load(out).schedule["data"]
    assert data["replay"]["dataset"] == replay["dataset"] and data["replay"]["tokens_taken"] <= 2000
    assert data["rows"].keys() == {"domain", "replay"}

    def refused(stage, match, **change):
        with pytest.raises(InputError, match=match):
            stage.main(flags("out", **change))

    less = {**options, "replay": {**replay, "tokens": 1500}}
    with pytest.raises(InputError, match="`replay` was"):
        cpt.main([*flags("trunk", **less, max_steps=6), "--resume_from_checkpoint", "true"])
    branch = {**BRANCH, "init_from": out, "anneal_steps": 2, "mixture": {"domain": 1}, "continue_data": "true"}
    refused(anneal, "`continue_data`: the trunk read a `replay`; give the same key", **branch)
    both = {**branch, "mixture": {"domain": 1, "replay": 3}}
    refused(anneal, "`continue_data`: this is not the trunk's data: rows was", **both, replay=less["replay"])
    on = anneal.main(flags("on", **both, replay=replay))
    shape = {"lr_scheduler_kwargs": {"num_anneal_steps": 2}, "max_steps": 6}
    phases = {"stable": options["mixture"], "anneal": both["mixture"]}
    whole = cpt.main(flags("whole", **{**options, **shape, "mixture": phases}))
    assert weights(on) == weights(whole) and len(untimed(on)) == 2

    said = "`replay` has no weight in `mixture`; give both, or none"
    refused(cpt, said, mixture={"domain": 1}, replay=replay)
    refused(cpt, "a weight in `mixture` and no key that says what to read", mixture={"domain": 1, "replay": 1})
    refused(cpt, "`replay` has no place without `mixture`", replay=replay)
    assert not (tmp_path / "out").exists()
