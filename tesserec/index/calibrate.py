"""Recall targets: the posterior mass to visit for a share of the exact list, learned from validation users.

An item of the exact list is found by a search of mass ``m`` if the cells likelier than its own hold less than ``m``.
So one exact search gives the recall of every mass (ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.contract import Calibration, Policy, UserSide
from tesserec.index.postings import VectorPostings
from tesserec.index.search import retrieve

TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995)
_BATCH = 256


def calibrate(
    side: UserSide,
    postings: VectorPostings,
    policy: Policy,
    histories: Histories,
    k: int = 100,
    targets: Sequence[float] = TARGETS,
) -> Calibration:
    """The mass to visit for each recall of the exact ``k`` best, on average over users.

    Parameters
    ----------
    policy
        Whose lists are to be found; its exploration is left out.
    histories
        Validation users, as the model sees them. Their own items count as others do.

    Raises
    ------
    ConfigError
        If the model has no cells to leave out, or no user or no proper target was given.
    """
    if postings.cells == 1:
        raise ConfigError("this model has no cells to leave out, so there is no recall to calibrate")
    if len(histories) == 0 or len(targets) == 0 or not all(0 < target <= 1 for target in targets):
        raise ConfigError(f"{len(histories)} users and the recalls {list(targets)}; give users, and shares up to 1")
    whole = replace(policy, visit=1.0, max_items=None, exact=False, recall=None, explore=0.0)
    parts = (histories.take(slice(start, start + _BATCH)) for start in range(0, len(histories), _BATCH))
    before = np.sort(np.concatenate([_mass_before(side, postings, whole, part, k) for part in parts]))
    masses = {}
    for target in targets:
        last = before[max(0, int(np.ceil(target * len(before) - 1e-9)) - 1)]
        masses[float(target)] = float(min(1.0, np.nextafter(last, 2.0)))  # above the mass before the last item needed
    return Calibration(k, masses)


def _mass_before(
    side: UserSide, postings: VectorPostings, policy: Policy, histories: Histories, k: int
) -> NDArray[np.float64]:
    """For each item of the exact lists the mass of the cells that are visited before its own."""
    found = retrieve(side, postings, histories, k, policy, exclude_seen=False).items
    posterior = side.encode(histories).posterior
    order = np.argsort(-posterior, axis=1, kind="stable")
    reached = np.cumsum(np.take_along_axis(posterior, order, axis=1), axis=1, dtype=np.float64)
    before = np.empty_like(reached)
    np.put_along_axis(before, order, np.hstack([np.zeros((len(order), 1)), reached[:, :-1]]), axis=1)
    users, ranks = np.nonzero(found >= 0)
    return np.asarray(before[users, postings.cell_of[found[users, ranks]]])
