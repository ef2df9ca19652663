"""Cells of the catalogue: every item in exactly one, none above a cap, and identities that outlive a move of items.

A cell's centre is the mean of its items. Lloyd steps from the present centres keep what a cell stands for, while items
change over to where they belong by now.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tesserec.nn.quantisers import KMEANS_POINTS_PER_CODE, kmeans

CANDIDATES = 8
"""Nearest cells that an item tries in turn while they are full."""


def members(owner: Tensor, owners: int, most: int) -> Tensor:
    """What each owner has, ``(owners, most)``, from the owner of each ``(rows,)``; padded with the number of rows."""
    order = torch.argsort(owner, stable=True)
    sizes = torch.bincount(owner, minlength=owners)
    rank = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner[order]]
    found = torch.full((owners, most), len(owner), device=owner.device)
    found[owner[order], rank] = order
    return found


@torch.no_grad()
def start_cells(vectors: Tensor, cells: int, cap: int, rng: np.random.Generator) -> Tensor:
    """Cells of vectors ``(rows, dim)`` by k-means on a sample, then assignment under the cap, ``(rows,)``."""
    size = min(len(vectors), KMEANS_POINTS_PER_CODE * cells)
    sample = vectors[torch.from_numpy(rng.choice(len(vectors), size, replace=False)).to(vectors.device)]
    centres = torch.from_numpy(kmeans(sample.float().cpu().numpy(), cells, rng)).to(vectors)
    return step_cells(vectors, assign_capped(vectors, centres, cap), centres, cap)


@torch.no_grad()
def step_cells(vectors: Tensor, cells: Tensor, centres: Tensor, cap: int) -> Tensor:
    """Cells after one Lloyd step; an empty one starts again at the item that lies farthest out of its own.

    Parameters
    ----------
    vectors
        ``(rows, dim)``.
    cells
        Present cell of each, ``(rows,)``.
    centres
        ``(cells, dim)``; read for its size alone where no cell is empty.
    cap
        Vectors a cell at most.
    """
    sizes = torch.bincount(cells, minlength=len(centres))
    sums = torch.zeros_like(centres).index_add(0, cells, vectors)
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
