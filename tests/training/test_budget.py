"""A budget of tokens, against a run cut token by token; and real runs of other kinds that read equally many."""

import datasets
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cprec_hf.corpus.record import ModelRecord
from cprec_hf.errors import InputError
from cprec_hf.training import anneal, cpt
from cprec_hf.training.budget import BudgetedOrder, steps_for
from cprec_hf.training.mixed_order import Draws, MixedOrder
from cprec_hf.training.packing import Order
from cprec_hf.training.trainer import StageTrainer
from training.runs import BRANCH, interrupt_at, log_lines, untimed, weights


@st.composite
def runs(draw):
    """Rows of documents, a batch, a seed, maybe two kinds, and a budget that some run of them has."""
    documents = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=2, max_size=9))
    lengths = np.array([sum(row) for row in documents])
    batch, seed, kinds = draw(st.integers(1, 4)), draw(st.integers(0, 3)), draw(st.booleans())

    def order_of(steps):
        if not kinds:
            return Order(lengths, batch, steps, seed)
        sizes = {"a": 1, "b": len(lengths) - 1}
        return MixedOrder(lengths, batch, steps, seed, draws=Draws(sizes, [(steps, {"a": 1.0, "b": 2.0})]))

    return documents, lengths, batch, order_of, draw(st.integers(1, 400))


def cut_one_by_one(order, documents, budget):
    """The tokens of the run's rows, taken from the last ones until the budget is left, but never a row's first."""
    rows = [list(documents[row]) for row in order]
    left = sum(map(sum, rows)) - budget
    for row in reversed(rows):
        while left and sum(row) > 1:
            row[-1] -= 1
            row[:] = [n for n in row if n]
            left -= 1
    return rows


@given(runs())
@settings(max_examples=50)
def test_the_last_rows_are_cut_to_exactly_the_budget(run):
    documents, lengths, batch, order_of, budget = run
    steps = steps_for(budget, batch * int(lengths.max()), order_of)
    whole = order_of(steps)
    assert whole.tokens(steps) >= budget
    assert steps == 1 or order_of(steps - 1).tokens(steps - 1) < budget  # the fewest that have it
    assume(budget >= len(whole))
    order = BudgetedOrder(order_of(steps), budget)
    expected = cut_one_by_one(whole, documents, budget)
    ids = [list(range(n)) for n in lengths]
    rows = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids, "seq_lengths": documents})
    rows = order.with_ending(rows)
    read = [rows[i] for i in order]
    assert len(read) == len(order) == len(expected)
    assert [row["seq_lengths"] for row in read] == expected
    assert [row["input_ids"] for row in read] == [list(range(sum(row))) for row in expected]
    assert all(row["labels"] == row["input_ids"] for row in read)
    read_by = np.cumsum([0, *(sum(sum(row) for row in expected[at : at + batch]) for at in range(0, len(read), batch))])
    assert [order.tokens(step) for step in range(steps + 1)] == read_by.tolist()
    assert order.tokens(steps) == budget


def test_a_budget_too_small_for_its_rows():
    with pytest.raises(InputError, match="`token_budget` is 3 tokens for 4 rows; give at least one for each"):
        BudgetedOrder(Order(np.array([5, 5]), 4, 1, 0), 3)


@pytest.fixture
def read(monkeypatch):
    """What the runs that follow read: run's name -> its rows."""
    seen, run = {}, StageTrainer.run

    def watch(self):
        folder = run(self)
        seen[folder.name] = [self.train_dataset[i] for i in self.order]
        return folder

    monkeypatch.setattr(StageTrainer, "run", watch)
    return seen


BUDGET = 2345


def test_runs_on_other_kinds_read_equally_many_tokens(flags, read):
    by_phase = {"stable": {"domain": 2, "all_domain": 1}, "anneal": {"all_domain": 3, "items": 1}}
    choices = {
        "domain": {"mixture": {"domain": 1}},
        "even": {"mixture": {"domain": 1, "items": 0.2}, "domain_temperature": "inf"},
        "phases": {"mixture": by_phase, "lr_scheduler_kwargs": {"anneal_ratio": 0.3}},
        "apart": {"packing": "false"},
    }
    steps = {}
    for name, choice in choices.items():
        out = cpt.main(flags(name, token_budget=BUDGET, max_steps=None, warmup_steps=1, **choice))
        record = ModelRecord.load(out)
        assert record.tokens == BUDGET == log_lines(out)[-1]["tokens"], name
        assert sum(len(row["input_ids"]) for row in read[name]) == BUDGET, name
        assert record.schedule["token_budget"] == BUDGET
        assert record.schedule.get("domain_temperature") == choice.get("domain_temperature")
        steps[name] = record.schedule["max_steps"]
    assert len(set(steps.values())) > 1  # at equal steps they would have read differently many


def test_interrupted_in_its_cut_rows_and_resumed_is_uninterrupted(flags, monkeypatch):
    options = {"token_budget": BUDGET, "max_steps": None, "save_steps": 1, "mixture": {"domain": 1, "items": 1}}
    whole = cpt.main(flags("whole", **options))
    last = ModelRecord.load(whole).schedule["max_steps"]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        interrupt_at(last - 1, patch)
        cpt.main(flags("stopped", **options))
    resumed = cpt.main([*flags("stopped", **options), "--resume_from_checkpoint", "true"])
    assert weights(resumed) == weights(whole)
    assert untimed(resumed) == untimed(whole)

    branch = {**BRANCH, "init_from": whole, "anneal_steps": 2, "continue_data": "true", "mixture": options["mixture"]}
    annealed = anneal.main(flags("branch", **branch))  # behind the rows that were cut
    longer = cpt.main(flags("longer", max_steps=last + 2, mixture=options["mixture"]))
    lines = [log_lines(longer)[last + i]["tokens"] - log_lines(longer)[last - 1]["tokens"] for i in (0, 1)]
    assert [line["tokens"] for line in log_lines(annealed)] == lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_steps": 4}, "`max_steps` and `token_budget` both say how long the run is; give one of them"),
        ({"num_train_epochs": 1}, "`num_train_epochs` and `token_budget` both say how long the run is"),
        ({"token_budget": 0}, "`token_budget` is 0; give at least 1"),
        ({"token_budget": 1}, "`token_budget` is 1 tokens for 2 rows; give at least one for each"),
        ({"warmup_steps": 9, "token_budget": 400}, "9 warmup"),
    ],
)
def test_what_is_refused_before_any_work(flags, tmp_path, change, said):
    with pytest.raises(InputError) as error:
        cpt.main(flags("out", **{"token_budget": BUDGET, "max_steps": None} | change))
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_anneal_has_steps_of_its_own(flags):
    with pytest.raises(InputError, match="`token_budget` has no place in anneal: it is a key of cpt"):
        anneal.main(flags("out", **BRANCH, init_from="nowhere", anneal_steps=2, token_budget=5))
