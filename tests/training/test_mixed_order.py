"""The interleave of kinds, against one that draws row by row."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cprec_hf.training import mixed_order
from cprec_hf.training.mixed_order import Draws, MixedOrder

NAMES = ["all_domain", "domain", "items", "sessions"]


@st.composite
def runs(draw):
    """Sizes and lengths of up to four kinds, and weights of up to three phases."""
    kinds = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    sizes = {kind: draw(st.integers(1, 9)) for kind in kinds}
    lengths = np.array(draw(st.lists(st.integers(1, 20), min_size=(n := sum(sizes.values())), max_size=n)))
    spans = []
    for steps in draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)):
        weights = {kind: draw(st.sampled_from([0, 0.1, 0.5, 1, 3])) for kind in kinds}
        weights[kinds[0]] = weights[kinds[0]] or 1
        spans.append((steps, weights))
    return lengths, Draws(sizes, spans), draw(st.integers(1, 5)), draw(st.integers(0, 3))


def order_of(run, continues=True, start=0, **change):
    lengths, draws, batch, seed = run
    steps = sum(n for n, _ in draws.spans) + (0 if continues else start)
    return MixedOrder(lengths, batch, steps, seed, start, continues=continues, draws=draws, **change)


def kind_of(draws):
    return np.repeat(np.array(list(draws.sizes)), list(draws.sizes.values()))


def one_by_one(lengths, draws, batch, seed):
    """Each row by the rule itself: of the kinds' next rows, the one whose middle lies first on its kind's line."""
    begins, at, queues = {}, 0, {}
    for kind, size in draws.sizes.items():
        begins[kind], at, queues[kind] = at, at + size, []
    passes = dict.fromkeys(draws.sizes, 0)
    read, before = [], None
    for steps, weights in draws.spans:
        if weights != before:
            tokens = dict.fromkeys(weights, 0)
        before = weights
        for _ in range(steps * batch):
            best = None
            for kind in sorted(kind for kind in weights if weights[kind]):
                if not queues[kind]:
                    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), passes[kind]])
                    queues[kind] = [begins[kind] + int(i) for i in rng.permutation(draws.sizes[kind])]
                    passes[kind] += 1
                place = (tokens[kind] + lengths[queues[kind][0]] / 2) / weights[kind]
                if best is None or place < best[0]:
                    best = (place, kind)
            row = queues[best[1]].pop(0)
            tokens[best[1]] += int(lengths[row])
            read.append(row)
    return read


@given(runs(), st.sampled_from([1, 3, 1 << 16]))
@settings(max_examples=150)
def test_the_order_is_the_one_drawn_row_by_row(run, block):
    lengths, draws, batch, seed = run
    before, mixed_order._BLOCK = mixed_order._BLOCK, block  # laid out in blocks or at once, it is one order
    try:
        order = order_of(run)
    finally:
        mixed_order._BLOCK = before
    expected = one_by_one(lengths, draws, batch, seed)
    assert list(order) == expected
    assert len(order) == len(expected)
    for step in range(order.steps + 1):
        assert order.tokens(step) == lengths[expected[: step * batch]].sum()


@given(runs())
def test_every_prefix_of_a_phase_meets_the_weights(run):
    """Half a row off for two kinds, less than one for three; the bound that the module states."""
    lengths, draws, batch, _ = run
    read, kinds, at = np.array(list(order_of(run))), kind_of(draws), 0
    for steps, weights in mixed_order._merged(draws.spans):
        rows = read[at : at + steps * batch]
        at += len(rows)
        total = np.cumsum(lengths[rows])
        several = sum(weight > 0 for weight in weights.values())
        for kind, weight in weights.items():
            share = weight / sum(weights.values())
            tokens = np.cumsum(np.where(kinds[rows] == kind, lengths[rows], 0))
            if not share:
                assert not tokens[-1]
                continue
            bound = lengths.max() * (1 + share * (several - 2)) / 2
            assert np.abs(tokens - share * total).max() <= bound + 1e-6
            assert bound <= 1.5 * lengths.max()


@given(runs())
def test_each_kind_is_read_in_passes_without_repeats(run):
    draws = run[1]
    read, kinds = np.array(list(order_of(run))), kind_of(draws)
    for kind, size in draws.sizes.items():
        rows = read[kinds[read] == kind]
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            assert len(set(part.tolist())) == len(part)


@given(runs(), st.integers(0, 6))
def test_a_branch_begins_its_own_data_at_its_trunks_step(run, start):
    lengths, _, batch, _ = run
    own, branch = list(order_of(run)), order_of(run, continues=False, start=start)
    assert list(branch) == [0] * (start * batch) + own
    assert branch.tokens(start) == 0
    for step in range(start, branch.steps + 1):
        assert branch.tokens(step) == lengths[own[: (step - start) * batch]].sum()


@given(runs(), st.integers(1, 9))
def test_a_branch_that_reads_on_reads_what_the_trunk_read_first(run, more):
    """Whatever comes behind, and whatever kinds only the anneal reads, the rows before are the trunk's."""
    lengths, draws, batch, seed = run
    trunk = list(order_of(run))
    sizes = {**draws.sizes, "zebras": 3}  # behind the others in the table
    anneal = (more, {"zebras": 2, next(iter(draws.sizes)): 1})
    longer = np.concatenate([lengths, [5, 6, 7]])
    start = sum(n for n, _ in draws.spans)
    branch = order_of((longer, Draws(sizes, [*draws.spans, anneal]), batch, seed), start=start)
    read = list(branch)
    assert read[: len(trunk)] == trunk
    for step in range(start, branch.steps + 1):
        assert branch.tokens(step) == longer[read[start * batch : step * batch]].sum()


def test_draws_of_another_run_are_refused():
    with pytest.raises(ValueError, match="not of 4 steps"):
        MixedOrder(np.ones(3, int), 1, 4, 0, draws=Draws({"domain": 3}, [(3, {"domain": 1})]))
