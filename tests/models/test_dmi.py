"""DMI: what refinement reads, what moves what, and that it brings interests back from noise."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tesserec.index.catalogue import Catalogue
from tesserec.models.dmi import Dmi, DmiConfig, DmiNetwork, standardised
from tesserec.models.neural import FitTask
from tesserec.nn.diffusion import noised
from tests.models.exports import PLAIN, assert_exported
from tests.models.worlds import SMALL, dataset, fitted


def network(**settings):
    """A network whose denoiser says something."""
    torch.manual_seed(0)
    model = DmiNetwork(len(dataset().items), DmiConfig.model_validate(SMALL | settings), None).eval()
    torch.nn.init.normal_(model.denoiser.mlp[-1].weight, std=0.3)
    return model


def causal(length):
    return torch.ones(1, length, length, dtype=torch.bool).tril()


@pytest.mark.parametrize("settings", [{}, {"prune": 0.5}, {"interests": 1}, {"steps": 3}])
def test_every_prefix_gets_the_interests_of_the_row_cut_there(settings):
    model, states = network(**settings), torch.randn(3, 9, 16)
    every = model.extract(states, causal(9))
    for length in (1, 2, 5, 9):
        cut = model.extract(states[:, :length], torch.ones(1, 1, length, dtype=torch.bool))
        assert torch.allclose(every[:, length - 1], cut[:, 0], atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"prune": 0.5}])
def test_padding_changes_no_interest_and_serving_knows_no_chance(settings):
    model, vectors = network(**settings), torch.randn(2, 5, 16)
    padded = torch.cat([vectors, torch.randn(2, 4, 16)], 1)
    _, alone = model.encode(vectors, torch.tensor([5, 3]))
    _, among = model.encode(padded, torch.tensor([5, 3]))
    assert torch.allclose(alone, among, atol=1e-5)
    assert torch.equal(alone, model.encode(vectors, torch.tensor([5, 3]))[1])


def test_a_fresh_model_searches_with_the_extracted_interests():
    model, states = network(), torch.randn(2, 7, 16)
    torch.nn.init.zeros_(model.denoiser.mlp[-1].weight)
    coarse, _ = model.coarse(states, causal(7))
    assert torch.allclose(model.user(model.extract(states, causal(7))), model.user(coarse), atol=1e-5)


def test_a_pruned_item_is_not_read_by_the_denoiser():
    model, states = network(prune=0.9), torch.randn(1, 6, 16)
    every = torch.ones(1, 1, 6, dtype=torch.bool)
    coarse, weights = model.coarse(states, every)
    weak = weights[0, 0, 0] < 0.9 * weights[0, 0, 0].max()
    assert weak.any()
    level = torch.full((1, 1, 1), 3)
    before = model.denoise(coarse, level, states, weights)
    changed = torch.where(weak[:, None], -states, states)
    assert torch.allclose(before[:, :, 0], model.denoise(coarse, level, changed, weights)[:, :, 0], atol=1e-5)
    open_to_all = network(prune=0.0)
    assert not torch.allclose(
        open_to_all.denoise(coarse, level, states, weights)[:, :, 0],
        open_to_all.denoise(coarse, level, changed, weights)[:, :, 0],
        atol=1e-3,
    )


@pytest.mark.deep
def test_pruning_and_several_steps_are_exported(tmp_path):
    assert_exported(network(encoder=PLAIN, prune=0.5, steps=2), tmp_path, atol=1e-3)


def gradients(**weights):
    model = Dmi(DmiConfig.model_validate(SMALL | {"weights": weights}))
    model.catalogue = Catalogue.from_dataset(dataset())
    model.network = network(weights=weights).train()
    task = FitTask(model, dataset(), 0)
    torch.manual_seed(1)
    terms = task.losses(next(task.batches.epoch(0)), 1.0)
    sum(terms.values()).backward()
    moved = {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
    return terms, moved


@pytest.mark.parametrize(
    ("term", "tensor"),
    [
        ("softmax", "denoiser.mlp.0.weight"),
        ("coarse", "attention.out.weight"),
        ("reconstruction", "denoiser.mlp.0.weight"),
    ],
)
def test_every_weight_changes_the_gradient_of_the_tensor_it_names(term, tensor):
    off = {"softmax": 1.0, "coarse": 0.0, "reconstruction": 0.0}
    _, base = gradients(**off)
    (terms, once), (_, twice) = gradients(**off | {term: off[term] + 1.0}), gradients(**off | {term: off[term] + 2.0})
    assert term in terms
    step = once[tensor] - base[tensor]
    assert step.abs().sum() > 0
    assert torch.allclose(twice[tensor] - once[tensor], step, rtol=1e-3, atol=1e-5)


def test_terms_of_weight_zero_are_left_out():
    terms, _ = gradients(coarse=0.0, reconstruction=0.0)
    assert list(terms) == ["softmax"]


def test_refinement_brings_interests_back_from_noise():
    side, histories = fitted("dmi").searcher.side, dataset().test.histories.take(np.arange(200)).last(10)
    model, lengths = side.network, torch.from_numpy(np.ascontiguousarray(histories.lengths))
    with torch.no_grad():
        states = model.states(side.vectors[torch.from_numpy(histories.padded(0))])
        coarse, weights = model.coarse(states, (torch.arange(states.shape[1]) < lengths[:, None])[:, None])
        clean, start = standardised(coarse), model.config.start
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
        noisy = noised(clean, noise, model.denoiser.signal[start])
        found = model.denoise(noisy, torch.full((1, 1, 1), start), states, weights)
    before, after = (torch.cosine_similarity(vectors, clean, dim=-1).mean() for vectors in (noisy, found))
    assert after > before + 0.02


def test_a_path_that_cannot_be_walked_is_refused():
    with pytest.raises(ValidationError, match=r"steps = 4, start = 3.*choose steps <= start <= levels"):
        DmiConfig(start=3, steps=4)
    with pytest.raises(ValidationError, match=r"start = 9, levels = 8"):
        DmiConfig(start=9, levels=8)
