"""Routing and attention over all prefixes against one prefix at a time, in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from tesserec.nn.routing import SelfAttention, attention_spread, pool, route, squash


def causal(length):
    return torch.ones(1, length, length, dtype=torch.bool).tril()


def squashed(v):
    square = (v**2).sum(-1, keepdims=True)
    return square / (1 + square) * v / np.sqrt(square)


def routed(votes, logits, iterations):
    """Capsules ``(interests, dim)`` of one whole history: votes ``(interests, length, dim)``, as in the paper."""
    logits = logits.copy()
    for turn in range(iterations):
        share = softmax(logits, axis=0)
        capsules = squashed(np.stack([share[k] @ votes[k] for k in range(len(votes))]))
        if turn < iterations - 1:
            for k in range(len(votes)):
                logits[k] += votes[k] @ capsules[k]
    return capsules


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_routing_all_prefixes_is_routing_each_by_hand(iterations, shared):
    torch.manual_seed(0)
    votes, logits = torch.randn(2, 1 if shared else 3, 6, 4), torch.randn(3, 6)
    found = route(votes, causal(6), logits, iterations)
    assert found.shape == (2, 6, 3, 4)
    every = votes.expand(2, 3, 6, 4).numpy()
    for row in range(2):
        for length in range(1, 7):
            by_hand = routed(every[row, :, :length], logits[:, :length].numpy(), iterations)
            assert np.allclose(found[row, length - 1], by_hand, atol=1e-5)


def test_interests_that_are_not_used_take_no_share():
    torch.manual_seed(0)
    votes, logits = torch.randn(2, 3, 5, 4), torch.randn(3, 5)
    used = torch.tensor([True, True, False]).expand(1, 5, 3)
    found = route(votes, causal(5), logits, 3, used)[:, :, :2]
    assert torch.allclose(found, route(votes[:, :2], causal(5), logits[:2], 3), atol=1e-6)


def test_gradients_pass_through_the_last_iteration_alone():
    torch.manual_seed(0)
    votes, logits = torch.randn(1, 2, 4, 3, dtype=torch.float64), torch.zeros(2, 4)
    whole = torch.ones(1, 1, 4, dtype=torch.bool)
    moved = votes.clone().requires_grad_()
    route(moved, whole, logits, 3).square().sum().backward()
    # The shares of the last iteration, held fixed: what is left is one weighted sum and one squash.
    logits = torch.from_numpy(logits_before_last(votes[0].numpy()))
    last = votes.clone().requires_grad_()
    squash(torch.einsum("kl,bkld->bkd", logits.softmax(0), last)).square().sum().backward()
    assert torch.allclose(moved.grad, last.grad, atol=1e-6)


def logits_before_last(votes):
    logits = np.zeros(votes.shape[:2])
    for _ in range(2):
        capsules = squashed(np.einsum("kl,kld->kd", softmax(logits, axis=0), votes))
        logits += np.einsum("kld,kd->kl", votes, capsules)
    return logits


def test_a_squashed_vector_keeps_its_direction_and_is_shorter_than_one():
    vectors = torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.0, 0.0]], requires_grad=True)
    short = squash(vectors)
    assert torch.allclose(short[0], torch.tensor([0.6, 0.8]) * 25 / 26)
    assert torch.allclose(short[1].norm(), torch.tensor(0.0025 / 1.0025), rtol=1e-3)
    short.sum().backward()
    assert vectors.grad.isfinite().all()


def test_attention_weighs_the_positions_of_a_prefix_alone():
    torch.manual_seed(0)
    attention, states = SelfAttention(4, 8, 3), torch.randn(2, 5, 4)
    weights = attention(states, causal(5)).detach()
    logits = torch.tanh(states @ attention.hidden.weight.T) @ attention.out.weight.T
    for length in range(1, 6):
        by_hand = softmax(logits[:, :length].detach().numpy(), axis=1).transpose(0, 2, 1)
        assert np.allclose(weights[:, length - 1, :, :length], by_hand, atol=1e-6)
        assert not weights[:, length - 1, :, length:].any()
        summed = by_hand @ states[:, :length].numpy()
        assert np.allclose(pool(weights, states)[:, length - 1], summed, atol=1e-5)


def test_spread_is_the_squared_diagonal_of_the_covariance_of_attention():
    torch.manual_seed(0)
    weights = SelfAttention(4, 8, 3)(torch.randn(2, 5, 4), causal(5)).detach()
    found = attention_spread(weights, causal(5))
    for length in range(2, 6):
        for row in range(2):
            covariance = np.cov(weights[row, length - 1, :, :length].numpy(), bias=True)
            assert np.isclose(found[row, length - 1], (np.diag(covariance) ** 2).sum(), atol=1e-7)
    assert torch.allclose(found[:, 0], torch.zeros(2), atol=1e-7)


def test_spread_is_greatest_where_each_interest_reads_one_position():
    one = torch.eye(4)[None, None]
    whole = torch.ones(1, 1, 4, dtype=torch.bool)
    assert torch.allclose(attention_spread(one, whole), torch.tensor(4 * (3 / 16) ** 2))
    assert attention_spread(torch.full_like(one, 0.25), whole).item() == 0
