"""Which cells a search visits, by falling posterior, and what it leaves out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints
from tesserec.index.contract import Floats, Policy, Visits
from tesserec.index.kernels import index_of, kernel, key_of
from tesserec.index.order import Order, cells_in_falling_order, heights, orders
from tesserec.index.postings import VectorPostings
from tesserec.index.tiles import Doubles
from tesserec.index.topk import frozen

_CLASSES = 1024


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
    visited = np.zeros(posterior.shape, np.bool_)
    sizes = frozen(np.empty(0, np.int64) if sizes is None or max_items is None else sizes)
    mark_visited(frozen(posterior), visit, sizes, -1 if max_items is None else max_items, visited)
    return visited


@kernel
def mark_visited(posterior: Floats, visit: float, sizes: Ints, max_items: int, visited: NDArray[np.bool_]) -> None:
    """Mark the cells that each user visits; ``max_items`` below zero is no cap, and ``sizes`` are then not read."""
    for user in range(len(posterior)):
        if visit >= 1.0 and max_items < 0:
            visited[user] = True
            continue
        items = 0
        for i, cell in enumerate(cells_in_order(posterior[user], visit)):
            if max_items >= 0:
                items += sizes[cell]
                if i > 0 and items > max_items:
                    break
            visited[user, cell] = True


@kernel
def cells_in_order(posterior: Floats, visit: float) -> Ints:
    """Likeliest cells until their mass reaches ``visit``, all from 1 on; equally likely ones by number.

    Masses are first added up by size class, so that only cells of the classes that are needed are sorted.
    """
    n = len(posterior)
    masses = np.zeros(_CLASSES, np.float64)
    for cell in range(n):
        masses[_class_of(posterior[cell])] += posterior[cell]
    least, mass = _CLASSES - 1, masses[_CLASSES - 1]
    while True:
        while least > 0 and (visit >= 1.0 or mass < visit or mass <= 0.0):
            least -= 1
            mass += masses[least]
        likely, found = np.empty(n, np.int64), 0
        for cell in range(n):
            if _class_of(posterior[cell]) >= least:
                likely[found] = ~key_of(posterior[cell], cell)
                found += 1
        likely = likely[:found]
        likely.sort()  # rising complements are falling keys
        for i in range(found):
            likely[i] = index_of(~likely[i])
        if visit >= 1.0:
            return likely
        mass = 0.0
        for i in range(found):
            if mass >= visit and i > 0:
                return likely[:i]
            mass += posterior[likely[i]]
        if mass >= visit or least == 0:  # sums in another order may differ in the last place
            return likely


def in_falling_probability(posterior: Floats, visited: NDArray[np.bool_]) -> Ints:
    """The visited cells of a user, likeliest first."""
    cells = np.flatnonzero(visited)
    return np.asarray(cells[np.argsort(-posterior[cells], kind="stable")])


def in_order(
    postings: VectorPostings, queries: Floats, added: Doubles, posterior: Floats, order: Order, max_items: int | None
) -> tuple[Ints, Floats]:
    """Cells by posterior and place, and where each stops the search; see :mod:`tesserec.index.order`."""
    near = heights(postings.places, postings.cells, queries, added)
    if postings.delta is not None:  # new items of a cell that had none may lie anywhere
        near[np.diff(postings.offsets) == 0] = near.max()
    cap, number = -1 if max_items is None else max_items, orders(near, frozen(posterior), order.weight)
    cells, stops = cells_in_falling_order(number, frozen(postings.sizes), order.slack, cap)
    return cells, stops


@kernel
def _class_of(probability: float) -> int:
    """Exponent and three bits of the mantissa: numbers that rise with the probability, below ``_CLASSES``."""
    number = int(np.float32(probability).view(np.int32) >> 20)
    return number if number < _CLASSES else _CLASSES - 1


def visits_of(posterior: Floats, visited: NDArray[np.bool_], sizes: Ints, *, by_place: bool = False) -> Visits:
    """What a search of the visited cells ``(users, cells)`` touches; it is certified if it leaves no item out."""
    if len(sizes) == 1:  # codes are slots: all of their mass lies in the one cell
        return Visits.complete(len(visited), 1, int(sizes.sum()))
    left = np.where(visited, 0.0, posterior).sum(axis=1)
    everything: NDArray[np.bool_] = np.all(visited | (sizes == 0), axis=1, keepdims=False)
    placed = np.full(len(visited), by_place)
    return Visits(everything, visited.sum(axis=1), visited @ sizes, np.asarray(left, np.float32), placed)
