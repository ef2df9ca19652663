"""Does a probability mean what it says? Calibration of the posterior over cells against what users chose next.

Every held-out target is one draw from the posterior of its user. Two errors are told apart: over all (target, cell)
pairs, where tiny probabilities prevail, and for the likeliest cell alone (the usual top-label error). Sums over bins
are additive, so users may come in blocks of any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories
from tesserec.evaluation.metrics import Floats

#: Bins of pairs are even on a logarithmic scale, because most of many cells are improbable.
PAIR_EDGES = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 21)])
TOP_EDGES = np.linspace(0.0, 1.0, 16)
LEAST = 1e-12
"""Probabilities below count as this in the log-likelihood, and such targets as ruled out."""


@dataclass(frozen=True)
class Bins:
    """Predictions gathered by their probability: how many, what they promised, what came true, ``(bins,)`` each."""

    count: Floats
    promised: Floats
    true: Floats

    @classmethod
    def tally(cls, probability: Floats, count: Floats, true: Floats, edges: Floats) -> Self:
        """Sort predictions into bins.

        Parameters
        ----------
        probability, count, true
            Probability of each prediction, how often it was made and how often it came true, ``(predictions,)`` each.
        edges
            Rising, from 0 to 1; a bin holds its upper edge.
        """
        place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, len(edges) - 2)
        bins = len(edges) - 1
        weights = (count, count * probability, true)
        return cls(*(np.bincount(place, weight, bins).astype(np.float64) for weight in weights))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.promised + other.promised, self.true + other.true)

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap between promise and truth, bins weighted by their predictions."""
        return float(np.abs(self.promised - self.true).sum() / self.count.sum())

    def curve(self) -> dict[str, list[float]]:
        """Of each bin with predictions: mean probability, share that came true, and how many predictions."""
        used = self.count > 0
        count = self.count[used]
        shares = {"probability": self.promised[used] / count, "true": self.true[used] / count, "count": count}
        return {name: values.tolist() for name, values in shares.items()}


@dataclass(frozen=True)
class Calibration:
    """What a block of users says about the posterior; blocks are added up.

    Attributes
    ----------
    pairs
        All pairs of a target and a cell.
    top
        The likeliest cell of each target's user.
    targets, ruled_out
        How many targets there are, and how many of them lie in a cell to which the posterior gives nothing.
    log_loss, brier
        Sums over targets of ``-log p(cell)`` and of the squared error over all cells.
    """

    pairs: Bins
    top: Bins
    targets: int
    ruled_out: int
    log_loss: float
    brier: float

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in Calibration.__dataclass_fields__))

    def figures(self) -> dict[str, float]:
        """The numbers by name.

        ``ece`` is over pairs; ``misplaced`` is half its sum over the cells, between 0 and 1: the probability mass that
        the bins show in the wrong place, comparable between codebooks of different size. ``ece_top``,
        ``confidence_top`` and ``accuracy_top`` are of the likeliest cell; ``nll`` (nats) and ``brier`` are means over
        targets. A target that the posterior rules out, as a truncated one may, adds no more than ``-log(1e-12)`` to
        ``nll``; where ``ruled_out``, the share of such targets, is not small, ``nll`` says little else.
        """
        cells = self.pairs.count.sum() / self.targets
        return {
            "ece": self.pairs.error,
            "misplaced": self.pairs.error * float(cells) / 2,
            "ece_top": self.top.error,
            "confidence_top": float(self.top.promised.sum()) / self.targets,
            "accuracy_top": float(self.top.true.sum()) / self.targets,
            "nll": self.log_loss / self.targets,
            "ruled_out": self.ruled_out / self.targets,
            "brier": self.brier / self.targets,
        }


def calibration(
    posterior: NDArray[np.floating[Any]], cell_of: NDArray[np.integer[Any]], targets: Histories
) -> Calibration:
    """Hold the posterior of a block of users against their targets.

    Parameters
    ----------
    posterior
        ``p(cell | history)``, ``(users, cells)``.
    cell_of
        Cell of each item, ``(items,)``.
    targets
        One row a user; every target counts, a repeated one each time.
    """
    chance = np.asarray(posterior, np.float64)
    users, cells = chance.shape
    flat = targets.compact()
    user, cell = np.repeat(np.arange(users), flat.lengths), cell_of[flat.values]
    chosen = np.bincount(user * cells + cell, minlength=users * cells).reshape(users, cells).astype(np.float64)
    draws = flat.lengths.astype(np.float64)
    top = chance.argmax(axis=1)
    rows = np.arange(users)
    of_target = chance[user, cell]
    return Calibration(
        pairs=Bins.tally(chance.ravel(), np.repeat(draws, cells), chosen.ravel(), PAIR_EDGES),
        top=Bins.tally(chance[rows, top], draws, chosen[rows, top], TOP_EDGES),
        targets=len(user),
        ruled_out=int((of_target < LEAST).sum()),
        log_loss=float(-np.log(np.maximum(of_target, LEAST)).sum()),
        brier=float(((chance**2).sum(axis=1)[user] - 2 * of_target + 1).sum()),
    )
