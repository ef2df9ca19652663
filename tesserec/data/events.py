"""Events as one array grouped by user, oldest first: counting sort, repeats and minimum counts.

Ties in time keep the order of the rows in the log; this is the tie rule everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tesserec.data.histories import Ints, Items

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Events:
    """Events of coded users and items.

    Attributes
    ----------
    offsets
        User ``u`` has ``values[offsets[u]:offsets[u + 1]]``, ``(users + 1,)``.
    values
        Item codes, oldest first, ``(events,)``.
    keys
        What they are sorted by, ``(events,)``; None where the log has no times and the order of its rows counts.
    per_second
        Keys in one second; 0 where keys are an order.
    """

    offsets: Ints
    values: Items
    keys: Ints | None
    per_second: int = 0

    @classmethod
    def group(cls, users: Items, items: Items, keys: Ints | None, count: int, per_second: int = 0) -> Events:
        """Sort rows of a log by (user, key, row), with ``count`` users."""
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(_counts(users, count), out=offsets[1:])
        if keys is None:
            return cls(offsets, _place(users, items, offsets), None)
        values, sorted_keys = _place(users, items, offsets), _place(users, keys, offsets)
        _sort_rows(offsets, values, sorted_keys)
        return cls(offsets, values, sorted_keys, per_second)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def lengths(self) -> Ints:
        """Events of each user, ``(users,)``."""
        return np.diff(self.offsets)

    def where(self, keep: Mask) -> Events:
        """Only the marked events; users keep their codes."""
        offsets = cast(Ints, _kept_offsets(self.offsets, keep))
        keys = None if self.keys is None else self.keys[keep]
        return replace(self, offsets=offsets, values=self.values[keep], keys=keys)

    def repeats(self, items: int) -> int:
        """Events whose item the same user had before."""
        return int(len(self) - _unrepeated(self.offsets, self.values, items, False).sum())

    def without_repeats(self, keep: Literal["first", "last"], items: int) -> Events:
        """One event for each (user, item)."""
        return self.where(cast(Mask, _unrepeated(self.offsets, self.values, items, keep == "last")))

    def distinct(self, items: int) -> Mask:
        """False for events whose user, item and key another one before has; there must be keys."""
        return cast(Mask, _distinct(self.offsets, self.values, self.keys, items))

    def core(self, items: int, min_user: int, min_item: int) -> Events:
        """Drop users and items with fewer events than asked, again and again, until none is left."""
        if min_user <= 1 and min_item <= 1:
            return self
        return self.where(cast(Mask, _core(self.offsets, self.values, items, min_user, min_item)))

    def without_empty(self) -> tuple[Events, Ints]:
        """Only users with events, renumbered, and their former codes."""
        users = np.flatnonzero(self.lengths)
        return replace(self, offsets=np.append(self.offsets[users], self.offsets[-1])), users

    def relabel(self, new: Items) -> None:
        """Turn item ``i`` into ``new[i]``, in place."""
        _relabel(self.values, new)

    def before(self, key: int) -> Ints:
        """Position in the arrays at which each user's events of ``key`` and later begin, ``(users,)``."""
        return cast(Ints, _before(self.offsets, self.keys, key))


@njit(cache=True)
def _counts(codes: Any, count: int) -> Any:
    counts = np.zeros(count, np.int64)
    for code in codes:
        counts[code] += 1
    return counts


@njit(cache=True)
def _place(users: Any, column: Any, offsets: Any) -> Any:
    """Counting sort of one column by user; rows of a user keep their order."""
    place = offsets[:-1].copy()
    grouped = np.empty_like(column)
    for row in range(len(users)):
        grouped[place[users[row]]] = column[row]
        place[users[row]] += 1
    return grouped


@njit(cache=True)
def _sort_rows(offsets: Any, values: Any, keys: Any) -> None:
    """Stable merge sort of each user's events by key; np.argsort does the same but takes ten seconds to compile."""
    longest = 0
    for user in range(len(offsets) - 1):
        longest = max(longest, offsets[user + 1] - offsets[user])
    left_values, left_keys = np.empty(longest, values.dtype), np.empty(longest, keys.dtype)
    for user in range(len(offsets) - 1):
        start, stop = offsets[user], offsets[user + 1]
        run = 1
        while run < stop - start:
            for left in range(start, stop - run, 2 * run):
                right, stop_right = left + run, min(left + 2 * run, stop)
                if keys[right - 1] <= keys[right]:
                    continue
                left_values[:run], left_keys[:run] = values[left:right], keys[left:right]
                taken, place = 0, left
                while taken < run:
                    if right < stop_right and keys[right] < left_keys[taken]:
                        values[place], keys[place] = values[right], keys[right]
                        right += 1
                    else:
                        values[place], keys[place] = left_values[taken], left_keys[taken]
                        taken += 1
                    place += 1
            run *= 2


@njit(cache=True)
def _relabel(values: Any, new: Any) -> None:
    for position in range(len(values)):
        values[position] = new[values[position]]


@njit(cache=True)
def _unrepeated(offsets: Any, values: Any, items: int, last: bool) -> Any:
    """True for the first (or last) event of each (user, item)."""
    keep = np.ones(len(values), np.bool_)
    seen_by = np.full(items, -1, np.int32)
    for user in range(len(offsets) - 1):
        start, stop = offsets[user], offsets[user + 1]
        for step in range(stop - start):
            position = stop - 1 - step if last else start + step
            if seen_by[values[position]] == user:
                keep[position] = False
            seen_by[values[position]] = user
    return keep


@njit(cache=True)
def _distinct(offsets: Any, values: Any, keys: Any, items: int) -> Any:
    """True for the first event of each (user, item, key)."""
    keep = np.ones(len(values), np.bool_)
    seen_by, seen_at = np.full(items, -1, np.int32), np.zeros(items, np.int64)
    for user in range(len(offsets) - 1):
        for position in range(offsets[user], offsets[user + 1]):
            item = values[position]
            keep[position] = seen_by[item] != user or seen_at[item] != keys[position]
            seen_by[item], seen_at[item] = user, keys[position]
    return keep


@njit(cache=True)
def _core(offsets: Any, values: Any, items: int, min_user: int, min_item: int) -> Any:
    users = len(offsets) - 1
    user_stays, item_stays = np.ones(users, np.bool_), np.ones(items, np.bool_)
    changed = True
    while changed:
        changed = False
        counts = np.zeros(items, np.int64)
        for user in range(users):
            if not user_stays[user]:
                continue
            row = values[offsets[user] : offsets[user + 1]]
            left = 0
            for item in row:
                left += item_stays[item]
            if left < min_user:
                user_stays[user] = False
                changed = True
                continue
            for item in row:
                counts[item] += 1
        for item in range(items):
            if item_stays[item] and counts[item] < min_item:
                item_stays[item] = False
                changed = changed or counts[item] > 0
    keep = np.empty(len(values), np.bool_)
    for user in range(users):
        for position in range(offsets[user], offsets[user + 1]):
            keep[position] = user_stays[user] and item_stays[values[position]]
    return keep


@njit(cache=True)
def _kept_offsets(offsets: Any, keep: Any) -> Any:
    kept = np.zeros_like(offsets)
    for user in range(len(offsets) - 1):
        count = 0
        for position in range(offsets[user], offsets[user + 1]):
            count += keep[position]
        kept[user + 1] = kept[user] + count
    return kept


@njit(cache=True)
def _before(offsets: Any, keys: Any, key: int) -> Any:
    cut = np.empty(len(offsets) - 1, np.int64)
    for user in range(len(cut)):
        start, stop = offsets[user], offsets[user + 1]
        cut[user] = start + np.searchsorted(keys[start:stop], key)
    return cut
