"""A share of the list for new items, those that no event of the training told anything about.

Their scores come from features or from what they are like, and seldom win against items that training has seen, so
without a share they are not shown and never get events. The share is in places, as exploration's is: units of scores
differ between models and merges, places do not. The same search is made for new items alone; the best of what it finds
take the places of the list's last trained items, exploited ones first, until the share is kept. New items that came
into the list by themselves count. Ours.

Where few items are new they are held as postings of their own, so that the second search scans these and nothing else;
and where it goes by value alone and leaves no cell out, it stops at as many items as there are places to fill.

Every list of a drawing policy keeps its share before lists are compared, so propensities are those of what is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.index.across import Request
from tesserec.index.contract import Candidates
from tesserec.index.filters import Bits, bitmap, union
from tesserec.index.interests import explore_slots
from tesserec.index.postings import EveryItem, Postings, VectorPostings
from tesserec.index.score_postings import ScorePostings

FEW = 1 << 16
"""Up to so many new items have postings of their own: 21 MB at a width of 64."""
_MOVED = ("items", "scores", "interests", "probability", "explored")


@dataclass(frozen=True, eq=False)
class NewItems:
    """Which items of a catalogue are new.

    Attributes
    ----------
    trained
        Bitmap of the others.
    few
        Postings of the new ones alone; None where they are many, or where nothing is indexed.
    any
        Whether there are some.
    """

    trained: Bits
    few: VectorPostings | ScorePostings | None
    any: bool

    @classmethod
    def of(cls, items: NDArray[np.int32], postings: Postings) -> Self:
        """Rising items that are new, in their postings."""
        few = None
        if len(items) <= FEW and not isinstance(postings, EveryItem):
            few = postings.only(items)
        return cls(~bitmap(items, postings.size), few, len(items) > 0)


def with_new(search: Callable[[Request], Candidates], request: Request) -> Candidates:
    """What a search finds, with the policy's share of new items as far as it finds so many."""
    found, new = search(request), request.new
    places = explore_slots(request.policy.new_share, request.k)
    if not places or new is None or not new.any:
        return found
    k = places if request == request.everywhere and _by_value(request) else request.k
    order = None if new.few is not None else request.order  # places are those of all items of a cell
    more = search(replace(request, k=k, blocked=union(request.blocked, new.trained), few=new.few, order=order))
    for user in range(len(found.items)):
        _place(found, more, user, places, new.trained)
    visits = found.visits
    visits.certified[...] &= more.visits.certified
    visits.items[...] += more.visits.items
    return found


def _by_value(request: Request) -> bool:
    """Whether the best items of a longer list are those of a shorter one."""
    return request.policy.merge != "quota" and not request.policy.explore


def _place(found: Candidates, new: Candidates, user: int, places: int, trained: Bits) -> None:
    """Put the best new items of a user into the list that was found, in place."""
    held = np.flatnonzero(found.items[user] >= 0)
    old = held[_is_set(trained, found.items[user, held])]
    wanted = places - (len(held) - len(old))
    fresh = np.flatnonzero((new.items[user] >= 0) & ~np.isin(new.items[user], found.items[user]))[: max(wanted, 0)]
    if not len(fresh):
        return
    least = old[np.lexsort((-old, found.explored[user, old]))]
    kept = np.setdiff1d(held, least[: max(0, len(held) + len(fresh) - found.items.shape[1])])
    scores = np.concatenate([found.scores[user, kept], new.scores[user, fresh]])
    order = np.argsort(-scores, kind="stable")
    for name in _MOVED:
        into, of_new = getattr(found, name), getattr(new, name)
        into[user, : len(order)] = np.concatenate([into[user, kept], of_new[user, fresh]])[order]


def _is_set(bits: Bits, items: NDArray[np.int32]) -> NDArray[np.bool_]:
    return np.asarray((bits[items >> 3] >> (items & 7)) & 1, np.bool_)
