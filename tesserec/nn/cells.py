"""Cells of the catalogue: every item in exactly one, none above a cap, and identities that outlive a move of items.

A cell's centre is the mean of its items. Lloyd steps from the present centres keep what a cell stands for, while items
change over to where they belong by now. Inside a cell items may lie in parts, which have no identity to keep.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tesserec.nn.blocks import by_blocks
from tesserec.nn.quantisers import KMEANS_POINTS_PER_CODE, kmeans

CANDIDATES = 8
"""Nearest cells that an item tries in turn while they are full."""


SPLIT_ROUNDS = 10
"""Lloyd steps that make parts of a cell."""


@torch.no_grad()
def start_cells(vectors: Tensor, cells: int, cap: int, rng: np.random.Generator) -> Tensor:
    """Cells of vectors ``(rows, dim)`` by k-means on a sample, then assignment under the cap, ``(rows,)``."""
    size = min(len(vectors), KMEANS_POINTS_PER_CODE * cells)
    sample = vectors[torch.from_numpy(rng.choice(len(vectors), size, replace=False)).to(vectors.device)]
    centres = torch.from_numpy(kmeans(sample.float().cpu().numpy(), cells, rng)).to(vectors)
    return step_cells(vectors, assign_capped(vectors, centres, cap), cells, cap)


@torch.no_grad()
def step_cells(vectors: Tensor, cells: Tensor, n_cells: int, cap: int) -> Tensor:
    """Cells after one Lloyd step; an empty one starts again at the item that lies farthest out of its own.

    Parameters
    ----------
    vectors
        ``(rows, dim)``.
    cells
        Present cell of each, ``(rows,)``.
    n_cells
        Cells.
    cap
        Vectors a cell at most.
    """
    sizes = torch.bincount(cells, minlength=n_cells)
    sums = vectors.new_zeros(n_cells, vectors.shape[1]).index_add_(0, cells, vectors)
    means = sums / sizes.clamp(min=1)[:, None]
    empty = torch.nonzero(sizes == 0)[:, 0]
    means[empty] = vectors[(vectors - means[cells]).square().sum(-1).topk(len(empty)).indices]
    return assign_capped(vectors, means, cap)


@torch.no_grad()
def assign_capped(vectors: Tensor, centres: Tensor, cap: int, block: int = 65_536) -> Tensor:
    """The nearest centre of each vector that has room for it, ``(rows,)``.

    Where more than ``cap`` vectors want a centre, the nearest stay and the others try their next choice; who finds
    all of the eight nearest full goes to the nearest of those with room.

    Parameters
    ----------
    vectors, centres
        ``(rows, dim)`` and ``(cells, dim)``; ``cells * cap`` must be at least ``rows``.
    cap
        Vectors a cell at most.
    """
    tries = min(CANDIDATES, len(centres))
    near = [torch.topk(torch.cdist(part, centres), tries, largest=False) for part in torch.split(vectors, block)]
    distances, choices = torch.cat([n.values for n in near]), torch.cat([n.indices for n in near])
    cells = torch.full((len(vectors),), -1, device=vectors.device)
    room = torch.full((len(centres),), cap, device=vectors.device)
    for attempt in range(tries):
        left = torch.nonzero(cells < 0)[:, 0]
        admitted = _admit(choices[left, attempt], distances[left, attempt], room)
        cells[left] = admitted
        room -= torch.bincount(admitted[admitted >= 0], minlength=len(room))
    for row in torch.nonzero(cells < 0)[:, 0].tolist():
        cell = (centres - vectors[row]).norm(dim=-1).masked_fill(room <= 0, torch.inf).argmin()
        cells[row] = cell
        room[cell] -= 1
    return cells


def _admit(wanted: Tensor, distances: Tensor, room: Tensor) -> Tensor:
    """Each row's wanted cell if it is among the nearest rows that fit there, else -1."""
    order = torch.argsort(distances, stable=True)
    order = order[torch.argsort(wanted[order], stable=True)]
    cells = wanted[order]
    rank = torch.arange(len(cells), device=cells.device) - torch.searchsorted(cells, cells)
    fits = rank < room[cells]
    admitted = torch.full_like(wanted, -1)
    admitted[order[fits]] = cells[fits]
    return admitted


@torch.no_grad()
def split_cells(vectors: Tensor, cells: Tensor, n_cells: int, parts: int, rng: np.random.Generator) -> Tensor:
    """Parts inside every cell by k-means from items drawn there, ``(rows,)``: part p of cell c is ``c * parts + p``.

    Parameters
    ----------
    vectors, cells
        ``(rows, dim)`` and the cell of each, ``(rows,)``.
    n_cells, parts
        Cells, and parts of each; a cell of fewer items leaves parts empty.
    rng
        Draws the items.
    """
    drawn = torch.from_numpy(rng.permutation(len(vectors))).to(cells.device)
    drawn = drawn[torch.argsort(cells[drawn], stable=True)]
    first = torch.searchsorted(cells[drawn], cells[drawn])
    rank = torch.arange(len(drawn), device=cells.device) - first
    seeds = drawn[rank < parts]
    centres = vectors.new_full((n_cells * parts, vectors.shape[1]), torch.inf)
    centres[cells[seeds] * parts + rank[rank < parts]] = vectors[seeds]
    for _ in range(SPLIT_ROUNDS):
        part_of = nearest_part(vectors, cells, centres.view(n_cells, parts, -1))
        sums = torch.zeros_like(centres).index_add_(0, part_of, vectors)
        sizes = torch.bincount(part_of, minlength=len(centres))[:, None]
        centres = (sums / sizes).masked_fill_(sizes == 0, torch.inf)
    return part_of


def nearest_part(vectors: Tensor, cells: Tensor, centres: Tensor) -> Tensor:
    """The nearest part of its own cell for each vector, ``(rows,)``, numbered as by :func:`split_cells`.

    Parameters
    ----------
    vectors, cells
        ``(rows, dim)`` and the cell of each, ``(rows,)``.
    centres
        Middles of parts, infinite where there is nothing, ``(cells, parts, dim)``.
    """
    near = [(centres[own] - some[:, None]).square().sum(-1).argmin(1) for some, own in by_blocks(vectors, cells)]
    return cells * centres.shape[1] + torch.cat(near)
