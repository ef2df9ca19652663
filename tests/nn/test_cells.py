"""Cells under a cap: nearest where there is room, never above it, and stable from one epoch to the next."""

import numpy as np
import pytest
import torch

from tesserec.nn.cells import assign_capped, nearest_part, split_cells, start_cells, step_cells


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
    vectors, _, labels = clouds()
    found = start_cells(vectors, 6, cap=40, rng=np.random.default_rng(0))
    assert all(len(labels[found == cell].unique()) == 1 for cell in range(6))
    assert torch.equal(step_cells(vectors, labels, 6, cap=40), labels)


def test_an_empty_cell_starts_again_at_the_item_farthest_out():
    vectors, _, labels = clouds()
    labels = labels.clone()
    labels[labels == 5] = 4  # two clouds in one cell, cell 5 empty
    for _ in range(5):
        labels = step_cells(vectors, labels, 6, cap=60)
    assert torch.bincount(labels, minlength=6).tolist() == [20] * 6


def test_parts_lie_inside_their_cell_and_find_the_clouds_there():
    vectors, _, labels = clouds()
    cells = labels // 2  # two clouds a cell
    parts = split_cells(vectors, cells, 4, 8, np.random.default_rng(0))
    assert torch.equal(parts // 8, cells)
    assert all(len(labels[parts == part].unique()) == 1 for part in parts.unique())


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_every_vector_lies_in_the_nearest_part_of_its_cell(monkeypatch, block):
    monkeypatch.setattr("tesserec.nn.blocks.BLOCK_ITEMS", block)
    vectors, centres, cells = torch.randn(50, 4), torch.randn(5, 3, 4), torch.arange(50) % 5
    centres[2, 1:] = torch.inf
    nearest = [int(torch.cdist(vectors[i : i + 1], centres[cell]).argmin()) for i, cell in enumerate(cells.tolist())]
    assert nearest_part(vectors, cells, centres).tolist() == (3 * cells + torch.tensor(nearest)).tolist()


def test_a_cell_of_fewer_items_than_parts_has_one_in_each_of_some():
    cells = torch.tensor([0, 0, 2, 0, 0, 0, 2])
    parts = split_cells(torch.randn(7, 4), cells, 3, 4, np.random.default_rng(0))
    assert torch.bincount(parts, minlength=12)[8:].sort().values.tolist() == [0, 0, 1, 1]
    assert torch.equal(parts // 4, cells)


def test_a_part_that_was_left_empty_attracts_nothing():
    vectors = torch.full((40, 2), 5.0)
    vectors[7] = 1.0  # nearer to the origin than to the others
    parts = split_cells(vectors, torch.zeros(40, dtype=torch.int64), 1, 2, np.random.default_rng(0))
    assert parts.tolist() == 40 * [0]
