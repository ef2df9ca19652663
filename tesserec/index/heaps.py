"""The best items so far of many users, in heaps that kernels fill: of equal values the smaller item is better."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Ints, Items
from tesserec.index.kernels import kernel
from tesserec.index.tiles import Doubles


class Heaps(NamedTuple):
    """The best items so far, ``(users, heaps, k)`` with the worst of ``counts`` first; and what each user visited."""

    items: Items
    values: Doubles
    counts: Ints
    visited: NDArray[np.bool_]
    proven: NDArray[np.bool_]

    @classmethod
    def empty(cls, users: int, heaps: int, k: int, columns: int) -> Self:
        shape = users, heaps, k
        return cls(
            np.full(shape, -1, np.int32),
            np.full(shape, -np.inf),
            np.zeros(shape[:2], np.int64),
            np.zeros((users, columns), np.bool_),
            np.zeros(users, np.bool_),
        )


@kernel
def _worse(value: float, item: int, other_value: float, other_item: int) -> bool:
    return value < other_value or (value == other_value and item > other_item)


@kernel
def push(heaps: Heaps, user: int, heap: int, item: int, value: float) -> None:
    """Add an item, at the cost of the worst one where the heap is full."""
    items, values, n = heaps.items[user, heap], heaps.values[user, heap], heaps.counts[user, heap]
    if n == len(items):
        if _worse(values[0], items[0], value, item):
            _sink(items, values, n, item, value)
        return
    heaps.counts[user, heap] = n + 1
    while n > 0 and _worse(value, item, values[(n - 1) // 2], items[(n - 1) // 2]):
        items[n], values[n] = items[(n - 1) // 2], values[(n - 1) // 2]
        n = (n - 1) // 2
    items[n], values[n] = item, value


@kernel
def _sink(items: Items, values: Doubles, n: int, item: int, value: float) -> None:
    """Put an item in the place of the first of ``n`` and restore the order."""
    at = 0
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and _worse(values[child + 1], items[child + 1], values[child], items[child]):
            child += 1
        if not _worse(values[child], items[child], value, item):
            break
        items[at], values[at] = items[child], values[child]
        at = child
    items[at], values[at] = item, value


@kernel
def sort(heaps: Heaps, begin: int, end: int) -> None:
    """Best first: the worst goes to the end, again and again."""
    for user in range(begin, end):
        for heap in range(heaps.items.shape[1]):
            items, values = heaps.items[user, heap], heaps.values[user, heap]
            for n in range(heaps.counts[user, heap] - 1, 0, -1):
                item, value = items[n], values[n]
                items[n], values[n] = items[0], values[0]
                _sink(items, values, n, item, value)
