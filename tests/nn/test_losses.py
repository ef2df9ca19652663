"""Losses against plain expressions."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tesserec.nn import losses


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    return torch.randn(37, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)


@pytest.mark.parametrize("chunk", [1, 50 * 7, 10**6])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-12), (torch.bfloat16, 0.03)])
def test_full_softmax_equals_cross_entropy_in_value_and_gradient(vectors, chunk, dtype, error, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", chunk)
    monkeypatch.setattr(losses, "LEAST_ROWS", 1)
    users, items = given = [one.detach().to(dtype).requires_grad_() for one in vectors]
    exact = [one.detach().double().requires_grad_() for one in given]
    targets = torch.randint(50, (37,))
    plain = 3 * F.cross_entropy(exact[0] @ exact[1].T / 0.3, targets)
    ours = 3 * losses.full_softmax(users, items, targets, 0.3)
    assert torch.allclose(plain, ours.double(), rtol=error)
    for a, b in zip(torch.autograd.grad(plain, exact), torch.autograd.grad(ours, given), strict=True):
        assert torch.allclose(a, b.double(), rtol=0, atol=error)


def test_sampled_softmax_over_everything_else_is_the_full_softmax(vectors):
    users, items = vectors
    target = torch.full((37,), 4)
    others = torch.tensor([i for i in range(50) if i != 4])
    # Each of 49 negatives, drawn once: pool * q = 1, so that the correction vanishes.
    log_q = torch.full((49,), -np.log(49.0))
    same = torch.zeros(37, 49, dtype=torch.bool)
    sampled = losses.sampled_softmax(users, items[target], items[others], log_q, same, 0.5)
    assert torch.allclose(sampled, F.cross_entropy(users @ items.T / 0.5, target), atol=1e-5)


def test_log_q_correction_makes_a_skewed_pool_estimate_the_full_denominator():
    torch.manual_seed(0)
    users, items = torch.randn(20, 8), torch.randn(200, 8) * 0.5
    q = torch.arange(1, 201, dtype=torch.float) / torch.arange(1, 201).sum()
    pool = torch.multinomial(q, 100_000, replacement=True)
    target = torch.zeros(20, dtype=torch.int64)
    same = (pool == 0).expand(20, -1)
    full = F.cross_entropy(users @ items.T, target)
    corrected = losses.sampled_softmax(users, items[target], items[pool], q[pool].log(), same, 1.0)
    uncorrected = losses.sampled_softmax(users, items[target], items[pool], torch.zeros(len(pool)), same, 1.0)
    assert abs(corrected - full) < 0.02 < abs(uncorrected - full)


@pytest.mark.parametrize("hardness", [0.0, 2.0])
def test_a_row_without_a_negative_of_another_item_learns_nothing(vectors, hardness):
    users, items = vectors
    targets, pool = torch.arange(37) % 2, torch.zeros(3, dtype=torch.int64)
    same = targets[:, None] == pool
    loss = losses.sampled_softmax(users, items[targets], items[pool], torch.zeros(3), same, 1.0, hardness)
    of_users, of_items = torch.autograd.grad(loss, vectors)
    assert loss.isfinite()
    assert of_items.isfinite().all()
    assert torch.equal(of_users.any(-1), targets == 1)


def test_the_positive_in_the_pool_is_left_out(vectors):
    users, items = vectors
    target, pool = torch.full((37,), 4), torch.tensor([4, 7])
    same = target[:, None] == pool
    masked = losses.sampled_softmax(users, items[target], items[pool], torch.zeros(2), same, 1.0)
    swapped = losses.sampled_softmax(users, items[target], items[torch.tensor([9, 7])] * 100, torch.zeros(2), same, 1.0)
    with torch.no_grad():
        logits = torch.stack([(users * items[4]).sum(-1), users @ items[7] - np.log(2)], dim=1)
    assert torch.allclose(masked, F.cross_entropy(logits, torch.zeros(37, dtype=torch.int64)), atol=1e-5)
    assert not torch.allclose(masked, swapped)


def test_info_nce_has_its_targets_on_the_diagonal_and_masks_twins():
    left = torch.eye(6) * 10
    none = torch.zeros(6, 6, dtype=torch.bool)
    assert losses.info_nce(left, torch.eye(6), none, 1.0) < 0.001
    assert losses.info_nce(left, torch.eye(6).roll(1, 0), none, 1.0) > 5
    twins = torch.eye(6)
    twins[1] = twins[0]
    left = twins * 10
    same = none.clone()
    same[0, 1] = same[1, 0] = True
    assert losses.info_nce(left, twins, same | torch.eye(6, dtype=torch.bool), 1.0) < 0.001
    assert losses.info_nce(left, twins, none, 1.0) > 0.1


def test_bpr_by_hand():
    assert losses.bpr(torch.tensor([0.0]), torch.tensor([0.0])).item() == pytest.approx(np.log(2))
    assert losses.bpr(torch.tensor([2.0]), torch.tensor([-1.0])).item() == pytest.approx(np.log1p(np.exp(-3)))


def test_hard_negatives_are_weighted_as_by_hand_when_the_pool_is_uniform(vectors):
    users, items = vectors
    target, pool = torch.full((37,), 4), torch.arange(5, 25)
    same = torch.zeros(37, 20, dtype=torch.bool)
    log_q = torch.full((20,), -np.log(20.0))
    found = losses.sampled_softmax(users, items[target], items[pool], log_q, same, 0.5, hardness=0.3)
    logits = users @ items[pool].T / 0.5
    weight = torch.exp(0.3 * logits)
    negative = (weight / weight.mean(1, keepdim=True) * logits.exp()).sum(1)
    positive = (users * items[4]).sum(1) / 0.5
    assert torch.allclose(found, -torch.log(positive.exp() / (positive.exp() + negative)).mean(), atol=1e-4)


def test_no_hardness_is_the_plain_softmax_to_the_bit_and_more_of_it_costs_more(vectors):
    users, items = vectors
    target, pool = torch.full((37,), 4), torch.tensor([4, 7, 9, 11])
    same, log_q = target[:, None] == pool, torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    plain, none, some, much = (
        losses.sampled_softmax(users, items[target], items[pool], log_q, same, 1.0, *hardness)
        for hardness in ((), (0.0,), (0.5,), (2.0,))
    )
    assert plain.equal(none)
    assert plain < some < much


def test_a_skewed_pool_estimates_the_hardness_of_the_whole_catalogue():
    torch.manual_seed(0)
    users, items = torch.randn(20, 8), torch.randn(200, 8) * 0.5
    q = torch.arange(1, 201, dtype=torch.float) / torch.arange(1, 201).sum()
    drawn, every = torch.multinomial(q, 200_000, replacement=True), torch.arange(1, 200)
    target = torch.zeros(20, dtype=torch.int64)
    none = torch.zeros(20, 199, dtype=torch.bool)
    whole = losses.sampled_softmax(
        users, items[target], items[every], torch.full((199,), -np.log(199.0)), none, 1.0, 1.0
    )
    same = (drawn == 0).expand(20, -1)
    found = losses.sampled_softmax(users, items[target], items[drawn], q[drawn].log(), same, 1.0, 1.0)
    assert abs(found - whole) < 0.03
