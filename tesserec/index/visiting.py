"""Which cells a search visits, by falling posterior, and what it leaves out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints
from tesserec.index.contract import Floats, Policy, Visits
from tesserec.index.kernels import kernel
from tesserec.index.postings import VectorPostings


def known_cells(postings: VectorPostings, histories: Histories) -> NDArray[np.bool_]:
    """Cells that hold an item of the history, ``(users, cells)``."""
    known = np.zeros((len(histories), postings.cells), np.bool_)
    flat = histories.compact()
    known[np.repeat(np.arange(len(flat)), flat.lengths), postings.cells_of(flat.values)] = True
    return known


def mass_before(posterior: Floats) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells in falling probability, and the mass of those before each, ``(users, cells)``."""
    order = np.argsort(-posterior, axis=1, kind="stable")
    mass = np.cumsum(np.take_along_axis(posterior, order, axis=1), axis=1, dtype=np.float64)
    return order, np.hstack([np.zeros((len(posterior), 1)), mass[:, :-1]])


def cells_to_visit(posterior: Floats, postings: VectorPostings, policy: Policy) -> NDArray[np.bool_]:
    """Cells that a policy visits, ``(users, cells)``."""
    if postings.cells == 1:
        return np.ones(posterior.shape, np.bool_)
    return visited_cells(posterior, policy.visit, postings.sizes, policy.max_items)


def visited_cells(
    posterior: Floats, visit: float, sizes: NDArray[np.int64] | None = None, max_items: int | None = None
) -> NDArray[np.bool_]:
    """The likeliest cells that together reach the posterior mass ``visit``, at least one, ``(users, cells)``.

    A mass of 1 visits every cell, those of probability zero too. ``max_items`` stops before the cell, of ``sizes``
    items, that would exceed it.
    """
    if visit >= 1.0 and max_items is None:
        return np.ones(posterior.shape, np.bool_)
    order, before = mass_before(posterior)
    chosen = (before < visit) | (visit >= 1.0)
    if max_items is not None:
        assert sizes is not None
        chosen &= np.cumsum(sizes[order], axis=1) <= max_items
    chosen[:, 0] = True
    visited = np.zeros(posterior.shape, np.bool_)
    np.put_along_axis(visited, order, chosen, axis=1)
    return visited


@kernel
def cells_in_order(posterior: Floats, visit: float, first: int) -> Ints:
    """Likeliest cells until their mass reaches ``visit``; equally likely ones by number.

    ``first`` of them are singled out before sorting, twice as many each time that they do not suffice.
    """
    n = len(posterior)
    while True:
        first = min(first, n)
        bar = np.float32(-1.0) if first == n else np.partition(posterior, n - first)[n - first]
        likely = np.flatnonzero(posterior >= bar)
        likely = likely[np.argsort(-posterior[likely], kind="mergesort")]
        mass = 0.0
        for i in range(len(likely)):
            if mass >= visit and i > 0:
                return likely[:i]
            mass += posterior[likely[i]]
        if first == n or (mass >= visit):
            return likely
        first *= 4


def visits_of(posterior: Floats, visited: NDArray[np.bool_], sizes: NDArray[np.int64]) -> Visits:
    """What a search of the visited cells ``(users, cells)`` touches; it is certified if it leaves no item out."""
    if len(sizes) == 1:  # codes are slots: all of their mass lies in the one cell
        return Visits.complete(len(visited), 1, int(sizes.sum()))
    left = np.where(visited, 0.0, posterior).sum(axis=1)
    everything: NDArray[np.bool_] = np.all(visited | (sizes == 0), axis=1, keepdims=False)
    return Visits(everything, visited.sum(axis=1), visited @ sizes, np.asarray(left, np.float32))
