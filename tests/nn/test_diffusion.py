"""Schedules, the forward process, deterministic steps back, and the denoiser."""

import math

import pytest
import torch

from tesserec.nn.diffusion import Denoiser, alpha_bars, ddim, ddim_step, even_path, noised


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_signal_falls_from_one_to_nearly_nothing_however_many_levels(schedule):
    for levels in (4, 16, 32):
        signal = alpha_bars(schedule, levels)
        assert len(signal) == levels + 1
        assert signal[0] == 1
        assert (signal.diff() < 0).all()
        assert signal[-1] < 1e-4


def test_the_linear_schedule_is_the_product_of_linear_betas():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    products = torch.cumprod(1 - betas, 0).float()
    assert torch.allclose(alpha_bars("linear", 1000)[1:], products, atol=2e-3)
    assert torch.allclose(alpha_bars("linear", 10)[1:], products[99::100], atol=2e-3)


def test_the_cosine_schedule_is_its_closed_form():
    def squared(time):
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    assert alpha_bars("cosine", 8)[2].item() == pytest.approx(squared(0.25) / squared(0), abs=1e-6)


def test_noised_vectors_have_the_mean_and_variance_of_the_forward_process():
    torch.manual_seed(0)
    clean, signal = torch.tensor([2.0, -1.0, 0.0]), alpha_bars("cosine", 8)[3]
    draws = noised(clean, torch.randn(200_000, 3), signal)
    assert torch.allclose(draws.mean(0), signal.sqrt() * clean, atol=0.01)
    assert torch.allclose(draws.var(0), (1 - signal).expand(3), atol=0.01)


def test_step_after_step_is_the_forward_process_in_one():
    torch.manual_seed(0)
    signal = alpha_bars("linear", 6)
    draws = torch.full((200_000,), 1.5)
    for level in range(1, 5):
        kept = signal[level] / signal[level - 1]
        draws = kept.sqrt() * draws + (1 - kept).sqrt() * torch.randn(200_000)
    at_once = noised(torch.tensor(1.5), torch.randn(200_000), signal[4])
    assert draws.mean().item() == pytest.approx(at_once.mean().item(), abs=0.01)
    assert draws.var().item() == pytest.approx(at_once.var().item(), abs=0.01)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_a_perfect_denoiser_leads_back_exactly_by_any_path(schedule, steps):
    torch.manual_seed(0)
    clean, signal = torch.randn(5, 16), alpha_bars(schedule, 12)
    noisy = noised(clean, torch.randn(5, 16), signal[12])
    assert torch.equal(ddim(lambda _, level: clean, noisy, signal, even_path(12, steps)), clean)


def test_a_step_with_the_true_clean_vector_keeps_the_noise():
    torch.manual_seed(0)
    clean, noise, signal = torch.randn(4, 8), torch.randn(4, 8), alpha_bars("cosine", 10)
    found = ddim_step(noised(clean, noise, signal[7]), clean, signal[7], signal[2])
    assert torch.allclose(found, noised(clean, noise, signal[2]), atol=1e-5)


def test_paths_fall_to_zero_without_standing_still():
    assert even_path(8, 4) == (8, 6, 4, 2, 0)
    assert even_path(8, 1) == (8, 0)
    assert even_path(3, 10) == (3, 2, 1, 0)


def denoiser(dim=16):
    torch.manual_seed(0)
    return Denoiser(dim, 2, 2, 0.0, alpha_bars("cosine", 8))


def test_a_fresh_denoiser_keeps_directions():
    noisy, states = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    level = torch.tensor([[2, 4, 6], [1, 0, 8]])
    found = denoiser()(noisy, level, states, torch.zeros(1, 1, 1, 5))
    assert torch.allclose(found, alpha_bars("cosine", 8)[level].sqrt()[..., None] * noisy)


def test_a_denoiser_reads_its_level_and_what_the_mask_lets_it():
    model = denoiser()
    torch.nn.init.normal_(model.mlp[-1].weight)
    noisy, states, level = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.full((1, 1), 4)
    mask = torch.zeros(2, 1, 3, 5)
    mask[:, :, :, 3:] = -torch.inf
    before = model(noisy, level, states, mask)
    hidden, seen = states.clone(), states.clone()
    hidden[:, 3:] += 1
    seen[:, 0] *= -1
    assert torch.allclose(before, model(noisy, level, hidden, mask), atol=1e-6)
    assert not torch.allclose(before, model(noisy, level, seen, mask), atol=1e-2)
    higher = model(noisy, level + 2, states, mask)
    said = [found - model.signal[t].sqrt() * noisy for found, t in ((before, 4), (higher, 6))]
    assert not torch.allclose(*said, atol=1e-2)


def test_a_trained_denoiser_moves_noisy_vectors_towards_the_clean_ones():
    """A clean vector stands in the history beside another; three quarters of the error go, in one step or three."""
    torch.manual_seed(0)
    model, signal = denoiser(), alpha_bars("cosine", 8)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    kinds = torch.nn.functional.normalize(torch.randn(6, 16), dim=-1) * 4
    everything = torch.zeros(1, 1, 1, 2)

    def histories(rows):
        states = kinds[torch.stack([torch.randperm(6)[:2] for _ in range(rows)])]
        return states, states[:, :1]

    for _ in range(300):
        states, clean = histories(64)
        level = torch.randint(1, 9, (64, 1))
        noisy = noised(clean, torch.randn_like(clean), signal[level][..., None])
        loss = ((model(noisy, level, states, everything) - clean) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    states, clean = histories(500)
    noisy = noised(clean, torch.randn_like(clean), signal[5])
    for steps in (1, 3):
        path = even_path(5, steps)
        found = ddim(lambda x, t: model(x, torch.full((1, 1), t), states, everything), noisy, signal, path)
        before, after = ((noisy / signal[5].sqrt() - clean) ** 2).mean(), ((found - clean) ** 2).mean()
        assert after < before / 4
