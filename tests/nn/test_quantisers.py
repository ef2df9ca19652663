"""Quantisers against brute force, planted clusters and their own promises."""

import numpy as np
import pytest
import torch

from tesserec.errors import ConfigError
from tesserec.nn.estimators import rotation
from tesserec.nn.product import ProductQuantiser
from tesserec.nn.quantisers import CodebookConfig, ResidualQuantiser
from tesserec.training.loop import _forget_restarted


def clusters(groups=8, each=30, dim=6, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, dim))
    labels = np.repeat(np.arange(groups), each)
    return torch.tensor(centres[labels] + spread * rng.normal(size=(len(labels), dim)), dtype=torch.float), labels


KINDS = [ResidualQuantiser, ProductQuantiser]


def quantiser_of(kind, z=None, **settings):
    torch.manual_seed(0)
    quantiser = kind(CodebookConfig.model_validate({"levels": 2, "codes": 8} | settings), dim=6)
    if z is not None:
        quantiser.start(z, seed=0)
    return quantiser


def train(quantiser, z, steps=5):
    """Steps that would move the codes by gradients, moving averages and weight decay."""
    optimiser = torch.optim.AdamW(quantiser.parameters(), lr=0.05, weight_decay=0.1)
    z = z.clone().requires_grad_()
    for _ in range(steps):
        found = quantiser(z)
        quantiser.update(found)
        optimiser.zero_grad()
        (quantiser.loss(z, found) + found.straight_through(z).sum() + found.rebuilt.sum()).backward()
        optimiser.step()
    return optimiser


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
    with pytest.raises(ConfigError, match=r"codebook\.codes = 8.*only 3 distinct vectors"):
        quantiser.start(torch.randn(3, 6).repeat(10, 1), seed=0)


def test_a_part_with_too_few_values_is_named():
    vectors = torch.cat([torch.randn(50, 2), torch.ones(50, 2)], -1)
    with pytest.raises(ConfigError, match="codes = 4, but part 1 of the vectors has only 1 distinct values"):
        ProductQuantiser(CodebookConfig(levels=2, codes=4), 4).start(vectors, 0)


def test_dead_codes_restart_on_crowded_residuals_and_live_ones_stay():
    z, _ = clusters()
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=8), dim=6)
    quantiser.codebooks.data[0] = 100.0
    quantiser.codebooks.data[0, 2] = z.mean(0)
    alive = quantiser.codebooks.data[0, 2].clone()
    assert len(quantiser(z).codes.unique()) == 1
    assert quantiser.restart_dead(z, torch.Generator().manual_seed(0)) == [7]
    assert len(quantiser(z).codes.unique()) >= 7
    assert torch.equal(quantiser.codebooks.data[0, 2], alive)
    moved = quantiser.codebooks.data[0, [i for i in range(8) if i != 2]]
    assert all((z - code).abs().sum(-1).min() < 1e-5 for code in moved)


def test_a_product_quantiser_takes_the_nearest_code_of_every_part():
    quantiser = quantiser_of(ProductQuantiser, levels=3)
    z = torch.randn(40, 6)
    found = quantiser(z)
    assert found.codewords.shape == (40, 3, 2)
    for part in range(3):
        distance = ((z[:, None, 2 * part : 2 * part + 2] - quantiser.codebooks[part]) ** 2).sum(-1)
        assert torch.equal(found.codes[:, part], distance.argmin(1))
    words = [quantiser.codebooks[part][found.codes[:, part]] for part in range(3)]
    assert torch.equal(found.rebuilt, torch.cat(words, -1))
    assert torch.equal(found.concat, found.rebuilt)


def test_parts_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"codebook\.levels = 4 parts do not divide a width of 6"):
        quantiser_of(ProductQuantiser, levels=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_frozen_codebook_is_bit_equal_after_training_and_after_a_reload(kind, update):
    z, _ = clusters()
    quantiser = quantiser_of(kind, z, update=update)
    before = quantiser.codebooks.detach().clone()
    train(quantiser, z + 0.3)
    assert not torch.equal(quantiser.codebooks, before)
    quantiser.freeze()
    again = quantiser_of(kind, update=update)
    again.load_state_dict(quantiser.state_dict())
    for one in (quantiser, again):
        fixed = one.codebooks.detach().clone()
        train(one, z + 0.3)
        one.codebooks.data[0, 0] = fixed[0, 0] = 100.0
        assert one.restart_dead(z, torch.Generator()) == [0, 0]
        assert torch.equal(one.codebooks, fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reloaded_codebook_is_not_started_again_by_training_on(kind):
    z, _ = clusters()
    quantiser = quantiser_of(kind, z)
    again = quantiser_of(kind)
    again.load_state_dict(quantiser.state_dict())
    assert bool(again.started)
    train(quantiser, z, 1)
    train(again, z, 1)
    assert torch.equal(again.codebooks, quantiser.codebooks)


def test_moving_averages_of_one_code_are_the_running_mean():
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=2, update="ema", decay=0.9), dim=3)
    quantiser.codebooks.data[0, 1] = quantiser.sums[0, 1] = 100.0
    weight, total = 1.0, quantiser.sums[0, 0].clone()
    for _ in range(20):
        z = torch.randn(7, 3)
        quantiser.update(quantiser(z))
        weight, total = 0.9 * weight + 0.1 * 7, 0.9 * total + 0.1 * z.sum(0)
    assert torch.allclose(quantiser.codebooks[0, 0], total / weight, atol=1e-4)


def test_moving_averages_leave_the_step_in_hand_its_codes():
    z, _ = clusters()
    quantiser = quantiser_of(ResidualQuantiser, z, update="ema", estimator="gumbel")
    z.requires_grad_()
    found = quantiser(z)
    scores = z @ quantiser.codebooks[0].T
    quantiser.update(found)
    (found.straight_through(z).sum() + scores.sum()).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_restarted_code_is_not_dragged_away(update):
    z, _ = clusters()
    quantiser = quantiser_of(ResidualQuantiser, z, levels=1, update=update)
    optimiser = train(quantiser, z + 0.3)
    quantiser.codebooks.data[0, 3] = 100.0
    assert quantiser.restart_dead(z, torch.Generator().manual_seed(0))[0] >= 1
    assert bool(quantiser.restarted[0, 3])
    placed = quantiser.codebooks[0, 3].detach().clone()
    _forget_restarted(quantiser, [optimiser])
    others = z[quantiser.assign(z)[:, 0] != 3]
    found = quantiser(others)
    quantiser.update(found)
    optimiser.zero_grad()
    if update == "gradient":
        quantiser.loss(others, found).backward()
        optimiser.param_groups[0]["weight_decay"] = 0.0
        optimiser.step()
    assert torch.allclose(quantiser.codebooks[0, 3], placed, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_draws_codes_and_vectors_as_configured(kind):
    z, _ = clusters()
    for update, moves in (("gradient", True), ("ema", False)):
        quantiser = quantiser_of(kind, z, update=update)
        free = z.clone().requires_grad_()
        loss = quantiser.loss(free, quantiser(free))
        loss.backward()
        assert free.grad.abs().sum() > 0
        assert (quantiser.codebooks.grad is not None) == moves
    alone = quantiser(z)
    assert loss.item() == pytest.approx((z - alone.rebuilt).square().sum(-1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_estimators_keep_the_value_and_reach_both_ends(kind, estimator):
    z, _ = clusters()
    quantiser = quantiser_of(kind, z, estimator=estimator)
    z.requires_grad_()
    found = quantiser(z)
    through = found.straight_through(z)
    assert torch.allclose(through, found.rebuilt, atol=1e-6)
    (through * torch.randn(len(z), 6)).sum().backward()
    assert (z.grad.abs().sum(-1) > 0).all()
    assert quantiser.codebooks.grad[0, found.codes[:, 0].unique()].abs().sum(-1).min() > 0


def test_the_rotation_keeps_the_angle_between_gradient_and_codeword():
    z = torch.randn(20, 6, requires_grad=True)
    word = torch.randn(20, 6)
    slope = torch.randn(20, 6)
    (rotation(z, word) * slope).sum().backward()
    cosine = torch.nn.functional.cosine_similarity
    assert torch.allclose(cosine(z.grad, z), cosine(slope, word), atol=1e-4)


def test_gumbel_mixes_codes_in_training_and_takes_the_nearest_in_evaluation():
    z, _ = clusters()
    quantiser = quantiser_of(ResidualQuantiser, z, estimator="gumbel", gumbel_temperature=1.0)
    hard = quantiser_of(ResidualQuantiser, z)
    z.requires_grad_()
    soft = quantiser.train()(z)
    assert torch.equal(soft.codes[:, 0], hard(z).codes[:, 0])
    assert not torch.allclose(soft.rebuilt, hard(z).rebuilt, atol=1e-2)
    soft.straight_through(z).square().sum().backward()
    assert z.grad.abs().sum() > 0
    assert quantiser.codebooks.grad.abs().sum() > 0
    assert torch.equal(quantiser.eval()(z).rebuilt, hard(z).rebuilt)


def test_detached_codewords_pass_no_gradient():
    quantiser = quantiser_of(ProductQuantiser)
    z = torch.randn(5, 6, requires_grad=True)
    found = quantiser(z).detach()
    assert torch.equal(found.rebuilt, quantiser(z).rebuilt)
    found.straight_through(z).sum().backward()
    assert quantiser.codebooks.grad is None
    assert torch.equal(z.grad, torch.ones_like(z))


def test_distances_stay_in_float32_under_autocast():
    z, _ = clusters(spread=1e-3)
    quantiser = quantiser_of(ResidualQuantiser, z, update="ema")
    plain = quantiser(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantiser(z)
        quantiser.update(cast)
        assert quantiser.loss(z.bfloat16(), cast).dtype == torch.float32
    assert torch.equal(cast.codes, plain.codes)
    assert quantiser.codebooks.dtype == torch.float32


def test_a_catalogue_is_assigned_in_blocks(monkeypatch):
    z, _ = clusters()
    quantiser = quantiser_of(ResidualQuantiser, z)
    monkeypatch.setattr("tesserec.nn.quantisers.BLOCK", 7)
    assert torch.equal(quantiser.assign(z), quantiser(z).codes)


def test_more_levels_than_the_data_can_fill_are_refused_with_the_setting():
    z, _ = clusters(groups=8, spread=0.0)
    with pytest.raises(
        ConfigError, match=r"codebook\.levels = 2.*only 1 distinct residuals for the 8 codes of level 1"
    ):
        quantiser_of(ResidualQuantiser, z)


def test_one_vector_a_cell_is_quantised_without_error():
    z = torch.randn(8, 6)
    quantiser = quantiser_of(ResidualQuantiser, z, levels=1)
    assert torch.allclose(quantiser(z).rebuilt, z, atol=1e-6)
    assert quantiser.restart_dead(z, torch.Generator()) == [0]
