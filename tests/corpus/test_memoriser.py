"""The candidate-list memoriser: at chance on our candidates, well above it on candidates seeded by the target."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.corpus.candidates import draw_candidates, row_keys
from cprec_hf.corpus.memoriser import MemoriserResult, hit_rate_of_numbers, memoriser_hit_rate, memoriser_scores
from cprec_hf.corpus.ragged import Ragged
from cprec_hf.errors import InputError

ITEMS, COUNT, ROWS = 200, 10, 2_000


def _names(codes: np.ndarray) -> list[list[str]]:
    return np.char.add("i", codes.astype(str)).tolist()


def _targets(seed: int) -> np.ndarray:
    popular = np.random.default_rng(seed).exponential(25, ROWS).astype(int)  # some items are bought far more often
    return np.minimum(popular, ITEMS - 1)


def _ours(targets: np.ndarray, split: str) -> np.ndarray:
    keys = row_keys("test", split, [f"user {i}" for i in range(ROWS)], np.zeros(ROWS, dtype=np.int64))
    return draw_candidates(ITEMS, Ragged.from_lists([[]] * ROWS), targets, keys, COUNT)


def _seeded(targets: np.ndarray) -> np.ndarray:
    """The mistake: negatives from a generator seeded with the target, shuffled in every row."""
    shuffle = np.random.default_rng(0)
    rows = []
    for target in targets:
        rng = np.random.default_rng(int(target))
        negatives = rng.choice(np.delete(np.arange(ITEMS), target), COUNT - 1, replace=False)
        rows.append(shuffle.permutation(np.append(negatives, target)))
    return np.stack(rows)


def test_at_chance_on_candidates_that_never_saw_the_target() -> None:
    known, asked = _targets(0), _targets(1)
    result = memoriser_hit_rate(
        _names(_ours(known, "validation")), _names(known[None])[0], _names(_ours(asked, "test")), _names(asked[None])[0]
    )
    assert abs(result.hit_rate - 1 / COUNT) < 4 * np.sqrt(0.1 * 0.9 / ROWS)
    assert result.p_value > 0.001


def test_far_above_chance_on_candidates_seeded_by_the_target() -> None:
    known, asked = _targets(0), _targets(1)
    result = memoriser_hit_rate(
        _names(_seeded(known)), _names(known[None])[0], _names(_seeded(asked)), _names(asked[None])[0]
    )
    assert result.hit_rate > 0.9
    assert result.p_value < 1e-100


def test_scores_count_the_targets_of_the_same_set_in_any_order() -> None:
    known = [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"], ["a", "b", "d"]]
    scores = memoriser_scores(known, ["a", "a", "b", "d"], [["b", "c", "a"], ["d", "c", "a"], ["d", "b", "a"]])
    assert scores.tolist() == [[1, 0, 2], [0, 0, 0], [1, 0, 0]]


def test_hit_rate_counts_guesses_at_chance_and_ties_in_expectation() -> None:
    known = [["a", "b"], ["b", "a"], ["a", "c"]]
    result = memoriser_hit_rate(known, ["a", "b", "c"], [["a", "b"], ["c", "a"], ["x", "y"]], ["b", "c", "x"])
    assert (result.rows, result.recognised, result.hits) == (3, 2, 1.5)
    assert result.hit_rate == pytest.approx((0.5 + 1 + 0.5) / 3)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="different lengths"):
        memoriser_scores([["a", "b"], ["a"]], ["a", "a"], [["a", "b"]])


item = st.integers(0, 3)
row = st.lists(item, min_size=2, max_size=2)


@given(st.lists(st.tuples(row, item), min_size=1, max_size=12), st.lists(st.tuples(row, item), min_size=1, max_size=12))
def test_hits_are_those_of_a_dictionary_of_sets(known: list, asked: list) -> None:
    """By the definitions, row by row; items may stand twice in a list, and targets outside of it."""
    learnt: dict[tuple, Counter] = {}
    for candidates, target in known:
        learnt.setdefault(tuple(sorted(candidates)), Counter())[target] += 1
    times = Counter(target for _, target in known)
    hits, counting = [], []
    for candidates, target in asked:
        of_set = learnt.get(tuple(sorted(candidates)), Counter())
        if not any(of_set[i] for i in candidates):
            continue
        for counts, expected in ((of_set, hits), (times, counting)):
            best = [i for i in candidates if counts[i] == max(counts[j] for j in candidates)]
            expected.append((target in best) / len(best))
    tables = [np.array(column) for rows in (known, asked) for column in zip(*rows, strict=True)]
    found = hit_rate_of_numbers(*tables)
    assert (found.rows, found.recognised) == (len(asked), len(hits))
    assert (found.hits, found.counting_hits) == pytest.approx((sum(hits), sum(counting)))
    assert found.wins == pytest.approx(sum(max(h - c, 0) for h, c in zip(hits, counting, strict=True)))


def test_sets_whose_hashes_are_equal_are_told_apart() -> None:
    class Alike:
        def integers(self, *bounds: int, **how: object) -> np.ndarray:
            return np.ones(bounds[2], dtype=np.uint64)

    rows = np.array([[0, 1], [2, 3], [1, 0], [3, 2]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: Alike())
        result = hit_rate_of_numbers(rows[:2], np.array([0, 2]), rows[2:], np.array([0, 3]))
    assert (result.recognised, result.hits) == (2, 1.0)


def _in_categories(targets: np.ndarray, size: int, *, seeded: bool) -> np.ndarray:
    """Sets of 10 from categories of `size` neighbours, drawn by the row or (the mistake) by the target."""
    rows = []
    for i, target in enumerate(targets):
        others = [item for item in range(target // size * size, target // size * size + size) if item != target]
        rng = np.random.default_rng(target if seeded else 10_000 + i)
        rows.append([target, *rng.choice(others, COUNT - 1, replace=False)])
    return np.array(rows)


@pytest.mark.parametrize("size", [10, 11, 12])
def test_sets_that_come_again_in_small_categories_know_no_more_than_what_is_popular(size: int) -> None:
    """A set of all 10 items of its category comes with every target; popular ones more often, which is no leak."""
    rng = np.random.default_rng(size)
    weights = rng.permutation(np.repeat([1.0, 8.0], 60))
    known, asked = (rng.choice(120, ROWS, p=weights / weights.sum()) for _ in range(2))
    known, asked = (targets % (120 // size * size) for targets in (known, asked))

    def result(seeded: bool) -> MemoriserResult:
        sets = [_in_categories(targets, size, seeded=seeded) for targets in (known, asked)]
        names = [_names(targets[None])[0] for targets in (known, asked)]
        return memoriser_hit_rate(_names(sets[0]), names[0], _names(sets[1]), names[1])

    ours = result(seeded=False)
    assert ours.recognised > 300 and ours.p_value_of_counting > 0.001
    if size == 10:  # chance is the wrong measure there
        assert ours.p_value < 1e-6 and ours.hit_rate == pytest.approx(ours.counting_hit_rate, abs=0.02)
    else:
        assert result(seeded=True).p_value_of_counting < 1e-12


def test_counting_targets_is_scored_row_by_row() -> None:
    known = [["a", "b", "c"], ["b", "a", "d"], ["c", "b", "d"]]
    result = memoriser_hit_rate(
        known, ["a", "b", "b"], [["c", "b", "a"], ["a", "c", "d"], ["d", "b", "a"]], list("aab")
    )
    # Recognised: the first (the lookup says a, counting says b, which was two targets) and the last (both say b).
    assert (result.recognised, result.hits, result.counting_hits, result.wins) == (2, 2.0, 1.0, 1.0)
    assert result.counting_hit_rate == pytest.approx((1 + 1 / 3) / 3)
