"""Slices: the users, and the targets, on which averages hide what a retriever cannot do.

``short`` keeps whole users; ``cold`` and ``novel`` keep a user with only those targets that qualify. A user without
a qualifying target is not in the slice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.dataset import Dataset, Part
from tesserec.data.histories import Histories, Ints
from tesserec.errors import UserError

Cells = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Slice:
    """Some rows of a part, with the targets that count there.

    Attributes
    ----------
    rows
        Rows of the part, ``(users,)``.
    targets
        What these users should find, one non-empty row each.
    rule
        What the slice is, in words, with its thresholds.
    """

    rows: Ints
    targets: Histories
    rule: str


@dataclass(frozen=True)
class SliceRules:
    """Thresholds of the slices.

    Attributes
    ----------
    short
        Most events of a short history.
    cold
        An item with fewer training events is cold.
    """

    short: int = 5
    cold: int = 5


def slices(
    dataset: Dataset, part: Part, cells: Cells | None = None, rules: SliceRules | None = None
) -> dict[str, Slice]:
    """The slices of a part: ``short``, ``cold``, and ``novel`` where the item cells are given.

    Parameters
    ----------
    dataset
        Gives the training counts.
    part
        One of its held-out parts.
    cells
        Cell of each item, ``(items,)``.
    rules
        Thresholds.

    Raises
    ------
    UserError
        If ``cells`` does not have one entry an item.
    """
    rules = rules or SliceRules()
    short = np.flatnonzero(part.histories.lengths <= rules.short)
    rare = dataset.item_counts[part.targets.compact().values] < rules.cold
    found = {
        "short": Slice(short, part.targets.take(short), f"histories of at most {rules.short} events"),
        "cold": _of_targets(part.targets, rare, f"targets with fewer than {rules.cold} training events"),
    }
    if cells is not None:
        if cells.shape != (len(dataset.items),):
            raise UserError(f"cells has shape {cells.shape}, expected one cell for each of {len(dataset.items)} items")
        new = novel(part.histories, part.targets, cells)
        found["novel"] = _of_targets(part.targets, new, "targets whose cell holds no item of the history")
    return found


def novel(histories: Histories, targets: Histories, cells: Cells) -> NDArray[np.bool_]:
    """Which targets lie in a cell that the user's history never touched, ``(target events,)``."""
    stride = int(cells.max(initial=0)) + 1
    past, wanted = histories.compact(), targets.compact()
    known = np.repeat(np.arange(len(past)), past.lengths) * stride + cells[past.values]
    asked = np.repeat(np.arange(len(wanted)), wanted.lengths) * stride + cells[wanted.values]
    return np.isin(asked, known, invert=True)


def keep_targets(targets: Histories, keep: NDArray[np.bool_]) -> Histories:
    """The same rows with only the events that ``keep`` (``(target events,)``, in row order) chooses."""
    flat = targets.compact()
    offsets = np.concatenate([[0], np.cumsum(keep)])
    stops = np.cumsum(flat.lengths)
    return Histories(flat.values[keep], offsets[stops - flat.lengths], offsets[stops])


def cells_hash(cells: Cells) -> str:
    """SHA-256 of the cells as little-endian int32; slices by different cells are different slices."""
    return hashlib.sha256(np.ascontiguousarray(cells, dtype="<i4").tobytes()).hexdigest()


def _of_targets(targets: Histories, keep: NDArray[np.bool_], rule: str) -> Slice:
    kept = keep_targets(targets, keep)
    rows = np.flatnonzero(kept.lengths > 0)
    return Slice(rows, kept.take(rows), rule)
