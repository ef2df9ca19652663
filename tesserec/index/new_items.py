"""A share of the list for new items, those that no event of the training told anything about.

Their scores come from features or from what they are like, and seldom win against items that training has seen, so
without a share they are not shown and never get events. The share is in places, as exploration's is: units of scores
differ between models and merges, places do not. The same search is made for new items alone; the best of what it finds
take the places of the list's last trained items, exploited ones first, until the share is kept. New items that came
into the list by themselves count. Ours.

Every list of a drawing policy keeps its share before lists are compared, so propensities are those of what is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tesserec.index.across import Request
from tesserec.index.contract import Candidates
from tesserec.index.filters import Bits, union
from tesserec.index.interests import explore_slots

_MOVED = ("items", "scores", "interests", "probability", "explored")


def with_new(search: Callable[[Request], Candidates], request: Request) -> Candidates:
    """What a search finds, with the policy's share of new items as far as it finds so many."""
    found = search(request)
    places = explore_slots(request.policy.new_share, request.k)
    if not places or request.trained is None:
        return found
    new = search(replace(request, blocked=union(request.blocked, request.trained)))
    for user in range(len(found.items)):
        _place(found, new, user, places, request.trained)
    visits = found.visits
    visits.certified[...] &= new.visits.certified
    visits.items[...] += new.visits.items
    return found


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
