"""What has changed since postings were built: a small second segment, searched beside the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.index.filters import NOTHING, Bits, Blocked, bitmap, union
from tesserec.index.topk import TopK, merge_topk

if TYPE_CHECKING:
    from tesserec.index.postings import VectorPostings

Items = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Delta:
    """What has changed since the base was built.

    Attributes
    ----------
    rows
        Postings of the new and the updated items, numbered by their order among themselves.
    ids
        Item of each of those numbers, rising, int32.
    dead
        Bitmap of the base's items that are removed or superseded, see :class:`tesserec.index.filters.Blocked`.
    size
        Number of item indices.
    """

    rows: VectorPostings
    ids: Items
    dead: Bits
    size: int

    def local(self, items: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """Numbers of items in ``rows``, -1 where they are not in it."""
        if not len(self.ids):
            return np.full(np.shape(items), -1)
        at = np.minimum(np.searchsorted(self.ids, items), len(self.ids) - 1)
        return np.where(self.ids[at] == items, at, -1)

    def local_rows(self, rows: Histories) -> Histories:
        """Sets of items as numbers in ``rows``; others are left out."""
        flat = rows.compact()
        local = self.local(flat.values)
        ends = np.append(0, np.cumsum(local >= 0))[np.append(0, flat.stops)]
        return Histories.from_offsets(local[local >= 0].astype(np.int32), ends)

    def local_blocked(self, blocked: Blocked) -> Blocked:
        """Blocked items as numbers in ``rows``."""
        listed = self.local(blocked.listed)
        bits = blocked.bits
        if len(bits):
            bits = bitmap(np.flatnonzero((bits[self.ids >> 3] >> (self.ids & 7)) & 1), len(self.ids))
        return Blocked(listed[listed >= 0].astype(np.int32), bits)


def both_segments(
    postings: VectorPostings,
    search: Callable[[VectorPostings, Histories | None, Blocked], TopK],
    unwanted: Histories | None,
    blocked: Blocked = NOTHING,
) -> TopK:
    """The best of the base and of what lies on top of it.

    Parameters
    ----------
    search
        Searches postings without a delta, leaving out unwanted and blocked items.
    unwanted
        Items that each query must not be given.
    """
    delta = postings.delta
    best = search(postings, unwanted, union(blocked, postings.dead))
    if delta is None or not len(delta.ids):
        return best
    found, scores = search(
        delta.rows, None if unwanted is None else delta.local_rows(unwanted), delta.local_blocked(blocked)
    )
    named = np.where(found >= 0, delta.ids[np.maximum(found, 0)], -1).astype(np.int32)
    return merge_topk(best, (named, scores))
