"""Compiled helpers of the search: candidates as sortable keys, selection, and dot products with a fixed order.

A candidate is one int64 *key*: the score's bits in an order-preserving form above, the complement of an index below.
Larger keys are better candidates and no two are equal, so ties need no special case anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tesserec.data.histories import Histories, Ints, Items

Floats = NDArray[np.float32]

ZERO = np.int64(0)
"""A zero that a kernel gives to another: for a literal 0, numba would compile the other one anew."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile without the GIL held, cached on disk where some directory can be written."""
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no place for its cache, as on a read-only file system
        return njit(nogil=True)(function)
    if compiled.stats.cache_path is not None:
        _drop_stale_cache(Path(compiled.stats.cache_path), function.__name__)
    return compiled


def _drop_stale_cache(folder: Path, name: str) -> None:
    """Forget code compiled before this file changed: numba looks at a kernel's own file only, not at its callees'."""
    changed = Path(__file__).stat().st_mtime
    for index in folder.glob(f"*.{name}-*.nbi"):
        with contextlib.suppress(OSError):
            if index.stat().st_mtime < changed:
                index.unlink()


@kernel
def key_of(score: Any, index: Any) -> Any:
    """Key of a float32 score and an int32 index; a smaller index wins a tie."""
    bits = np.float32(score + np.float32(0.0)).view(np.int32)  # adding zero turns -0.0 into 0.0
    if bits < 0:
        bits = np.int32(bits ^ np.int32(0x7FFFFFFF))
    return (np.int64(bits) << np.int64(32)) | np.int64(np.int32(0x7FFFFFFF) - np.int32(index))


@kernel
def score_of(key: Any) -> Any:
    """Float32 score of a key."""
    bits = np.int32(key >> np.int64(32))
    if bits < 0:
        bits = np.int32(bits ^ np.int32(0x7FFFFFFF))
    return np.int32(bits).view(np.float32)


@kernel
def index_of(key: Any) -> Any:
    """Index of a key."""
    return np.int32(np.int64(0x7FFFFFFF) - (key & np.int64(0xFFFFFFFF)))


@kernel
def select_largest(keys: Ints, n: int, k: int) -> Any:
    """Bring the ``k`` largest of ``keys[:n]`` to the front (in no order) and return the smallest of them."""
    low, high = 0, n - 1
    while low < high:
        middle = (low + high) // 2
        a, b, c = keys[low], keys[middle], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while keys[i] > pivot:
                i += 1
            while keys[j] < pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return keys[k - 1]


@kernel
def exact_dot(a: Floats, b: Floats) -> Any:
    """Dot product in float64 in one fixed order, rounded once to float32.

    Products of float32 are exact in float64, so the result is the same with or without fused multiply-add.
    """
    s0 = s1 = s2 = s3 = 0.0
    whole = len(a) // 4 * 4
    for i in range(0, whole, 4):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
    for i in range(whole, len(a)):
        s0 += np.float64(a[i]) * np.float64(b[i])
    return np.float32((s0 + s1) + (s2 + s3))


@numba.njit(nogil=True, fastmath=True)
def fast_dot(a: Floats, b: Floats) -> Any:
    """Dot product in float32 in whatever order is fastest."""
    total = np.float32(0.0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@kernel
def contains(ordered: Items, start: int, stop: int, value: int) -> bool:
    """Whether ``value`` is in the rising range ``ordered[start:stop]``."""
    while start < stop:
        middle = (start + stop) // 2
        if ordered[middle] < value:
            start = middle + 1
        elif ordered[middle] > value:
            stop = middle
        else:
            return True
    return False


@kernel
def _sort_rows(values: Items, offsets: Ints) -> None:
    for row in range(len(offsets) - 1):
        values[offsets[row] : offsets[row + 1]].sort()


def ordered_rows(rows: Histories) -> Histories:
    """The same sets on an array of their own, each row rising."""
    flat = rows.compact()
    offsets = np.append(flat.starts, flat.stops[-1:]).astype(np.int64) if len(flat) else np.zeros(1, np.int64)
    _sort_rows(flat.values, offsets)
    return flat


def empty_rows(n: int) -> Histories:
    """``n`` rows without a value."""
    return Histories.from_offsets(np.empty(0, np.int32), np.zeros(n + 1, np.int64))
