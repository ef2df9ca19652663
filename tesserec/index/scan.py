"""Search of cells in 8 bits for all interests of a user at once, exact on what it visits.

An item's value is its best over the interests, ``max_j (q_j . v + added_j)``, so one pass over the cells serves them
all. A vector is stored as ``v = s (b + e)`` with whole ``|b| <= 127``; a query is ``q = t (a + f)``. Then

    ``q . v = s (t a . b  +  (q - t a) . b  +  q . e)``,  ``|rest| <= s (|q - t a| B + |q| E)``

with ``B`` and ``E`` the largest ``|b|`` and ``|e|`` of the catalogue (Cauchy-Schwarz). Whole-number products thus
bound every value from both sides; rows whose upper bound reaches the k-th best lower bound are kept, and exact
products decide among them as in :mod:`tesserec.index.topk`. Quantisation costs no answer, only a few more exact
products. Bounds ours, in the manner of VA-files (Weber et al., VLDB 1998).

Rows lie in tiles of 16, by groups of 4 coordinates, as the vector instructions of :mod:`tesserec.index.native` want.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Ints, Items
from tesserec.index.filters import Bits, Blocked
from tesserec.index.kernels import contains, exact_dot, fast_dot, kernel
from tesserec.index.native import address, native
from tesserec.index.topk import ItemVectors, frozen, margins

Floats = NDArray[np.float32]
Best = tuple[Items, NDArray[np.float64], Items]
TILE = 16
_ROOM = 1 << 13
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
    """Interests of a user in 8 bits; the bounds of ``q . v + added`` are ``s (slope dot +- slack) + high or low``."""

    bytes: NDArray[np.int8]
    corrections: Items
    slopes: Floats
    slacks: Floats
    highs: Floats
    lows: Floats


class Rows(NamedTuple):
    """A segment as exact products need it, and the bitmap of its dead items."""

    vectors: Floats
    items: Items
    offsets: Ints
    dead: Bits
    longest: float


def native_scan() -> Any | None:
    """The kernel of ``scan.c``, or None where it cannot be had."""
    return native("scan", "tesserec_scan", "pppppp ii pppppp i pi pi pi pi ppp i")


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


def make_queries(queries: Floats, added: NDArray[np.float64], tiles: Tiles) -> Queries:
    """Quantise the vectors ``(interests, dim)`` of a user; ``added`` is what each interest adds to its scores."""
    n, dim = queries.shape
    exact = queries.astype(np.float64)
    slopes = np.abs(exact).max(axis=1) / 127
    whole = np.rint(exact / np.where(slopes > 0, slopes, 1)[:, None])
    padded = np.zeros((n, tiles.tiles.shape[1] * 4), np.int8)
    padded[:, :dim] = whole
    lengths, rest = np.sqrt((exact**2).sum(axis=1)), np.sqrt(((exact - slopes[:, None] * whole) ** 2).sum(axis=1))
    rounding = _ROUNDING * (lengths + rest) * (tiles.largest + tiles.error + 1)
    slacks = (rest * tiles.largest + lengths * tiles.error) * (1 + _ROUNDING) + rounding
    spare = _ROUNDING * (np.abs(added) + 1e-20)
    floats = (np.ascontiguousarray(one, np.float32) for one in (slopes, slacks, added + spare, added - spare))
    return Queries(padded, (whole.sum(axis=1) * 128).astype(np.int32), *floats)


class Scratch:
    """Working memory of one search; k lower bounds and the rows kept."""

    def __init__(self, k: int) -> None:
        self.heap, self.filled = np.empty(k, np.float32), np.zeros(1, np.int64)
        self.kept, self.uppers = np.empty(_ROOM + 16 * k, np.int32), np.empty(_ROOM + 16 * k, np.float32)


def scan(
    rows: Rows, tiles: Tiles, cells: Ints, queries: Queries, unwanted: Items, bits: Bits, scratch: Scratch
) -> Items | None:
    """Rows of the cells that may be among the k best; None where more are nearly equal than there is room for.

    Parameters
    ----------
    cells
        In the order in which they are visited.
    unwanted
        Rising items that the user must not be given.
    """
    cells, in_c = np.ascontiguousarray(cells, np.int64), native_scan()
    if in_c is None:
        n = _scan(
            rows, tiles, cells, queries, unwanted, bits, scratch.heap, scratch.filled, scratch.kept, scratch.uppers
        )
    else:
        at, dead = address, rows.dead
        n = in_c(
            at(tiles.tiles),
            at(tiles.scales),
            at(tiles.offsets),
            at(rows.offsets),
            at(rows.items),
            at(cells),
            len(cells),
            tiles.tiles.shape[1],
            *map(at, queries),
            len(queries.slopes),
            at(unwanted),
            len(unwanted),
            at(bits),
            len(bits),
            at(dead),
            len(dead),
            at(scratch.heap),
            len(scratch.heap),
            at(scratch.filled),
            at(scratch.kept),
            at(scratch.uppers),
            len(scratch.kept),
        )
    if n < 0:
        return None
    threshold = scratch.heap[0] if scratch.filled[0] == len(scratch.heap) else -np.inf
    return scratch.kept[:n][scratch.uppers[:n] >= threshold]


class Segment(NamedTuple):
    """A segment in both forms."""

    rows: Rows
    tiles: Tiles


def best_together(
    segments: Sequence[Segment],
    cells: Ints,
    queries: Floats,
    added: NDArray[np.float64],
    unwanted: Items,
    blocked: Blocked,
    k: int,
) -> Best | None:
    """The k items of some cells with the largest ``max_j (q_j . v + added_j)``.

    Parameters
    ----------
    cells
        In the order in which they are visited; likely ones first is fastest.
    queries, added
        Vectors ``(interests, dim)``, and what each adds to its scores.
    unwanted
        Rising items that the user must not be given.

    Returns
    -------
    tuple of array or None
        Items, values and interests, at most k, by falling value, then rising item; of equal values an item takes the
        first interest's. None if more values are nearly equal than there is room for.
    """
    if len(blocked.listed):
        unwanted = np.union1d(unwanted, blocked.listed).astype(np.int32)
    scratch, near = Scratch(k), margins(queries, max(segment.rows.longest for segment in segments))
    answers: list[Best] = []
    for segment in segments:
        own = make_queries(queries, added, segment.tiles)
        kept = scan(segment.rows, segment.tiles, cells, own, unwanted, blocked.bits, scratch)
        if kept is None:
            return None
        answers.append(best_of(segment.rows.vectors, segment.rows.items, kept, queries, added, near, k))
    if len(answers) == 1:
        return answers[0]
    items, values, columns = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    order = np.lexsort((items, -values))[:k]
    return items[order], values[order], columns[order]


@kernel
def best_of(
    vectors: Floats, items_of: Items, kept: Items, queries: Floats, added: Any, near: Floats, k: int
) -> tuple[Items, Any, Items]:
    """Items, values and interests of the k best among the kept rows, by falling value, then rising item."""
    n = len(kept)
    items, values, columns = np.empty(n, np.int32), np.empty(n, np.float64), np.empty(n, np.int32)
    rough = np.empty(len(queries), np.float64)
    for at in range(n):
        vector = vectors[kept[at]]
        bar = -np.inf
        for j in range(len(queries)):
            rough[j] = fast_dot(queries[j], vector) + added[j]
            bar = max(bar, rough[j] - near[j])
        best, column = -np.inf, 0
        for j in range(len(queries)):
            if rough[j] + near[j] >= bar:
                value = np.float64(exact_dot(queries[j], vector)) + added[j]
                if value > best:
                    best, column = value, j
        items[at], values[at], columns[at] = items_of[kept[at]], best, column
    by_item = np.argsort(items)
    order = by_item[np.argsort(-values[by_item], kind="mergesort")][:k]
    return items[order], values[order], columns[order]


@kernel
def _scan(
    rows: Rows,
    tiles: Tiles,
    cells: Ints,
    queries: Queries,
    unwanted: Items,
    bits: Bits,
    heap: Floats,
    filled: Ints,
    kept: Items,
    uppers: Floats,
) -> int:
    wide = _widened(queries.bytes)
    high, low = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    sums = np.empty(4 * TILE, np.int32)
    n, k = 0, len(heap)
    for cell in cells:
        first, size = rows.offsets[cell], rows.offsets[cell + 1] - rows.offsets[cell]
        for done in range(0, size, TILE):
            tile = tiles.offsets[cell] + done // TILE
            _bounds(tiles.tiles[tile], tiles.scales[TILE * tile : TILE * (tile + 1)], wide, queries, sums, high, low)
            threshold = heap[0] if filled[0] == k else np.float32(-np.inf)
            if high.max() < threshold:
                continue
            if n + TILE > len(kept):
                n = _drop(kept, uppers, n, threshold)
                if n + TILE > len(kept):
                    return -1
            for lane in range(min(TILE, size - done)):
                if filled[0] == k and high[lane] < heap[0]:
                    continue
                item = rows.items[first + done + lane]
                if _is_set(rows.dead, item) or _is_set(bits, item) or contains(unwanted, 0, len(unwanted), item):
                    continue
                kept[n], uppers[n] = first + done + lane, high[lane]
                n += 1
                _keep_bound(heap, filled, low[lane])
    return n


@kernel
def _widened(queries: NDArray[np.int8]) -> Items:
    """Each group of 4 coordinates repeated for the 16 rows of a tile, ``(interests, groups, 64)``."""
    groups = queries.shape[1] // 4
    wide = np.empty((len(queries), groups, 4 * TILE), np.int32)
    for j in range(len(queries)):
        for group in range(groups):
            for i in range(4 * TILE):
                wide[j, group, i] = queries[j, 4 * group + i % 4]
    return wide


@kernel
def _multiply(tile: NDArray[np.uint8], query: Items, sums: Items) -> None:
    for i in range(4 * TILE):
        sums[i] = 0
    flat = tile.reshape(len(tile), 4 * TILE)
    for group in range(len(flat)):
        values, factors = flat[group], query[group]
        for i in range(4 * TILE):
            sums[i] += np.int32(values[i]) * factors[i]


@kernel
def _bounds(
    tile: NDArray[np.uint8], scales: Floats, wide: Items, queries: Queries, sums: Items, high: Floats, low: Floats
) -> None:
    high[:], low[:] = -np.inf, -np.inf
    for j in range(len(wide)):
        _multiply(tile, wide[j], sums)
        for lane in range(TILE):
            dot = np.int32(
                sums[4 * lane] + sums[4 * lane + 1] + sums[4 * lane + 2] + sums[4 * lane + 3] - queries.corrections[j]
            )
            middle = np.float32(dot) * queries.slopes[j]
            high[lane] = max(high[lane], scales[lane] * (middle + queries.slacks[j]) + queries.highs[j])
            low[lane] = max(low[lane], scales[lane] * (middle - queries.slacks[j]) + queries.lows[j])


@kernel
def _drop(kept: Items, uppers: Floats, n: int, threshold: float) -> int:
    left = 0
    for i in range(n):
        if uppers[i] >= threshold:
            kept[left], uppers[left] = kept[i], uppers[i]
            left += 1
    return left


@kernel
def _is_set(bits: Bits, item: int) -> bool:
    return len(bits) > 0 and bool((bits[item >> 3] >> (item & 7)) & 1)


@kernel
def _keep_bound(heap: Floats, filled: Ints, value: float) -> None:
    """Keep the k largest lower bounds, the smallest first."""
    k, at = len(heap), 0
    if filled[0] < k:
        at = filled[0]
        filled[0] += 1
        while at > 0 and heap[(at - 1) // 2] > value:
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
        heap[at] = value
        return
    if not value > heap[0]:
        return
    while 2 * at + 1 < k:
        child = 2 * at + 1
        if child + 1 < k and heap[child + 1] < heap[child]:
            child += 1
        if not heap[child] < value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@kernel
def cells_in_order(posterior: Floats, visit: float, first: int) -> Ints:
    """Likeliest cells until their mass reaches ``visit``; equally likely ones by number.

    ``first`` of them are singled out before sorting, twice as many each time that they do not suffice.
    """
    n = len(posterior)
    while True:
        first = min(first, n)
        bar = np.float32(-1.0) if first == n else np.partition(posterior, n - first)[n - first]
        likely = np.flatnonzero(posterior >= bar)
        likely = likely[np.argsort(-posterior[likely], kind="mergesort")]
        mass = 0.0
        for i in range(len(likely)):
            if mass >= visit and i > 0:
                return likely[:i]
            mass += posterior[likely[i]]
        if first == n or (mass >= visit):
            return likely
        first *= 4


def segment_of(table: ItemVectors, items: Items, offsets: Ints, dead: Bits, tiles: Tiles) -> Segment:
    """Arrays as the kernels take them; ``items`` are those of the catalogue."""
    rows = Rows(table.vectors, frozen(items), frozen(offsets), frozen(dead), table.longest)
    arrays = frozen(tiles.tiles), frozen(tiles.scales), frozen(tiles.offsets)
    return Segment(rows, Tiles(*arrays, tiles.largest, tiles.error))
