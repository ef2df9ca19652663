"""How much posterior mass a search must visit to find a given share of the exact answer.

Cells are visited in falling probability until their mass reaches ``visit``, so an item of the exact answer is found if
the mass *before* its cell is below ``visit``. The share found at any mass is therefore the distribution of that mass
over the items of exact answers, and the mass for a recall target is its quantile: one exact search of a sample of
validation histories measures every target at once. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Policy

if TYPE_CHECKING:
    from tesserec.index.postings import VectorPostings
    from tesserec.index.searcher import Searcher

RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True)
class Calibration:
    """Mass to visit by share of the exact answer that is found.

    Attributes
    ----------
    recalls, masses
        Rising shares and, for each, the mass that found it on the validation histories.
    k
        Length of the lists that were compared.
    users
        Number of histories.
    """

    recalls: tuple[float, ...]
    masses: tuple[float, ...]
    k: int
    users: int

    def mass_for(self, recall: float) -> float:
        """Mass for a target: that of the next larger share that was measured, and everything beyond the last."""
        at = int(np.searchsorted(self.recalls, recall - 1e-9))
        return self.masses[at] if at < len(self.masses) else 1.0

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {"recalls": list(self.recalls), "masses": list(self.masses), "k": self.k, "users": self.users}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Raises ValueError or KeyError where the facts are none."""
        recalls, masses = tuple(map(float, facts["recalls"])), tuple(map(float, facts["masses"]))
        pairs = np.array([recalls, masses])
        if pairs.ndim != 2 or not np.isfinite(pairs).all() or (np.diff(pairs) < 0).any():
            raise ValueError(f"the calibration has recalls {recalls} and masses {masses}; both must rise")
        return cls(recalls, masses, int(facts["k"]), int(facts["users"]))


def calibrate(searcher: Searcher, histories: Histories, policy: Policy, k: int = 100) -> Calibration:
    """Measure a model on validation histories with an exact search.

    Parameters
    ----------
    searcher
        A model with interests.
    policy
        How it will be asked; its target is ignored.
    k
        Length of the lists.

    Raises
    ------
    ConfigError
        If the model has no interests, or there is no history.
    """
    from dataclasses import replace

    if not searcher.has_interests or len(histories) == 0:
        raise ConfigError("a recall target is calibrated on histories, for models with interests; there are none")
    exact = searcher.retrieve(histories, k, replace(policy, visit=1.0, recall=None, max_items=None))
    before = before_items(searcher, histories, exact.items)
    return from_masses(before, k, len(histories))


def before_items(searcher: Searcher, histories: Histories, items: NDArray[np.int32]) -> NDArray[np.float64]:
    """Mass visited before the cell of each item ``(users, k)``, flat and without the unfilled places."""
    from tesserec.index.visiting import mass_before

    postings: VectorPostings = searcher.postings  # type: ignore[assignment]
    masses = []
    for start in range(0, len(histories), 256):
        part = slice(start, start + 256)
        posterior = searcher.side.encode(histories.take(part)).posterior  # type: ignore[union-attr]
        order, before = mass_before(posterior)
        of_cell = np.empty_like(before)
        np.put_along_axis(of_cell, order, before, axis=1)
        rows, ranks = np.nonzero(items[part] >= 0)
        masses.append(of_cell[rows, postings.cells_of(items[part][rows, ranks])])
    return np.concatenate(masses)


def from_masses(before: NDArray[np.float64], k: int, users: int) -> Calibration:
    """Quantiles of the mass before the cells of answers."""
    rising = np.sort(before)
    at = np.minimum(np.ceil(np.array(RECALLS) * len(rising)).astype(int) - 1, len(rising) - 1)
    masses = np.minimum(np.nextafter(rising[np.maximum(at, 0)], 2), 1.0)  # the cell itself is visited beyond this mass
    return Calibration(RECALLS, tuple(map(float, masses)), k, users)
