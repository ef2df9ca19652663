"""What tokens read: nearest tuples against all of them, and weights against a solver."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from tesserec.nn.reads import convex_weights, nearest_tuples
from tesserec.nn.tokens import tuple_words


@pytest.mark.parametrize(("parts", "shared", "count"), [(1, False, 3), (2, False, 5), (3, True, 64), (2, True, 1)])
def test_nearest_tuples_are_those_of_a_full_comparison(parts, shared, count):
    torch.manual_seed(parts)
    tokens, books = torch.randn(7, 3, 6), torch.randn(1 if shared else 3, parts, 4, 6 // parts)
    found = nearest_tuples(tokens, books, count)
    for place in range(3):
        words = tuple_words(torch.arange(4**parts), books[0 if shared else place])
        expected = torch.cdist(tokens[:, place], words).argsort(-1)[:, :count]
        assert torch.equal(found[:, place], expected)


def test_weights_come_near_to_what_a_solver_finds():
    torch.manual_seed(0)
    targets, words = torch.randn(50, 5), torch.randn(50, 4, 5)
    weights = convex_weights(targets, words)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(50), atol=1e-5)
    one = 1e3 * np.ones((1, 4))  # asks for a sum of one
    both = zip(targets.numpy(), words.numpy(), strict=True)
    best = np.array([nnls(np.vstack([w.T, one]), np.append(t, 1e3))[0] for t, w in both])
    solved, ours = (
        (targets - (w[..., None] * words).sum(1)).square().sum(-1)
        for w in (torch.tensor(best, dtype=torch.float32), weights)
    )
    first = (targets - words[:, 0]).square().sum(-1)
    assert (ours >= solved - 1e-4).all()
    assert (ours - solved).mean() < 0.1 * (first - solved).mean()


def test_two_words_are_weighed_exactly_and_a_word_that_is_the_target_alone():
    words = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [3.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
    targets = torch.tensor([[1.0, 5.0], [1.0, 1.0], [2.0, 2.0]])
    weights = convex_weights(targets, words)
    assert torch.allclose(weights[:2], torch.tensor([[0.75, 0.25], [1.0, 0.0]]))
    assert weights[2].sum() == pytest.approx(1.0)
    assert convex_weights(targets, words[:, :1]).tolist() == [[1.0]] * 3
