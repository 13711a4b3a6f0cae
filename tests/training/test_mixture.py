"""The recipe key `mixture`: what is refused, and runs whose kinds are mixed by weight, phase by phase."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from cprec_hf.corpus.encoder import Encoder
from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt
from cprec_hf.training.mixture import Mixture, before_anneal, read_mixture
from cprec_hf.training.trainer import StageTrainer
from cprec_hf.training.wsa import Phases
from training.runs import BRANCH, half_written, interrupt_at, log_lines, untimed, weights

KINDS = ["all_domain", "domain", "items"]
BY_PHASE = {"warmup": {"items": 1}, "stable": {"domain": 2, "all_domain": 1}, "anneal": {"all_domain": 3, "items": 1}}
THREE = {
    "max_steps": 8, "warmup_steps": 2, "gradient_accumulation_steps": 2, "save_steps": 3,
    "lr_scheduler_kwargs": {"num_anneal_steps": 3},
}  # fmt: skip


@pytest.fixture
def orders(monkeypatch):
    """The orders of the runs that follow, by the name of their output folder."""
    seen, run = {}, StageTrainer.run

    def watch(self):
        folder = run(self)
        seen[folder.name] = (self.order, self.train_dataset)
        return folder

    monkeypatch.setattr(StageTrainer, "run", watch)
    return seen


def test_weights_for_all_phases_are_the_stable_phases():
    assert read_mixture({"domain": 1, "items": 0.5}, KINDS) == Mixture({"stable": {"domain": 1.0, "items": 0.5}})
    assert read_mixture({"domain": 1}, KINDS, stage="anneal") == Mixture({"anneal": {"domain": 1.0}})
    mixture = read_mixture(BY_PHASE, KINDS)
    assert mixture.kinds == KINDS
    assert mixture.by_phase(Phases(2, 3, 4)) == BY_PHASE
    plain = read_mixture({"domain": 1, "items": 0}, KINDS)
    assert plain.kinds == ["domain"]
    assert plain.by_phase(Phases(0, 3, 4)) == {phase: {"domain": 1.0, "items": 0.0} for phase in ("stable", "anneal")}
    assert plain.by_phase(None) == {"stable": {"domain": 1.0, "items": 0.0}}


@pytest.mark.parametrize(
    ("given", "stage", "said"),
    [
        ([1, 2], "cpt", "`mixture` is [1, 2]; give weights by kind"),
        ({}, "cpt", "`mixture` is {}; give weights by kind"),
        ({"domain": 1, "anneal": {"items": 1}}, "cpt", "weights and phases side by side"),
        ({"steady": {"items": 1}}, "cpt", "names a phase 'steady'; cpt has warmup and stable and anneal"),
        ({"stable": {"items": 1}}, "anneal", "names a phase 'stable'; anneal has anneal"),
        ({"anneal": {"items": 1}}, "cpt", "no weights for the stable phase"),
        ({"domains": 1}, "cpt", "`mixture` names a kind 'domains'; this corpus has all_domain, domain, items"),
        ({"stable": {"domains": 1}}, "cpt", "`mixture`, stable names a kind 'domains'"),
        ({"domain": -1, "items": 2}, "cpt", "the weight of domain is -1; give a number, 0 or more"),
        ({"domain": float("inf")}, "cpt", "the weight of domain is inf"),
        ({"domain": "much"}, "cpt", "the weight of domain is 'much'"),
        ({"domain": True}, "cpt", "the weight of domain is True"),
        ({"domain": 0, "items": 0.0}, "cpt", "no kind has a weight above 0: {'domain': 0, 'items': 0.0}"),
    ],
)
def test_a_mixture_that_says_nothing_clear(given, stage, said):
    with pytest.raises(InputError) as error:
        read_mixture(given, KINDS, stage=stage)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mixture": {"mixed": 1}}, "names a kind 'mixed'; this corpus has all_domain, domain, items"),
        ({"mixture": {"domain": 1}, "kinds": "domain"}, "`kinds` and `mixture` say the same thing twice"),
        ({"mixture": {"domain": 1}, "item_share": 0.1}, "`item_share` and `mixture` say the same thing twice"),
        ({"mixture": "{domain"}, "`mixture` is '{domain', not valid JSON"),
        ({"mixture": BY_PHASE}, "names weights for the warmup phase, and this run has 4 steps of stable"),
        (
            {"mixture": {"stable": {"domain": 1}, "anneal": {"items": 1}}, "lr_scheduler_type": "cosine"},
            "names weights for the anneal phase, and this run has no phases: they are WSA's",
        ),
    ],
)
def test_it_is_refused_before_any_work(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        cpt.main(flags("out", **change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_reads_what_its_phases_say(flags, orders, corpus):
    out = cpt.main(flags("run", **THREE, mixture=BY_PHASE))
    order, rows = orders["run"]
    table = pq.read_table(corpus / "cpt" / "train.parquet")
    tokenizer = AutoTokenizer.from_pretrained(out)
    texts = {kind: table.filter(np.array(table["kind"]) == kind)["text"] for kind in KINDS[:2]}
    texts["items"] = pq.read_table(corpus / "items" / "train.parquet")["text"]
    documents = {
        tuple(ids): kind
        for kind, column in texts.items()
        for ids in [Encoder(tokenizer).documents(column).row(i).tolist() for i in range(len(column))]
    }

    def kind_of(row):
        pieces = np.split(row["input_ids"], np.cumsum(row["seq_lengths"])[:-1])
        (kind,) = {documents[tuple(piece.tolist())] for piece in pieces}  # a packed row is of one kind
        return kind

    read = [rows[i] for i in order]
    phases = {"warmup": read[:8], "stable": read[8:20], "anneal": read[20:]}
    for phase, part in phases.items():
        tokens = dict.fromkeys(KINDS, 0)
        for row in part:
            tokens[kind_of(row)] += len(row["input_ids"])
        total = sum(tokens.values())
        for kind in KINDS:
            share = BY_PHASE[phase].get(kind, 0) / sum(BY_PHASE[phase].values())
            assert abs(tokens[kind] - share * total) <= (80 if share else 0), (phase, kind)  # half a row of 160 tokens
    data = ModelRecord.load(out).schedule["data"]
    assert data["mixture"] == BY_PHASE
    assert sum(data["rows"].values()) == len(rows) and list(data["rows"]) == KINDS
    assert not {"kinds", "item_share"} & data.keys()
    assert log_lines(out)[-1]["tokens"] == sum(len(row["input_ids"]) for row in read) == ModelRecord.load(out).tokens
    assert "| data: mixture: anneal: all domain | 3" in (out / "README.md").read_text()


@pytest.mark.parametrize(("stop", "warmup", "fall"), [(4, 4, 3), (7, 2, 1)])
def test_interrupted_and_resumed_across_a_change_of_phase_is_uninterrupted(flags, stop, warmup, fall, monkeypatch):
    """Resumed from 3, a run enters its stable phase at 4 and its anneal at 5; from 6, its anneal at 7."""
    options = {**THREE, "mixture": BY_PHASE, "warmup_steps": warmup}
    options["lr_scheduler_kwargs"] = {"num_anneal_steps": fall}
    whole = cpt.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(stop, patch)
        cpt.main(flags("stopped", **options))
    resumed = cpt.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(resumed) == untimed(whole)
    assert half_written(resumed) == []


def test_an_anneal_on_its_own_mixture_is_the_run_through_all_phases(flags, orders):
    """The trunk knows nothing of the anneal, whose kinds it may not even have: read on, it is one run."""
    run = {"gradient_accumulation_steps": 2, "warmup_steps": 2}
    stable, other = {"domain": 2, "all_domain": 1}, {"all_domain": 3, "items": 1}
    shape = {"lr_scheduler_kwargs": {"num_anneal_steps": 4}}
    by_phase = {"stable": stable, "anneal": other}
    whole = cpt.main(flags("whole", **run, max_steps=9, mixture=by_phase, **shape))
    trunk = cpt.main(flags("trunk", **run, max_steps=7, save_steps=5, mixture=stable))
    options = {**BRANCH, "gradient_accumulation_steps": 2, "anneal_steps": 4, "init_from": trunk / "checkpoint-5"}
    branch = anneal.main(flags("branch", **options, mixture=other, continue_data="true"))
    assert weights(branch) == weights(whole)
    assert list(orders["branch"][0]) == list(orders["whole"][0])
    begins = untimed(whole)[4]["tokens"]
    assert untimed(branch) == [{**line, "tokens": line["tokens"] - begins} for line in untimed(whole)[5:]]
    data = ModelRecord.load(branch).schedule["data"]
    assert data["mixture"] == by_phase

    fresh = anneal.main(flags("fresh", **options, mixture=other))  # from the beginning of its own data
    own = list(orders["fresh"][0])[5 * 4 :]
    alone = cpt.main(flags("alone", gradient_accumulation_steps=2, max_steps=4, mixture=other))
    assert own == list(orders["alone"][0])
    assert [line["tokens"] for line in log_lines(fresh)] == [line["tokens"] for line in log_lines(alone)]
    assert ModelRecord.load(fresh).schedule["data"]["mixture"] == {"anneal": other}

    def refused(match, **change):
        with pytest.raises(InputError, match=match):
            anneal.main(flags("out", **{**options, "continue_data": "true", "mixture": other} | change))

    refused("the trunk has a `mixture` and this anneal none", mixture=None)
    refused("batch was 4 and is 2; make them equal", gradient_accumulation_steps=1)
    refused("max_length was 160 and is 150", max_length=150)
    plain = cpt.main(flags("plain", max_steps=2))
    refused("the trunk had no `mixture`", init_from=plain)
    assert not (trunk.parent / "out").exists()


def test_an_interrupted_anneal_resumes_in_its_own_mixture(flags, monkeypatch):
    trunk = cpt.main(flags("trunk", max_steps=3, mixture={"domain": 1}))
    options = {**BRANCH, "init_from": trunk, "anneal_steps": 4, "save_steps": 5, "mixture": {"domain": 1, "items": 2}}
    whole = anneal.main(flags("whole", **options))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(6, patch)
        anneal.main(flags("stopped", **options))
    resumed = anneal.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(resumed) == untimed(whole)


def test_what_only_the_anneal_reads_is_no_part_of_the_order_before_it():
    order = {
        "rows": {"domain": 3, "items": 9},
        "mixture": {"stable": {"domain": 1}, "anneal": {"items": 1}},
        "batch": 4,
    }
    assert before_anneal(order) == {"rows": {"domain": 3}, "mixture": {"stable": {"domain": 1}}, "batch": 4}
    plain = {"rows": 3, "kinds": None}
    assert before_anneal(json.loads(json.dumps(plain))) == plain
