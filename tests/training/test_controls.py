"""Controls in training: read only by name, and measured on what people did."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.training import cpt
from cprec_hf.training.data import cpt_rows, document_domains
from training.runs import weights

CONTROL = {"domain": "domain_shuffled_time", "all_domain": "all_domain_shuffled_users"}


@pytest.fixture
def controlled(corpus, tmp_path):
    """The corpus with a control beside each training document, its lines turned round."""
    folder = shutil.copytree(corpus, tmp_path / "controlled")
    rows = pq.read_table(folder / "cpt" / "train.parquet").to_pylist()
    for row in list(rows):
        header, *lines = row["text"].splitlines(keepends=True)
        rows.append({**row, "text": "".join([header, *lines[::-1]]), "kind": CONTROL[row["kind"]]})
    pq.write_table(pa.Table.from_pylist(rows), folder / "cpt" / "train.parquet")
    return folder


def test_a_run_that_does_not_name_them_does_not_read_them(corpus, controlled, flags, byte_level_tokenizer):
    encoder = Encoder(byte_level_tokenizer)
    rows = [cpt_rows(str(folder), None, encoder)["input_ids"][:] for folder in (corpus, controlled)]
    assert rows[0] == rows[1]
    assert document_domains(str(controlled), None, CONTROL["domain"]) == ["Books", "Toys"]
    assert document_domains(str(controlled), None, CONTROL["all_domain"]) == []
    plain, beside = (cpt.main(flags(f"run-{f.name}", corpus=f, item_share=0.1)) for f in (corpus, controlled))
    assert weights(plain) == weights(beside)


@pytest.mark.parametrize(("kind", "key"), [("domain", "kinds"), ("all_domain", "mixture")])
def test_a_control_takes_the_place_of_its_kind_and_is_measured_on_it(controlled, flags, kind, key):
    """Another order of the same lines: as many tokens in as many rows, another model, the same validation documents."""
    evaluated = {"corpus": controlled, "eval_strategy": "steps", "eval_steps": 4}
    runs = [
        cpt.main(flags(name, **evaluated, **{key: name if key == "kinds" else {name: 1}}))
        for name in (kind, CONTROL[kind])
    ]
    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in runs]
    measured = [next(line for line in lines if "eval_loss" in line).keys() for lines in logs]
    assert measured[0] == measured[1]
    all_domain, by_domain = {"eval_loss_all_domain"}, {"eval_loss_books", "eval_loss_toys"}
    assert measured[1] >= by_domain and (measured[1] >= all_domain) == (key == "mixture")
    assert weights(runs[0]) != weights(runs[1])
    rows = [ModelRecord.load(out).schedule["data"]["rows"] for out in runs]
    assert [*rows[0].values()] == [*rows[1].values()] if key == "mixture" else rows[0] == rows[1]
