"""The residual quantiser against brute force, planted clusters and its own promises."""

import numpy as np
import pytest
import torch

from tesserec.errors import ConfigError
from tesserec.nn.codebook import codebook_health
from tesserec.nn.quantisers import CodebookConfig, ResidualQuantiser


def clusters(groups=8, each=30, dim=6, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, dim))
    labels = np.repeat(np.arange(groups), each)
    return torch.tensor(centres[labels] + spread * rng.normal(size=(len(labels), dim)), dtype=torch.float), labels


def test_codes_are_nearest_entries_of_what_is_left():
    torch.manual_seed(1)
    quantiser = ResidualQuantiser(CodebookConfig(levels=3, codes=5), dim=4)
    z = torch.randn(40, 4)
    found = quantiser(z)
    residual = z.clone()
    for level in range(3):
        distance = ((residual[:, None] - quantiser.codebooks[level]) ** 2).sum(-1)
        assert torch.equal(found.codes[:, level], distance.argmin(1))
        assert torch.allclose(found.residuals[:, level], residual, atol=1e-5)
        residual = residual - quantiser.codebooks[level][found.codes[:, level]]
    assert torch.allclose(found.sum, z - residual, atol=1e-5)


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_both():
    quantiser = ResidualQuantiser(CodebookConfig(levels=2, codes=5), dim=4)
    z = torch.randn(10, 4, requires_grad=True)
    found = quantiser(z)
    through = found.straight_through(z)
    assert torch.allclose(through, found.sum, atol=1e-6)
    through.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert quantiser.codebooks.grad[0, found.codes[0, 0]].abs().sum() > 0


def test_the_loss_by_hand():
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=2, commitment=0.25), dim=2)
    quantiser.codebooks.data = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    z = torch.tensor([[0.9, 0.2], [0.1, 0.0]])
    squared = (0.1**2 + 0.2**2 + 0.1**2) / 2
    assert quantiser.loss(z, quantiser(z)).item() == pytest.approx(1.25 * squared, rel=1e-5)


def test_k_means_start_finds_planted_clusters_and_lowers_the_error_level_by_level():
    z, labels = clusters()
    quantiser = ResidualQuantiser(CodebookConfig(levels=3, codes=12), dim=6)
    quantiser.start(z, seed=0)
    codes = quantiser(z).codes[:, 0].numpy()
    assert len(np.unique(codes)) == 12
    assert all(len(np.unique(labels[codes == code])) == 1 for code in range(12))
    words = quantiser(z).codewords
    errors = [(z - words[:, : level + 1].sum(1)).square().sum(-1).mean().item() for level in range(3)]
    assert errors[0] > errors[1] > errors[2]


def test_too_few_distinct_vectors_are_refused_with_the_setting():
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=8), dim=6)
    with pytest.raises(ConfigError, match=r"codebook\.codes = 8.*only 3 distinct"):
        quantiser.start(torch.randn(3, 6).repeat(10, 1), seed=0)


def test_dead_codes_restart_on_crowded_residuals_and_live_ones_stay():
    z, _ = clusters()
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=8), dim=6)
    quantiser.codebooks.data[0] = 100.0
    quantiser.codebooks.data[0, 2] = z.mean(0)
    alive = quantiser.codebooks.data[0, 2].clone()
    assert codebook_health(quantiser(z).codes.numpy(), 8)[0].dead == 7
    assert quantiser.restart_dead(z, torch.Generator().manual_seed(0)) == [7]
    assert codebook_health(quantiser(z).codes.numpy(), 8)[0].dead <= 1
    assert torch.equal(quantiser.codebooks.data[0, 2], alive)
    moved = quantiser.codebooks.data[0, [i for i in range(8) if i != 2]]
    assert all((z - code).abs().sum(-1).min() < 1e-5 for code in moved)


def test_the_start_survives_a_reload():
    z, _ = clusters()
    quantiser = ResidualQuantiser(CodebookConfig(levels=2, codes=8), dim=6)
    quantiser.start(z, seed=0)
    again = ResidualQuantiser(CodebookConfig(levels=2, codes=8), dim=6)
    again.load_state_dict(quantiser.state_dict())
    assert bool(again.started)
    assert torch.equal(again.train()(z).codes, quantiser(z).codes)


def test_health_by_hand():
    even, one = np.arange(8) % 4, np.zeros(8, int)
    figures = codebook_health(np.stack([even, one], axis=1), 5)
    assert figures[0].perplexity == pytest.approx(4.0)
    assert (figures[0].dead, figures[1].dead) == (1, 4)
    assert figures[1].perplexity == pytest.approx(1.0)
