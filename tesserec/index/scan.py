"""Search of cells for all interests of a user at once: an 8-bit scan, exact on what it visits.

An item's value is its best over the interests, ``max_j (q_j . v + added_j)``, so one pass over the cells serves them
all. Vectors and queries in 8 bits bound every value from both sides (:mod:`tesserec.index.tiles`); rows whose upper
bound reaches the k-th best lower bound are kept, and exact products decide among them as in
:mod:`tesserec.index.topk`. Quantisation costs no answer, only a few more exact products.

``scan.c`` does the whole in one call where it can be had; the kernels here give the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Ints, Items
from tesserec.index.filters import Bits, Blocked
from tesserec.index.kernels import ZERO, contains, exact_dot, fast_dot, kernel
from tesserec.index.native import native
from tesserec.index.tiles import TILE, Doubles, Floats, Queries, Tiles, make_queries
from tesserec.index.topk import ItemVectors, frozen, margins

_ROOM, _MORE = 1 << 13, 16
NO_STOPS = frozen(np.empty(0, np.float32))


class Best(NamedTuple):
    """Items, values and interests, best first, and how many of the cells were visited."""

    items: Items
    values: Doubles
    columns: Items
    visited: int


class Rows(NamedTuple):
    """A segment as exact products need it, and the bitmap of its dead items."""

    vectors: Floats
    items: Items
    offsets: Ints
    dead: Bits
    longest: float


class Segment(NamedTuple):
    """A segment in both forms."""

    rows: Rows
    tiles: Tiles


class Scratch(NamedTuple):
    """Working memory of one search: the k-th best lower bound so far, rows kept with their bounds, cells visited."""

    bar: Floats
    kept: Items
    uppers: Floats
    lowers: Floats
    visited: Ints


class Asked(NamedTuple):
    """One search of a segment: what is searched, for whom, and where it works."""

    rows: Rows
    tiles: Tiles
    cells: Ints
    stops: Floats
    queries: Floats
    added: Doubles
    own: Queries
    unwanted: Items
    bits: Bits
    scratch: Scratch


def best_together(
    segments: Sequence[Segment],
    cells: Ints,
    queries: Floats,
    added: Doubles,
    unwanted: Items,
    blocked: Blocked,
    k: int,
    stops: Floats = NO_STOPS,
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
    stops
        Where given, one for each cell: the search ends at the first cell whose stop lies below the k-th best value
        found before it, as far as that is known by then.

    Returns
    -------
    Best or None
        At most k items, by falling value, then rising item; of equal values an item takes the first interest's. None
        if more values are nearly equal than there is room for.
    """
    if len(blocked.listed):
        unwanted = np.union1d(unwanted, blocked.listed).astype(np.int32)
    queries, added = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(added, np.float64)
    cells, unwanted, bits = frozen(np.asarray(cells, np.int64)), frozen(unwanted), frozen(blocked.bits)
    for room in (_ROOM + 16 * k, _MORE * (_ROOM + 16 * k)):
        asked = cells, stops, queries, added, unwanted, bits
        if (best := _best_of_segments(segments, asked, _scratch(room), k)) is not None:
            return best
    return None


def _best_of_segments(segments: Sequence[Segment], asked: tuple[Any, ...], scratch: Scratch, k: int) -> Best | None:
    cells, stops, queries, added, unwanted, bits = asked
    search, answers = native_search() or _search, list[Best]()
    for rows, tiles in segments:
        own = _queries_of(queries, added, tiles, rows.longest)
        best = search(Asked(rows, tiles, cells, frozen(stops), queries, added, own, unwanted, bits, scratch), k)
        if best is None:
            return None
        answers.append(best)
        cells, stops = cells[: best.visited], NO_STOPS  # later segments hold what was added to the same cells
    if len(answers) == 1:
        return answers[0]
    items, values, columns = (np.concatenate(parts) for parts in list(zip(*answers, strict=True))[:3])
    order = np.lexsort((items, -values))[:k]
    return Best(items[order], values[order], columns[order], answers[0].visited)


def highest(tiles: Tiles, longest: float, queries: Floats, added: Doubles) -> Floats:
    """Upper bounds of ``max_j (q_j . v + added_j)`` for all rows of tiles that are one cell, float32, a tile's 16 each.

    Parameters
    ----------
    longest
        Length of the longest row.
    """
    queries, added = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(added, np.float64)
    scratch, own = _scratch(len(tiles.scales)), _queries_of(queries, added, tiles, longest)
    in_c = native("scan", "tesserec_highest", "p")
    if in_c is None:
        _highest(tiles, own, scratch.uppers)
        return scratch.uppers
    nothing, no_bits = frozen(np.empty(0, np.int32)), frozen(np.empty(0, np.uint8))
    rows = Rows(frozen(queries), nothing, tiles.offsets, no_bits, longest)
    one = frozen(np.zeros(1, np.int64))
    asked = Asked(rows, tiles, one, NO_STOPS, queries, added, own, nothing, no_bits, scratch)
    values = np.empty(1)
    call, at = _call(asked, values, (scratch.kept, values, scratch.kept))
    in_c(at)
    del call
    return scratch.uppers


def _scratch(room: int) -> Scratch:
    # A second half of the lower bounds is for the selection of the k-th best.
    bounds = np.empty(room, np.float32), np.empty(2 * room, np.float32)
    return Scratch(np.full(1, -np.inf, np.float32), np.empty(room, np.int32), *bounds, np.zeros(1, np.int64))


def _queries_of(queries: Floats, added: Doubles, tiles: Tiles, longest: float) -> Queries:
    own: Queries = make_queries(queries, added, tiles.tiles.shape[1], tiles.largest, tiles.error, longest)
    if not own.limits[3] * longest <= 1e37:
        margins(queries, longest)  # which says what is wrong with them
    return own


def segment_of(table: ItemVectors, items: Items, offsets: Ints, dead: Bits, tiles: Tiles) -> Segment:
    """Arrays as the kernels take them; ``items`` are those of the catalogue."""
    rows = Rows(table.vectors, frozen(items), frozen(offsets), frozen(dead), table.longest)
    return Segment(rows, frozen_tiles(tiles))


def frozen_tiles(tiles: Tiles) -> Tiles:
    """Tiles as the kernels take them."""
    return Tiles(frozen(tiles.tiles), frozen(tiles.scales), frozen(tiles.offsets), tiles.largest, tiles.error)


def native_search() -> Callable[..., Best | None] | None:
    """The search of ``scan.c``, or None where it cannot be had."""
    in_c = native("scan", "tesserec_best", "p")
    return None if in_c is None else partial(_search_in_c, in_c)


def _search_in_c(in_c: Callable[[int], int], asked: Asked, k: int) -> Best | None:
    items, values, columns, queries = np.empty(k, np.int32), np.empty(k), np.empty(k, np.int32), asked.queries
    exact = np.empty((len(queries) + 2) * (queries.shape[1] + 13) + len(queries) + 2 * k + len(asked.scratch.kept))
    call, at = _call(asked, exact, (items, values, columns))
    n = in_c(at)
    del call  # which the address was of
    return None if n < 0 else Best(items[:n], values[:n], columns[:n], int(asked.scratch.visited[0]))


@kernel
def _call(asked: Asked, exact: Doubles, best: tuple[Items, Doubles, Items]) -> tuple[Ints, int]:
    """``struct call`` of ``scan.c``, and its address. Asking an array for its address costs microseconds in Python."""
    items, values, columns = best
    rows, tiles, cells, stops, queries, added, own, unwanted, bits, scratch = asked
    call = np.empty(40, np.int64)
    call[0], call[1], call[2] = tiles.tiles.ctypes.data, tiles.scales.ctypes.data, tiles.offsets.ctypes.data
    call[3], call[4], call[5] = rows.offsets.ctypes.data, rows.vectors.ctypes.data, rows.items.ctypes.data
    call[6], call[7], call[8], call[9] = rows.dead.ctypes.data, len(rows.dead), tiles.tiles.shape[1], queries.shape[1]
    call[10], call[11], call[12], call[13] = cells.ctypes.data, len(cells), queries.ctypes.data, added.ctypes.data
    call[14], call[15], call[16] = own.bytes.ctypes.data, own.corrections.ctypes.data, own.slopes.ctypes.data
    call[17], call[18], call[19] = own.rests.ctypes.data, own.lengths.ctypes.data, own.highs.ctypes.data
    call[20], call[21] = own.lows.ctypes.data, len(queries)
    call[22], call[23], call[24], call[25] = unwanted.ctypes.data, len(unwanted), bits.ctypes.data, len(bits)
    call[26], call[27], call[28] = scratch.bar.ctypes.data, scratch.kept.ctypes.data, scratch.uppers.ctypes.data
    call[29], call[30], call[31] = scratch.lowers.ctypes.data, len(scratch.kept), own.limits.ctypes.data
    call[32], call[33], call[34] = exact.ctypes.data, items.ctypes.data, values.ctypes.data
    call[35], call[36] = columns.ctypes.data, len(items)
    call[37], call[38], call[39] = stops.ctypes.data, len(stops), scratch.visited.ctypes.data
    return call, call.ctypes.data


def _search(asked: Asked, k: int) -> Best | None:
    rows, queries, scratch = asked.rows, asked.queries, asked.scratch
    n = _scan(rows, asked.tiles, (asked.cells, asked.stops), asked.own, asked.unwanted, asked.bits, scratch, k)
    if n < 0:
        return None
    near = margins(queries, rows.longest)
    items, values, columns = best_of(rows.vectors, rows.items, scratch.kept[:n], queries, asked.added, near, k)
    return Best(items, values, columns, int(scratch.visited[0]))


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
    walk: tuple[Ints, Floats],
    queries: Queries,
    unwanted: Items,
    bits: Bits,
    scratch: Scratch,
    k: int,
) -> int:
    """Rows whose upper bound reaches the k-th best lower bound; -1 where there are more than room for them."""
    wide = _widened(queries.bytes)
    high, low = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    sums = np.empty(4 * TILE, np.int32)
    n, room = ZERO, len(scratch.kept)
    full = min(2 * k, room)
    cells, stops = walk
    scratch.visited[0] = 0
    for visit in range(len(cells)):
        if len(stops) > 0 and stops[visit] < scratch.bar[0]:
            break
        scratch.visited[0] += 1
        cell = cells[visit]
        first, size = rows.offsets[cell], rows.offsets[cell + 1] - rows.offsets[cell]
        for done in range(0, size, TILE):
            tile = tiles.offsets[cell] + done // TILE
            _bounds(tiles.tiles[tile], tiles.scales[TILE * tile : TILE * (tile + 1)], wide, queries, sums, high, low)
            bar, here = scratch.bar[0], min(TILE, size - done)
            if high[:here].max() < bar:
                continue
            if n + TILE > full:
                n = _raise_bar(scratch, n, k)
                if n + TILE > room:
                    return -1
                full = min(3 * n // 2 + k, room)
            for lane in range(here):
                item = rows.items[first + done + lane]
                if high[lane] < bar or _is_set(rows.dead, item) or _is_set(bits, item):
                    continue
                if not contains(unwanted, 0, len(unwanted), item):
                    scratch.kept[n] = first + done + lane
                    scratch.uppers[n], scratch.lowers[n] = high[lane], low[lane]
                    n += 1
    return int(_raise_bar(scratch, n, k))


@kernel
def _highest(tiles: Tiles, queries: Queries, uppers: Floats) -> None:
    wide = _widened(queries.bytes)
    low, sums = np.empty(TILE, np.float32), np.empty(4 * TILE, np.int32)
    for tile in range(len(tiles.tiles)):
        part = slice(TILE * tile, TILE * (tile + 1))
        _bounds(tiles.tiles[tile], tiles.scales[part], wide, queries, sums, uppers[part], low)


@kernel
def _raise_bar(scratch: Scratch, n: int, k: int) -> int:
    """Raise the bar to the k-th best lower bound, and drop the rows whose upper bound does not reach it."""
    if n >= k:
        scratch.bar[0] = max(scratch.bar[0], np.partition(scratch.lowers[:n], n - k)[n - k])
    left = 0
    for i in range(n):
        if scratch.uppers[i] >= scratch.bar[0]:
            scratch.kept[left] = scratch.kept[i]
            scratch.uppers[left], scratch.lowers[left] = scratch.uppers[i], scratch.lowers[i]
            left += 1
    return left


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
    largest, longest, error = queries.limits[0], queries.limits[1], queries.limits[2]
    for j in range(len(wide)):
        _multiply(tile, wide[j], sums)
        for lane in range(TILE):
            dot = np.int32(
                sums[4 * lane] + sums[4 * lane + 1] + sums[4 * lane + 2] + sums[4 * lane + 3] - queries.corrections[j]
            )
            scale = scales[lane]
            slack = min(scale * largest, longest + scale * error) * queries.rests[j] + scale * queries.lengths[j]
            middle = scale * (np.float32(dot) * queries.slopes[j])
            high[lane] = max(high[lane], middle + slack + queries.highs[j])
            low[lane] = max(low[lane], middle - slack + queries.lows[j])


@kernel
def _is_set(bits: Bits, item: int) -> bool:
    return len(bits) > 0 and bool((bits[item >> 3] >> (item & 7)) & 1)
