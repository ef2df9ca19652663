"""Histories: many item sequences as ranges of one flat array, so that nothing is copied and all can be mapped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Items = NDArray[np.int32]
COUNTED_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Histories:
    """A sequence of item-index sequences, each oldest first.

    Row ``i`` is ``values[starts[i]:stops[i]]``. Several ``Histories`` may share ``values``: the training part and
    the held-out parts of a dataset are ranges of the same file.

    Attributes
    ----------
    values
        Item indices, int32, ``(events,)``; may be memory-mapped.
    starts, stops
        int64, ``(rows,)`` each.
    """

    values: Items
    starts: Ints
    stops: Ints

    @classmethod
    def from_offsets(cls, values: Items, offsets: Ints) -> Histories:
        """Rows that lie one after the other; ``offsets`` is ``(rows + 1,)``."""
        return cls(values, offsets[:-1], offsets[1:])

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int] | Items]) -> Histories:
        """Build from Python or NumPy sequences."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.cumsum([0, *(len(a) for a in arrays)], dtype=np.int64)
        return cls.from_offsets(np.concatenate([np.empty(0, np.int32), *arrays]), offsets)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Items:
        return self.values[self.starts[row] : self.stops[row]]

    def __iter__(self) -> Iterator[Items]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> Ints:
        """Events per row, ``(rows,)``."""
        return self.stops - self.starts

    def take(self, rows: NDArray[np.integer] | slice) -> Histories:
        """The chosen rows, sharing ``values``."""
        return Histories(self.values, self.starts[rows], self.stops[rows])

    def last(self, n: int) -> Histories:
        """Each row cut to its ``n`` newest events, sharing ``values``."""
        return Histories(self.values, np.maximum(self.starts, self.stops - n), self.stops)

    def compact(self) -> Histories:
        """The same rows on an array that holds nothing else."""
        if len(self) == 1:  # a request of one user; no positions to work out
            own = np.array(self[0], dtype=np.int32)
            return Histories.from_offsets(own, np.array([0, len(own)]))
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(self.starts - offsets[:-1], self.lengths)
        return Histories.from_offsets(np.asarray(self.values[positions], dtype=np.int32), offsets)

    def padded(self, fill: int) -> NDArray[np.int64]:
        """Right-padded matrix ``(rows, longest)``, at least one column wide."""
        flat = self.compact()
        width = max(1, int(flat.lengths.max(initial=0)))
        matrix = np.full((len(self), width), fill, dtype=np.int64)
        matrix[np.arange(width) < flat.lengths[:, None]] = flat.values
        return matrix

    def counts(self, items: int) -> Ints:
        """How often each of ``items`` item indices occurs in all rows, ``(items,)``."""
        total = np.zeros(items, np.int64)
        ends = np.cumsum(self.lengths)
        first = 0
        while first < len(self):  # in blocks of rows, so that memory does not grow with the events
            begun = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, begun + COUNTED_AT_ONCE, side="right")))
            total += np.bincount(self.take(slice(first, last)).compact().values, minlength=items)
            first = last
        return total
