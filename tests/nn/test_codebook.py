"""A codebook that loses its codes is warned of while it happens and refused at the end."""

import numpy as np
import pytest
import torch

from tesserec.errors import TrainingRefused
from tesserec.nn.codebook import CodebookWarning, codebook_health, upkeep
from tesserec.nn.quantisers import CodebookConfig, ResidualQuantiser


def used(codes, of=40):
    """A codebook of ``of`` codes and vectors that use ``codes`` of them evenly."""
    quantiser = ResidualQuantiser(CodebookConfig(levels=1, codes=of), dim=2)
    quantiser.codebooks.data[0, :, 0] = torch.arange(of, dtype=torch.float)
    quantiser.codebooks.data[0, :, 1] = 0.0
    vectors = torch.zeros(codes * 30, 2)
    vectors[:, 0] = torch.arange(codes).repeat(30)
    return quantiser, vectors + 0.01 * torch.randn(codes * 30, 2, generator=torch.Generator().manual_seed(0))


def test_health_by_hand():
    even, one = np.arange(8) % 4, np.zeros(8, int)
    figures = codebook_health(np.stack([even, one], axis=1), 5)
    assert figures[0].perplexity == pytest.approx(4.0)
    assert (figures[0].dead, figures[1].dead) == (1, 4)
    assert figures[1].perplexity == pytest.approx(1.0)


def test_a_healthy_codebook_passes_with_its_figures_and_dead_codes_restart():
    quantiser, z = used(36)
    rows = upkeep(quantiser, z, epoch=0, seed=0)
    assert rows["codebook/perplexity/0"] == pytest.approx(36.0)
    assert rows["codebook/dead/0"] == rows["codebook/restarted/0"] == 4
    assert upkeep(quantiser, z, epoch=1, seed=0)["codebook/dead/0"] <= 1


@pytest.mark.parametrize(("codes", "of"), [(7, 40), (30, 40)], ids=["perplexity", "dead"])
def test_a_collapsing_codebook_is_warned_of_with_level_figure_and_threshold(codes, of):
    quantiser, z = used(codes, of)
    text = rf"epoch 3: level 0 uses {codes}\.0 of 40 codes.*{of - codes} of them are dead.*below 8 or above 8, refused"
    with pytest.warns(CodebookWarning, match=text):
        upkeep(quantiser, z, epoch=2, seed=0)


def test_a_collapsed_codebook_ends_the_run():
    quantiser, z = used(1)
    with pytest.raises(TrainingRefused, match=r"collapsed in epoch 3: level 0 uses 1\.0 of 40 codes"):
        upkeep(quantiser, z, epoch=2, seed=0)


def test_restarts_follow_from_seed_and_epoch():
    found = []
    for seed, epoch in ((1, 0), (1, 0), (1, 1)):
        quantiser, z = used(36)
        upkeep(quantiser, z, epoch, seed)
        found.append(quantiser.codebooks.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
