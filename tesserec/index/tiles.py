"""Vectors in 8 bits, with bounds of what that costs.

A vector is stored as ``v = s (b + e)`` with whole ``|b| <= 127``; a query is ``q = t (a + f)``. Then

    ``q . v = s (t a . b  +  (q - t a) . b  +  q . e)``,  ``|rest| <= |q - t a| min(s B, V + s E) + s |q| E``

with ``B``, ``E`` and ``V`` the largest ``|b|``, ``|e|`` and ``|v|`` of the catalogue (Cauchy-Schwarz; ``s |b| <=
|v| + s |e|``). Whole-number products thus bound every dot product from both sides. Bounds ours, as in VA-files
(Weber et al., VLDB 1998).

Rows lie in tiles of 16, by groups of 4 coordinates, as the vector instructions of ``scan.c`` want.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Ints, Items
from tesserec.index.kernels import kernel

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
TILE = 16
_ROUNDING = 1e-6


class Tiles(NamedTuple):
    """8-bit rows of a segment.

    Attributes
    ----------
    tiles
        ``b + 128``, uint8 ``(tiles, groups, 16, 4)``; cells begin with a tile of their own.
    scales
        ``s`` of each row, float32 ``(tiles * 16,)``.
    offsets
        First tile of each cell, int64 ``(cells + 1,)``.
    largest, error
        ``B`` and ``E`` of the bounds.
    """

    tiles: NDArray[np.uint8]
    scales: Floats
    offsets: Ints
    largest: float
    error: float


class Queries(NamedTuple):
    """Interests of a user in 8 bits, as the bounds of ``q . v + added`` want them.

    These are ``s slope dot +- (min(s B, V + s E) rest + s length) + high or low``; ``limits`` are B, V, E and the
    length of the longest query.
    """

    bytes: NDArray[np.int8]
    corrections: Items
    slopes: Floats
    rests: Floats
    lengths: Floats
    highs: Floats
    lows: Floats
    limits: Floats


def make_tiles(vectors: Floats, offsets: Ints) -> Tiles:
    """Quantise vectors that are sorted by cell."""
    dim = vectors.shape[1]
    groups = -(-dim // 4)
    sizes = np.diff(offsets)
    tile_offsets = tile_offsets_of(offsets)
    tiles = np.full((int(tile_offsets[-1]), groups, TILE, 4), 128, np.uint8)
    scales = np.zeros(len(tiles) * TILE, np.float32)
    places = np.arange(len(vectors)) + np.repeat(tile_offsets[:-1] * TILE - offsets[:-1], sizes)
    largest = error = 0.0
    for start in range(0, len(vectors), 1 << 16):
        block = np.zeros((len(vectors[start : start + (1 << 16)]), groups * 4), np.float64)
        block[:, :dim] = vectors[start : start + (1 << 16)]
        scale = (np.abs(block).max(axis=1) / 127).astype(np.float32)
        exact = np.divide(block, scale[:, None], out=np.zeros_like(block), where=scale[:, None] > 1e-30)
        scale[scale <= 1e-30] = 0
        whole = np.clip(np.rint(exact), -127, 127)
        largest = max(largest, float(np.sqrt((whole**2).sum(axis=1)).max(initial=0)))
        error = max(error, float(np.sqrt(((exact - whole) ** 2).sum(axis=1)).max(initial=0)))
        at = places[start : start + len(block)]
        tiles[at // TILE, :, at % TILE] = (whole + 128).astype(np.uint8).reshape(-1, groups, 4)
        scales[at] = scale
    return Tiles(tiles, scales, tile_offsets, largest, error)


def tile_offsets_of(offsets: Ints) -> Ints:
    """First tile of each cell, int64 ``(cells + 1,)``."""
    return np.append(0, np.cumsum(-(-np.diff(offsets) // TILE))).astype(np.int64)


@kernel
def make_queries(queries: Floats, added: Doubles, groups: int, largest: float, error: float, longest: float) -> Queries:
    """Quantise the vectors ``(interests, dim)`` of a user.

    Parameters
    ----------
    added
        What each interest adds to its scores.
    largest, error, longest
        ``B``, ``E`` and ``V`` of the bounds.
    """
    n, dim = queries.shape
    whole, corrections = np.zeros((n, 4 * groups), np.int8), np.empty(n, np.int32)
    slopes, rests, lengths = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    highs, lows, limits = np.empty(n, np.float32), np.empty(n, np.float32), np.zeros(4, np.float32)
    for j in range(n):
        slope = 0.0
        for i in range(dim):
            slope = max(slope, abs(np.float64(queries[j, i])))
        slope /= 127
        total = length = rest = 0.0
        for i in range(dim):
            value = np.float64(queries[j, i])
            rounded = np.rint(value / slope) if slope > 0 else 0.0
            whole[j, i] = np.int8(rounded)
            total += rounded
            length += value**2
            rest += (value - slope * rounded) ** 2
        length, rest = np.sqrt(length), np.sqrt(rest)
        limits[3] = max(limits[3], length) if length >= 0 else np.inf  # where it is NaN
        spare = _ROUNDING * (abs(added[j]) + 1e-20)
        corrections[j], slopes[j], rests[j] = np.int32(128 * total), slope, rest * (1 + _ROUNDING)
        lengths[j] = length * error * (1 + _ROUNDING) + _ROUNDING * (length + rest) * (largest + error + 1)
        highs[j], lows[j] = added[j] + spare, added[j] - spare
    limits[:3] = np.array([largest, longest * (1 + _ROUNDING), error], np.float32)
    return Queries(whole, corrections, slopes, rests, lengths, highs, lows, limits)
