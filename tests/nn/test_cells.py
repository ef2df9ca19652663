"""Cells under a cap: nearest where there is room, never above it, and stable from one epoch to the next."""

import numpy as np
import torch

from tesserec.nn.cells import assign_capped, start_cells, step_cells


def clouds(seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(6, 4, generator=generator)
    labels = torch.arange(120) % 6
    return centres[labels] + 0.2 * torch.randn(120, 4, generator=generator), centres, labels


def test_with_room_enough_every_vector_goes_to_its_nearest_centre():
    vectors, centres = torch.randn(200, 4), torch.randn(10, 4)
    nearest = torch.cdist(vectors, centres).argmin(1)
    assert torch.equal(assign_capped(vectors, centres, cap=200, block=30), nearest)


def test_no_cell_is_above_the_cap_and_the_nearest_stay():
    torch.manual_seed(0)
    vectors, centres = torch.randn(200, 4), torch.randn(20, 4)
    distances = torch.cdist(vectors, centres)
    wanted = distances.argmin(1)
    cells = assign_capped(vectors, centres, cap=10)
    assert torch.equal(torch.bincount(cells, minlength=20), torch.full((20,), 10))
    for cell in torch.nonzero(torch.bincount(wanted) > 10)[:, 0]:
        nearest = distances[wanted == cell, cell].sort().values
        assert torch.allclose(distances[cells == cell, cell].sort().values, nearest[:10])


def test_a_start_and_a_step_find_planted_clouds_and_a_step_leaves_found_ones_alone():
    vectors, centres, labels = clouds()
    found = start_cells(vectors, 6, cap=40, rng=np.random.default_rng(0))
    assert all(len(labels[found == cell].unique()) == 1 for cell in range(6))
    assert torch.equal(step_cells(vectors, labels, centres, cap=40), labels)


def test_an_empty_cell_starts_again_at_the_item_farthest_out():
    vectors, centres, labels = clouds()
    labels = labels.clone()
    labels[labels == 5] = 4  # two clouds in one cell, cell 5 empty
    for _ in range(5):
        labels = step_cells(vectors, labels, centres, cap=60)
    assert torch.bincount(labels, minlength=6).tolist() == [20] * 6
