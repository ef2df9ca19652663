"""In which order cells are visited for a recall target, and when the search has seen enough.

A cell is worth visiting if the posterior says so, or if it lies where the user's vectors point. Both in one number:

    ``order_c = max_j (q_j . centre_c + added_j + 4 |q_j| spread_c) + weight log p(c | user)``

The maximum is about the best value that an item of the cell may have: the centre is the mean of the cell's vectors,
the spread their root mean square distance from it in one coordinate. Cells come in falling order, and the search ends
at the first whose order lies more than ``slack`` below the k-th best value found so far. It therefore goes on for as
long as a longer list, or a filter that leaves little, makes it; weight and slack were measured on validation histories
(:mod:`tesserec.index.calibration`). Ours; ending at a bound is the threshold algorithm of Fagin et al. (PODS 2001),
here with an estimate in the place of the bound, so an answer is certified only if it left no item out.

Centre and spread lie in one row of 8 bits, the vector of a query is followed by ``4 |q_j|``, and the upper bound of
their product (:mod:`tesserec.index.tiles`) is the maximum above.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tesserec.data.histories import Ints
from tesserec.index.kernels import kernel
from tesserec.index.scan import frozen_tiles, highest
from tesserec.index.tiles import Doubles, Floats, Tiles, make_tiles
from tesserec.index.topk import frozen

_REACH = 4.0
_STEPS = 4096
_LEAST = 1e-12
_BITS_OF_1, _LOG_OF_BIT = 0x3F800000, np.log(2) / (1 << 23)


class Order(NamedTuple):
    """What the posterior weighs beside the place of a cell, and how far below the k-th best value cells are tried."""

    weight: float
    slack: float


class Places(NamedTuple):
    """Where cells lie: ``rows`` holds centre and spread of each, ``longest`` is the length of the longest row."""

    rows: Tiles
    longest: float


def make_places(vectors: Floats, offsets: Ints) -> Places:
    """Centres and spreads of cells; an empty cell lies at the origin."""
    rows = _centres_and_spreads(frozen(vectors), frozen(offsets))
    longest = float(np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)).max(initial=0))
    return Places(frozen_tiles(make_tiles(rows, np.array([0, len(rows)]))), longest)


def heights(places: Places, cells: int, queries: Floats, added: Doubles) -> Floats:
    """About the best value that the items of each cell may have, float32 ``(cells,)``."""
    lengths = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    asked = np.hstack([queries, _REACH * lengths])
    return highest(places.rows, places.longest, asked, added)[:cells]


@kernel
def orders(heights: Floats, posterior: Floats, weight: float) -> Floats:
    """The number that cells are ordered by, float32 ``(cells,)``.

    Logarithms are read from the bits, in straight lines between powers of two, at most 0.06 off.
    """
    out = np.empty(len(heights), np.float32)
    for cell in range(len(out)):
        bits = np.int32(np.float32(max(posterior[cell], _LEAST)).view(np.int32) - _BITS_OF_1)
        out[cell] = heights[cell] + np.float32(weight * (bits * _LOG_OF_BIT))
    return out


@kernel
def cells_in_falling_order(order: Floats, sizes: Ints, slack: float, max_items: int) -> tuple[Ints, Floats]:
    """Cells that hold items, in falling order, and where each stops the search.

    Orders are rounded up to one of 4,096 steps, so nothing is sorted; cells of a step come by number.

    Parameters
    ----------
    sizes
        Items of each cell.
    max_items
        End before the cell, but the first, that exceeds so many; below zero is no cap.
    """
    low, top = np.float32(np.inf), np.float32(-np.inf)
    for cell in range(len(order)):
        if sizes[cell] > 0:
            low, top = min(low, order[cell]), max(top, order[cell])
    step, margin = np.float32((top - low) / _STEPS), np.float32(slack)
    steps = np.float32(1) / step if step > 0 else np.float32(0)
    down, places = np.empty(len(order), np.int32), np.zeros(_STEPS + 2, np.int64)
    for cell in range(len(order)):
        down[cell] = min(np.int32((top - order[cell]) * steps), np.int32(_STEPS)) if sizes[cell] > 0 else -1
        places[down[cell] + 1] += 1
    places[0] = 0  # which counted the empty cells
    places = np.cumsum(places)
    cells, stops = np.empty(places[-1], np.int64), np.empty(places[-1], np.float32)
    for cell in range(len(order)):
        if down[cell] >= 0:
            at = places[down[cell]]
            cells[at], stops[at] = cell, top - np.float32(down[cell]) * step + margin
            places[down[cell]] = at + 1
    if max_items >= 0:
        items = 0
        for i in range(len(cells)):
            items += sizes[cells[i]]
            if i > 0 and items > max_items:
                return cells[:i], stops[:i]
    return cells, stops


@kernel
def _centres_and_spreads(vectors: Floats, offsets: Ints) -> Floats:
    cells, dim = len(offsets) - 1, vectors.shape[1]
    rows = np.zeros((cells, dim + 1), np.float32)
    for cell in range(cells):
        first, last = offsets[cell], offsets[cell + 1]
        centre, squares = np.zeros(dim), 0.0
        for row in range(first, last):
            for i in range(dim):
                centre[i] += vectors[row, i]
        centre /= max(last - first, 1)
        for row in range(first, last):
            for i in range(dim):
                squares += (vectors[row, i] - centre[i]) ** 2
        rows[cell, :dim] = centre
        rows[cell, dim] = np.sqrt(squares / (dim * max(last - first, 1)))
    return rows
