"""In how few cells do a user's best items lie, visited in the order that the posterior gives?

This is what a search by interests can hope for: if the model's own exact best items fill a few likely cells, all other
cells need not be looked at. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Items
from tesserec.evaluation.metrics import Floats

SHARE = 0.99


@dataclass(frozen=True)
class Concentration:
    """Where each user's best items lie; NaN for a user without any.

    Attributes
    ----------
    cells
        Cells visited, in falling posterior, until enough of the best items are found, ``(users,)``.
    items
        Items that lie in these cells, ``(users,)``.
    fewest
        The fewest cells that would do if one knew where to look, ``(users,)``.
    """

    cells: Floats
    items: Floats
    fewest: Floats


def cells_needed(
    posterior: NDArray[np.floating[Any]],
    cell_of: NDArray[np.integer[Any]],
    best: Items,
    share: float = SHARE,
) -> Concentration:
    """Cells to visit until they hold a share of each user's best items.

    Parameters
    ----------
    posterior
        ``(users, cells)``; equal probabilities are visited in order of cell.
    cell_of
        Cell of each item, ``(items,)``.
    best
        The exact best items of each user, ``(users, n)``, -1 where there are fewer.
    share
        Part of the best items to find, rounded up to whole items.
    """
    users, cells = posterior.shape
    filled = best >= 0
    found = filled.sum(axis=1)
    # A product such as 0.99 * 100 may come out a hair above its whole number.
    wanted = np.ceil(share * found - 1e-9).astype(np.int64)
    order = np.argsort(-posterior, axis=1, kind="stable")
    turn = np.empty_like(order)
    np.put_along_axis(turn, order, np.broadcast_to(np.arange(cells), order.shape), axis=1)
    cell = cell_of[np.maximum(best, 0)]
    turns = np.sort(np.where(filled, np.take_along_axis(turn, cell, axis=1), cells), axis=1)
    rows, place = np.arange(users), np.maximum(wanted - 1, 0)
    last = np.minimum(turns[rows, place], cells - 1)
    sizes = np.cumsum(np.bincount(cell_of, minlength=cells)[order], axis=1)
    held = np.bincount((rows[:, None] * cells + cell)[filled], minlength=users * cells).reshape(users, cells)
    covered = np.cumsum(-np.sort(-held, axis=1), axis=1)
    fewest = (covered < wanted[:, None]).sum(axis=1) + 1
    return Concentration(*(np.where(found > 0, value, np.nan) for value in (last + 1, sizes[rows, last], fewest)))
