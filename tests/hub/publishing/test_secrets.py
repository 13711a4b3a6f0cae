"""Tokens and keys are found wherever they stand, and the message does not repeat them."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.errors import InputError
from cprec_hf.hub import secrets
from cprec_hf.hub.kinds import plan_model

from .folders import model

SECRETS = {
    "a Hugging Face token": "hf_" + "aB3" * 12,
    "a GitHub token": "ghp_" + "a1" * 18,
    "an AWS access key": "AKIA" + "A1" * 8,
    "a Google API key": "AIza" + "b" * 35,
    "an API key": "sk-" + "proj-" + "x9" * 16,
    "a Slack token": "xoxb-" + "1" * 24,
    "a Weights & Biases key": "WANDB_API_KEY=" + "0f" * 20,
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("what", SECRETS)
def test_each_kind_is_found_in_text_and_in_parquet(what: str, tmp_path: Path) -> None:
    text = f"first\nsecond {SECRETS[what]} end"
    with pytest.raises(InputError, match=f"notes.txt: {what} in line 2") as raised:
        secrets.refuse_secrets({"notes.txt": text.encode()})
    assert SECRETS[what] not in str(raised.value)
    pq.write_table(pa.table({"n": [1], "tags": [[["ok"], [text]]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=f"t.parquet: {what} in column tags"):
        secrets.refuse_secrets({"t.parquet": tmp_path / "t.parquet"})


TEXT = f"a {SECRETS['a Hugging Face token']} b"
NESTED = {
    "dictionary": pa.array(["x", TEXT, "x"]).dictionary_encode(),
    "struct": pa.array([None, {"n": 1, "s": TEXT}]),
    "list of structs of lists": pa.array([[], [{"s": ["x", TEXT]}], None]),
    "struct of dictionary": pa.StructArray.from_arrays([pa.array(["x", TEXT]).dictionary_encode()], names=["d"]),
    "map key": pa.array([[(TEXT, 1)]], pa.map_(pa.string(), pa.int64())),
    "map value": pa.array([[(1, TEXT)]], pa.map_(pa.int64(), pa.string())),
    "fixed-size list": pa.array([["x", TEXT]], pa.list_(pa.string(), 2)),
    "large list of large strings": pa.array([["x", TEXT]], pa.large_list(pa.large_string())),
    "bytes": pa.array([b"\xff\x00" + TEXT.encode()]),
    "fixed-size bytes": pa.array([TEXT.encode()], pa.binary(len(TEXT))),
}


@pytest.mark.parametrize("kind", NESTED)
def test_columns_of_every_type_are_searched(kind: str, tmp_path: Path) -> None:
    column = NESTED[kind]
    pq.write_table(pa.table({"n": range(len(column)), "it": column}), tmp_path / "t.PARQUET")
    with pytest.raises(InputError, match=r"t\.PARQUET: a Hugging Face token in column it"):
        secrets.refuse_secrets({"t.PARQUET": tmp_path / "t.PARQUET"})
    hidden = column.slice(0, 0)  # no row of it is left, whatever its buffers hold
    empty = pa.table({"it": pa.array([], column.type) if kind.count("dictionary") else hidden})
    pq.write_table(empty, tmp_path / "e.parquet")
    secrets.refuse_secrets({"e.parquet": tmp_path / "e.parquet"})


def test_names_and_metadata_of_a_table_are_searched(tmp_path: Path) -> None:
    tables = [pa.table({TEXT: [1]}), pa.table({"n": [1]}).replace_schema_metadata({"made by": "x" * 999 + TEXT})]
    for table in tables:
        pq.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(InputError, match=r"t\.parquet: a Hugging Face token in its schema or metadata;"):
            secrets.refuse_secrets({"t.parquet": tmp_path / "t.parquet"})


def test_a_dry_run_finds_them_too(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    plan_model(folder, "a/b").listing()
    (folder / "notes.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(InputError, match=r"notes\.txt: a Hugging Face token in line 1"):
        plan_model(folder, "a/b").listing()


def test_the_secrets_of_this_process_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPREC_USER_KEY", "a key of no known shape")
    with pytest.raises(InputError, match=r"log\.jsonl: a token or key of this process in line 1"):
        secrets.refuse_secrets({"log.jsonl": b"{'k': 'a key of no known shape'}"})


@given(before=st.integers(0, 300), chunk=st.integers(64, 128))
def test_nothing_is_missed_between_two_chunks(before: int, chunk: int) -> None:
    token = SECRETS["a Hugging Face token"].encode()
    text = b"\n" * before + b" " + token
    chunks = (text[i : i + chunk] for i in range(0, len(text), chunk))
    found = secrets._in_bytes(chunks, {"it": re.compile(rb"\bhf_[A-Za-z0-9]{30,}")})
    assert found == f"it in line {before + 1}"


def test_weights_are_read_by_their_header_only(tmp_path: Path) -> None:
    token, path = SECRETS["a Hugging Face token"].encode(), tmp_path / "m.safetensors"
    path.write_bytes(len(token).to_bytes(8, "little") + token)
    with pytest.raises(InputError, match=r"m\.safetensors: a Hugging Face token"):
        secrets.refuse_secrets({"m.safetensors": path})
    path.write_bytes((2).to_bytes(8, "little") + b"{}" + token)
    secrets.refuse_secrets({"m.safetensors": path})
