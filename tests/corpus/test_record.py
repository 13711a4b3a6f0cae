"""`cprec.json` comes back as it was written, and what is no record is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError

RECORD = ModelRecord(
    stage="sft", base="some/base", template_version="1", max_title_tokens=16, history_length=20, domain="Lamps",
    corpus="some/corpus", corpus_revision=None, corpus_hash="ab" * 32, schedule={"type": "wsa", "phases": [10, 80, 10]},
    tokens=12345, seed=3, parents=["some/base", "runs/cpt"],
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    assert RECORD.save(tmp_path) == tmp_path / "cprec.json"
    assert ModelRecord.load(tmp_path) == RECORD
    written = json.loads((tmp_path / "cprec.json").read_text())
    assert written == {**dataclasses.asdict(RECORD)} and written["format"] == 1 and written["parents"][0] == "some/base"
    of_all = dataclasses.replace(RECORD, domain=None, corpus_revision="main")
    of_all.save(tmp_path)
    assert ModelRecord.load(tmp_path) == of_all
    assert [path.name for path in tmp_path.iterdir()] == ["cprec.json"]


def test_a_record_of_an_older_release_loads(tmp_path: Path) -> None:
    shown = dataclasses.replace(RECORD, candidate_list_in_prompt=True, window_tokens=256)
    path = shown.save(tmp_path)
    assert ModelRecord.load(tmp_path) == shown
    values = json.loads(path.read_text())
    assert (values.pop("candidate_list_in_prompt"), values.pop("window_tokens")) == (True, 256)
    path.write_text(json.dumps(values))
    assert ModelRecord.load(tmp_path) == RECORD
    assert (RECORD.candidate_list_in_prompt, RECORD.window_tokens) == (False, None)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cprec\.json"):
        ModelRecord.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "format None"),
        ('{"format": 2}', "format 2, but this release of cprec_hf reads format 1"),
        ('{"format": 1}', "missing key `stage`"),
        ('{"format": 1, "stagee": "sft"}', "unknown key `stagee`; did you mean `stage`"),
    ],
)
def test_broken_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cprec.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        ModelRecord.load(tmp_path)
    assert str(tmp_path / "cprec.json") in str(error.value)
