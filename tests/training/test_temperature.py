"""`domain_temperature`: the shares against the formula, and runs that read their domains so."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt
from cprec_hf.training.mixture import Mixture
from cprec_hf.training.trainer import StageTrainer
from training.runs import BRANCH, interrupt_at, untimed, weights

TOKENS = st.dictionaries(st.sampled_from(["domain/a", "domain/b", "domain/c"]), st.integers(1, 10**12), min_size=1)


@given(TOKENS, st.floats(0.2, 50), st.floats(0.1, 9))
def test_a_domains_share_is_its_size_to_the_power_of_one_over_t(tokens, temperature, weight):
    mixture = Mixture({"stable": {"domain": weight, "items": 0.5}, "anneal": {"all_domain": 1.0}})
    spread = mixture.spread({"domain": tokens}, temperature)
    assert spread.weights["anneal"] == {"all_domain": 1.0} and spread.weights["stable"]["items"] == 0.5
    exact = {name: n ** (1 / temperature) for name, n in tokens.items()}
    for name in tokens:
        expected = weight * exact[name] / sum(exact.values())
        assert spread.weights["stable"][name] == pytest.approx(expected, rel=1e-9)
    assert spread.kinds == sorted([*tokens, "all_domain", "items"])


@given(TOKENS)
def test_at_one_it_is_the_corpus_and_at_infinity_uniform(tokens):
    one, infinite = (
        Mixture({"stable": {"domain": 1.0}}).spread({"domain": tokens}, t).weights["stable"] for t in (1, math.inf)
    )
    total = sum(tokens.values())
    assert one == pytest.approx({name: n / total for name, n in tokens.items()})
    assert infinite == pytest.approx(dict.fromkeys(tokens, 1 / len(tokens)))


@pytest.mark.parametrize("temperature", [1.0, 3.3])
def test_a_run_reads_its_domains_so(flags, corpus, monkeypatch, temperature):
    orders, run = [], StageTrainer.run

    def watch(self):
        orders.append((self.order, self.train_dataset))
        return run(self)

    monkeypatch.setattr(StageTrainer, "run", watch)
    mixture = {"domain": 3, "all_domain": 1}
    out = cpt.main(flags("run", mixture=mixture, domain_temperature=temperature, max_steps=10, save_strategy="no"))
    record = ModelRecord.load(out)
    table = pq.read_table(corpus / "cpt" / "train.parquet").to_pylist()
    encoder = Encoder(AutoTokenizer.from_pretrained(out))
    named = [f"domain/{row['domain'].lower()}" if row["domain"] else "all_domain" for row in table]
    ids_of = encoder.documents([row["text"] for row in table])
    names = {tuple(ids_of.row(i).tolist()): name for i, name in enumerate(named)}
    sizes = {name: sum(len(ids) for ids, n in names.items() if n == name) for name in {*names.values()}}
    share = {name: n ** (1 / temperature) for name, n in sizes.items() if name != "all_domain"}
    expected = {name: 0.75 * s / sum(share.values()) for name, s in share.items()} | {"all_domain": 0.25}

    order, rows = orders[0]
    tokens = dict.fromkeys(sizes, 0)
    for row in (rows[i] for i in order):
        pieces = np.split(row["input_ids"], np.cumsum(row["seq_lengths"])[:-1])
        (kind,) = {names[tuple(piece.tolist())] for piece in pieces}  # a packed row is of one domain
        tokens[kind] += len(row["input_ids"])
    for name, weight in expected.items():
        bound = 160 * (1 + weight) / 2  # of a row, for three kinds
        assert abs(tokens[name] - weight * sum(tokens.values())) <= bound
    weights_read = record.schedule["data"]["mixture"]["stable"]
    assert {name: w / 4 for name, w in weights_read.items()} == pytest.approx(expected)
    assert record.schedule["domain_temperature"] == temperature


def test_a_branch_reads_on_and_a_stopped_run_resumes(flags, monkeypatch):
    options = {"mixture": {"domain": 1}, "domain_temperature": 2, "save_steps": 3}
    phases = {"stable": {"domain": 1}, "anneal": {"domain": 1, "items": 1}}
    fall = {"mixture": phases, "lr_scheduler_kwargs": {"num_anneal_steps": 2}, "max_steps": 5}
    whole = cpt.main(flags("whole", **{**options, **fall}))
    trunk = cpt.main(flags("trunk", **{**options, "max_steps": 3}))
    branch = {**BRANCH, "init_from": trunk, "anneal_steps": 2, "mixture": phases["anneal"], "domain_temperature": 2}
    on = anneal.main(flags("on", **branch, continue_data="true"))
    assert weights(on) == weights(whole)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(4, patch)
        cpt.main(flags("stopped", **{**options, **fall}))
    resumed = cpt.main([*flags("stopped", **{**options, **fall}), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole) and untimed(resumed) == untimed(whole)
    with pytest.raises(InputError, match="`mixture` was"):
        hotter = {**options, **fall, "domain_temperature": 3, "max_steps": 6}
        cpt.main([*flags("stopped", **hotter), "--resume_from_checkpoint", "true"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"domain_temperature": 2}, "`domain_temperature` has no place without `mixture`"),
        ({"domain_temperature": 0, "mixture": {"domain": 1}}, "`domain_temperature` is 0.0; give a number above 0"),
        ({"domain_temperature": -1, "mixture": {"domain": 1}}, "`domain_temperature` is -1.0"),
        ({"domain_temperature": "nan", "mixture": {"domain": 1}}, "`domain_temperature` is nan"),
        (
            {"domain_temperature": 2, "mixture": {"all_domain": 1, "items": 1}},
            "`domain_temperature` has no place here: no documents of all_domain, items are of one domain",
        ),
    ],
)
def test_what_is_refused_before_any_work(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        cpt.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()
