"""What a search must visit to find a given share of the exact answer, measured on validation histories.

Cells in falling probability are visited until their mass reaches ``visit``, so an item of the exact answer is found if
the mass *before* its cell is below ``visit``. Cells by posterior and place (:mod:`tesserec.index.order`) are visited
until one lies more than the slack below the k-th best value, so an item is found if its cell does not. Either way the
share found is the distribution of one number over the items of exact answers, and what a recall target takes is its
quantile: one exact search of a sample of histories measures every target at once. The way that visits fewer items at a
recall of 0.99 is taken; slacks are then refined by searching. Ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories, Ints
from tesserec.errors import ConfigError
from tesserec.index.contract import Candidates, Codes, Encoded, Floats, Policy
from tesserec.index.interests import choose
from tesserec.index.merge import log_chances
from tesserec.index.order import Order, heights, orders
from tesserec.index.topk import frozen
from tesserec.index.visiting import known_cells, mass_before

if TYPE_CHECKING:
    from tesserec.index.postings import VectorPostings
    from tesserec.index.searcher import Searcher

RECALLS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_COMPARED = RECALLS.index(0.99)
_WEIGHTS = (0.0, 0.1, 0.2, 0.4, 0.8)
_BLOCK, _ROUNDS = 256, 3


@dataclass(frozen=True)
class Calibration:
    """Mass, or slack, by share of the exact answer that is found.

    Attributes
    ----------
    recalls, masses
        Rising shares and, for each, the mass that found it on the validation histories.
    k
        Length of the lists that were compared.
    users
        Number of histories.
    weight, slacks
        The order of cells by posterior and place that visits fewer items, and for each share its slack; no slacks where
        the order by falling probability does.
    """

    recalls: tuple[float, ...]
    masses: tuple[float, ...]
    k: int
    users: int
    weight: float = 0.0
    slacks: tuple[float, ...] = ()

    def mass_for(self, recall: float) -> float:
        """Mass for a target: that of the next larger share that was measured, and everything beyond the last."""
        at = self._at(recall)
        return self.masses[at] if at < len(self.masses) else 1.0

    def order_for(self, recall: float) -> Order | None:
        """Order of visiting for a target; None where the mass decides."""
        at = self._at(recall)
        return Order(self.weight, self.slacks[at]) if at < len(self.slacks) else None

    def _at(self, recall: float) -> int:
        return int(np.searchsorted(self.recalls, recall - 1e-9))

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Self:
        """Raises ValueError or KeyError where the facts are none."""
        recalls, masses = tuple(map(float, facts["recalls"])), tuple(map(float, facts["masses"]))
        weight, slacks = float(facts["weight"]), tuple(map(float, facts["slacks"]))
        rows = np.array([recalls, masses, slacks or masses])
        if rows.ndim != 2 or not np.isfinite(rows).all() or (np.diff(rows) < 0).any() or not np.isfinite(weight):
            raise ValueError(
                f"the calibration has recalls {recalls}, masses {masses} and slacks {slacks}; all must rise"
            )
        return cls(recalls, masses, int(facts["k"]), int(facts["users"]), weight, slacks)


class Measured(NamedTuple):
    """Exact answers of some users and how the cells look from them.

    Attributes
    ----------
    posterior, heights
        ``(users, cells)``; see :func:`tesserec.index.order.heights`.
    cells
        Cell of each item of the answers, -1 where there is none, ``(users, k)``.
    worst
        Value of the last item, ``(users,)``.
    """

    posterior: Floats
    heights: Floats
    cells: NDArray[np.int32]
    worst: Floats


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
    if not searcher.has_interests or len(histories) == 0:
        raise ConfigError("a recall target is calibrated on histories, for models with interests; there are none")
    everything = replace(policy, visit=1.0, recall=None, max_items=None)
    from tesserec.index.searcher import Searcher

    postings: VectorPostings = searcher.postings  # type: ignore[assignment]
    searcher = Searcher(searcher.catalogue, _Once(searcher.side), postings, searcher.policy)
    exact = searcher.retrieve(histories, k, everything)
    together = policy.reach == "catalogue" and policy.merge != "quota" and policy.explore == 0
    found = from_measured(measure(searcher, histories, everything, exact), postings.sizes, places=together)

    def share(order: Order) -> float:
        searcher.calibration = Calibration((0.5,), (1.0,), k, len(histories), order.weight, (order.slack,))
        return share_found(searcher.retrieve(histories, k, replace(everything, recall=0.5)).items, exact.items)

    return refined(found, share)


class _Once:
    """A user side that computes each batch once; every search of a calibration asks for the same."""

    def __init__(self, side: Any) -> None:
        self.side, self.encoded, self.vectors = side, dict[Any, Encoded](), dict[Any, Floats]()

    def encode(self, histories: Histories) -> Encoded:
        key = histories.values.tobytes(), histories.lengths.tobytes()
        if key not in self.encoded:
            self.encoded[key] = self.side.encode(histories)
        return self.encoded[key]

    def read(self, encoded: Encoded, interests: Codes) -> Floats:
        key = id(encoded), interests.tobytes()
        if key not in self.vectors:
            self.vectors[key] = self.side.read(encoded, interests)
        return self.vectors[key]


def measure(searcher: Searcher, histories: Histories, policy: Policy, exact: Candidates) -> Measured:
    """The cells as users see them, beside their exact answers."""
    postings: VectorPostings = searcher.postings  # type: ignore[assignment]
    side: Any = searcher.side
    cells = np.where(exact.items >= 0, postings.cells_of(np.maximum(exact.items, 0)), -1)
    parts = []
    for start in range(0, len(histories), _BLOCK):
        part = histories.take(slice(start, start + _BLOCK))
        encoded = side.encode(part)
        choice = choose(encoded.posterior, known_cells(postings, part), policy, exact.items.shape[1])
        vectors, added = np.asarray(side.read(encoded, choice.codes), np.float32), log_chances(choice, policy)
        seen = np.empty(encoded.posterior.shape, np.float32)
        for row, codes in enumerate(choice.codes):
            seen[row] = heights(postings.places, postings.cells, vectors[row, codes >= 0], added[row, codes >= 0])
        parts.append((encoded.posterior, seen))
    posterior, seen = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Measured(posterior, seen, cells, np.where(exact.items >= 0, exact.scores, np.inf).min(axis=1))


def from_measured(measured: Measured, sizes: Ints, *, places: bool = True) -> Calibration:
    """Quantiles of the mass before the cells of answers, and of the slack that they take.

    Parameters
    ----------
    sizes
        Items of each cell.
    places
        Whether an order by posterior and place may be taken.
    """
    order, before = mass_before(measured.posterior)
    of_cell = np.empty_like(before)
    np.put_along_axis(of_cell, order, before, axis=1)
    masses = tuple(min(mass, 1.0) for mass in _beyond(_of_answers(of_cell, measured.cells)))
    found = Calibration(RECALLS, masses, measured.cells.shape[1], len(measured.cells))
    least = float((sizes * (of_cell < masses[_COMPARED])).sum(axis=1).mean())
    spread = np.log(np.maximum(measured.posterior, 1e-12)).std(axis=1).mean()
    scale = float(measured.heights.std(axis=1).mean() / spread) if spread > 0 else 0.0
    for weight in sorted({scale * weight for weight in _WEIGHTS}) if places else ():
        rows = zip(measured.heights, frozen(measured.posterior), strict=True)
        number = np.stack([orders(*row, weight) for row in rows])
        below = measured.worst[:, None] - number
        slacks = _beyond(_of_answers(below, measured.cells))
        items = float((sizes * (below <= slacks[_COMPARED])).sum(axis=1).mean())
        if items < least:
            found, least = replace(found, weight=weight, slacks=slacks), items
    return found


def refined(calibration: Calibration, share: Callable[[Order], float]) -> Calibration:
    """Slacks as the search itself wants them: it goes by the k-th best value so far, which is below the final one.

    Parameters
    ----------
    share
        The share of the exact answers that a search by an order finds.
    """
    if not calibration.slacks:
        return calibration
    wanted, tried = np.log(1 - np.array(calibration.recalls)), np.array(calibration.slacks)
    tried = np.append(2 * tried[0] - tried[-1], tried)
    slacks, misses = np.empty(0), np.empty(0)
    for _ in range(_ROUNDS):
        slacks = np.append(slacks, tried)
        misses = np.append(misses, [1 - share(Order(calibration.weight, slack)) for slack in tried])
        rising = np.argsort(slacks, kind="stable")
        missed = np.log(np.minimum.accumulate(misses[rising]) + 1e-6)
        tried = np.interp(wanted, missed[::-1], slacks[rising][::-1])
    return replace(calibration, slacks=tuple(map(float, np.maximum.accumulate(tried))))


def share_found(items: NDArray[np.int32], exact: NDArray[np.int32]) -> float:
    """Mean share of the exact answers ``(users, k)`` that is among the items found."""
    shares = [np.isin(one[one >= 0], own).mean() for one, own in zip(exact, items, strict=True) if (one >= 0).any()]
    return float(np.mean(shares))


def _of_answers(of_cell: NDArray[Any], cells: NDArray[np.int32]) -> NDArray[Any]:
    """The number of the cell of each item, flat and without the unfilled places."""
    rows, ranks = np.nonzero(cells >= 0)
    return np.asarray(of_cell[rows, cells[rows, ranks]])


def _beyond(numbers: NDArray[Any]) -> tuple[float, ...]:
    """The least numbers that are larger than those of each share."""
    rising = np.sort(numbers)
    at = np.maximum(np.ceil(np.array(RECALLS) * len(rising)).astype(int) - 1, 0)
    return tuple(map(float, np.nextafter(rising[np.minimum(at, len(rising) - 1)], np.asarray(np.inf, rising.dtype))))
