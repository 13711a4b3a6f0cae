"""The list-wise loss in the words of the papers it comes from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cprec_hf.training.listwise_loss import listwise_losses, sequence_log_probs
from cprec_hf.training.preference_trainer import softmax_dpo_losses

ROWS = st.lists(st.lists(st.floats(-30, 0), min_size=4, max_size=4), min_size=1, max_size=5)


@given(ROWS, ROWS, st.floats(0.01, 2), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans())
def test_the_formula(log_probs, others, beta, negatives, normalise, refers, corrects):
    n = min(len(log_probs), len(others))
    p, other = (torch.tensor(rows[:n], dtype=torch.float64)[:, : 1 + negatives] for rows in (log_probs, others))
    lengths = torch.arange(1, p.numel() + 1).view_as(p)
    options = {
        "reference": other if refers else None,
        "lengths": lengths if normalise else None,
        "log_q": other / 3 if corrects else None,
    }
    got = listwise_losses(p, beta=beta, **options)
    for i in range(n):
        scores = []
        for j in range(1 + negatives):
            score = p[i, j].item() - (other[i, j].item() if refers else 0)
            score = beta * score / (lengths[i, j].item() if normalise else 1)
            scores.append(score - (other[i, j].item() / 3 if corrects else 0))
        top = max(scores)
        expected = top + math.log(sum(math.exp(s - top) for s in scores)) - scores[0]
        assert got[i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if refers and not normalise and not corrects:
        torch.testing.assert_close(got, softmax_dpo_losses(p - other, beta))


def test_sequences_are_sums_of_their_tokens():
    tokens = torch.tensor([-1.0, -2.0, -4.0, -8.0], requires_grad=True)
    places = torch.tensor([[[0, 1, -1], [3, -1, -1]], [[0, 2, 3], [1, 2, -1]]])
    found = sequence_log_probs(tokens, places)
    assert found.tolist() == [[-3, -8], [-13, -6]]
    found.sum().backward()
    assert tokens.grad.tolist() == [2, 2, 2, 2]
    assert sequence_log_probs(tokens, torch.full((2, 3), -1)).tolist() == [0, 0]
