"""Training batches: windows of histories, bucketed by length so that no time goes to padding, and shared negatives.

The order of an epoch and every random choice in it follow from ``(seed, epoch)`` alone, so a run can resume at any
step without storing a generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints
from tesserec.errors import DataError

POOL_BATCHES = 50
"""Batches' worth of windows that are sorted by length together: enough to fill rows evenly, few enough to mix."""


@dataclass(frozen=True)
class Batch:
    """Right-padded windows with one target a position, and one pool of negatives for all of them.

    Attributes
    ----------
    inputs
        Item indices, int64, ``(rows, length)``; padding repeats item 0 and is never read.
    targets
        The item to predict at each position, int64, ``(rows, length)``; -1 at padding.
    lengths
        Valid positions of each row, ``(rows,)``.
    negatives
        Item indices, int64, ``(pool,)``, empty where a model needs none.
    epoch_positions
        Positions to predict in the whole epoch, so that a term can weigh what it weighs an epoch.
    """

    inputs: Ints
    targets: Ints
    lengths: Ints
    negatives: Ints
    epoch_positions: int


class NegativeSampler:
    """Draws negatives from a mixture of the uniform and the popularity distribution.

    Parameters
    ----------
    counts
        Training events of each item, ``(items,)``.
    popular_share
        Share of draws that follow popularity; in-batch negatives would be 1, uniform ones 0.

    Notes
    -----
    ``log_q`` is the exact log-probability of each item under the mixture, for the log-Q correction.
    """

    def __init__(self, counts: Ints, popular_share: float) -> None:
        popularity = counts / max(1, counts.sum())
        self.probability = popular_share * popularity + (1 - popular_share) / len(counts)
        self._cumulative = np.cumsum(self.probability)
        self.log_q: NDArray[np.float32] = np.log(self.probability).astype(np.float32)

    def draw(self, size: int, rng: np.random.Generator) -> Ints:
        """``size`` item indices with replacement."""
        places = rng.random(size) * self._cumulative[-1]
        drawn: Ints = np.searchsorted(self._cumulative, places, side="right")
        return np.minimum(drawn, len(self.probability) - 1, dtype=np.int64)


class SequenceBatches:
    """All training windows of a set of histories, in a fresh seeded order every epoch.

    Parameters
    ----------
    histories
        Training histories; rows with one event carry nothing to predict and are passed over.
    max_length
        Positions of a window at most. Longer histories are cut into consecutive windows whose seam moves every epoch.
    batch_positions
        Positions to predict in a batch, about; rows of a batch have like lengths.
    horizon
        The target of position t is drawn uniformly from items t+1 .. t+horizon (next-n targets).
    sampler, negatives
        Where the shared pool of ``negatives`` items comes from; none if None.
    seed
        Fixes order, seams, targets and negatives.

    Raises
    ------
    DataError
        If no history has two events.
    """

    def __init__(
        self,
        histories: Histories,
        max_length: int,
        batch_positions: int,
        *,
        horizon: int = 1,
        sampler: NegativeSampler | None = None,
        negatives: int = 0,
        seed: int = 0,
    ) -> None:
        flat = histories.compact()
        self.histories = flat.take(np.flatnonzero(flat.lengths >= 2))
        if not len(self.histories):
            raise DataError(
                f"none of {len(histories)} training histories has two events, so there is no next item to learn; "
                "check the user column, or lower the filters"
            )
        self.max_length, self.batch_positions, self.horizon = max_length, batch_positions, horizon
        self.sampler, self.negatives, self.seed = sampler, negatives, seed
        self.positions = int((self.histories.lengths - 1).sum())

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Batches ``first``, ``first + 1``, ... of epoch ``number``."""
        starts, lengths, ends, groups = self._plan(np.random.default_rng((self.seed, number)))
        for step in range(first, len(groups)):
            rows = groups[step]
            yield self._batch(starts[rows], lengths[rows], ends[rows], np.random.default_rng((self.seed, number, step)))

    def steps(self, number: int) -> int:
        """Batches of epoch ``number``."""
        return len(self._plan(np.random.default_rng((self.seed, number)))[3])

    def _plan(self, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, list[Ints]]:
        starts, lengths, ends = self._windows(rng)
        return starts, lengths, ends, self._groups(lengths, rng)

    def _windows(self, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
        """First position, number of positions and end of the history of every window of an epoch."""
        begin, stop = self.histories.starts, self.histories.stops
        positions = stop - begin - 1
        # The first window is cut short by a random amount, so that seams fall elsewhere in every epoch.
        slack = np.where(positions > self.max_length, rng.integers(0, self.max_length, len(begin)), 0)
        windows = -(-(positions + slack) // self.max_length)
        row = np.repeat(np.arange(len(begin)), windows)
        place = np.arange(len(row)) - np.repeat(np.cumsum(windows) - windows, windows)
        first = np.maximum(place * self.max_length - slack[row], 0)
        last = np.minimum((place + 1) * self.max_length - slack[row], positions[row])
        return begin[row] + first, last - first, stop[row]

    def _groups(self, lengths: Ints, rng: np.random.Generator) -> list[Ints]:
        order = rng.permutation(len(lengths))
        pool = max(1, POOL_BATCHES * self.batch_positions // max(1, int(lengths.mean())))
        groups: list[Ints] = []
        for begin in range(0, len(order), pool):
            rows = order[begin : begin + pool]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            batch = np.cumsum(lengths[rows]) // self.batch_positions
            groups.extend(np.split(rows, np.flatnonzero(np.diff(batch)) + 1))
        return [groups[i] for i in rng.permutation(len(groups))]

    def _batch(self, starts: Ints, lengths: Ints, ends: Ints, rng: np.random.Generator) -> Batch:
        columns = np.arange(int(lengths.max()))
        valid = columns < lengths[:, None]
        place = np.where(valid, starts[:, None] + columns, 0)
        values = self.histories.values
        reach = np.minimum(self.horizon, ends[:, None] - 1 - place)
        offset = 1 + np.floor(rng.random(place.shape) * np.maximum(reach, 1)).astype(np.int64)
        negatives = self.sampler.draw(self.negatives, rng) if self.sampler else np.empty(0, np.int64)
        return Batch(
            inputs=np.where(valid, values[place], 0).astype(np.int64),
            targets=np.where(valid, values[np.where(valid, place + offset, 0)], -1).astype(np.int64),
            lengths=lengths,
            negatives=negatives,
            epoch_positions=self.positions,
        )
