"""Exact top-k by dot product: blocked, bounded in memory, and the same bits for any blocking.

A fast float32 product proposes, a float64 product in a fixed order decides. With unit roundoff ``u = 2^-24`` any
float32 summation of ``d`` products is within ``d u / (1 - d u) |q||v|`` of the true dot product (Higham, Accuracy and
Stability, section 3.1, with Cauchy-Schwarz), and the score that decides, rounded once to float32, within ``u |q||v|``.
So two scores whose fast values differ by more than twice the sum are in their true order: dropping what lies further
than that below the k-th fast value never drops an answer. :func:`margins` adds room for rounding the threshold itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index.filters import NOTHING, Blocked, is_blocked
from tesserec.index.kernels import (
    contains,
    empty_rows,
    exact_dot,
    fast_dot,
    index_of,
    kernel,
    key_of,
    ordered_rows,
    score_of,
    select_largest,
)

Floats = NDArray[np.float32]
Items = NDArray[np.int32]
Ints = NDArray[np.int64]
TopK = tuple[Items, Floats]
Result = TypeVar("Result")

_TILE_ITEMS = 4096
_TILE_ROWS = 512
_CHUNK = 64


class ItemVectors(NamedTuple):
    """Vectors to search, checked once: what :func:`item_vectors` made.

    Attributes
    ----------
    vectors
        float32 ``(n, dim)``.
    items, place
        Item of each vector and vector of each item, int32 ``(n,)``, inverse to each other.
    longest
        Largest Euclidean length of a vector.
    """

    vectors: Floats
    items: Items
    place: Items
    longest: float


def item_vectors(vectors: Floats, items: Items | None = None) -> ItemVectors:
    """Check vectors for search; ``items`` is the item of each, by default its position.

    Reads every vector; what a file says of its own vectors makes an :class:`ItemVectors` without.

    Raises
    ------
    DataError
        If a vector is not finite.
    """
    items = np.arange(len(vectors), dtype=np.int32) if items is None else items
    longest = float(_lengths(vectors, "item vector").max(initial=0.0))
    return ItemVectors(frozen(vectors), frozen(items), frozen(places(items)), longest)


def exact_topk(
    queries: Floats,
    vectors: Floats | ItemVectors,
    k: int,
    *,
    exclude: Histories | None = None,
    blocked: Blocked = NOTHING,
    budget_mb: int = 256,
) -> TopK:
    """The ``k`` vectors with the largest dot product of each query.

    Scores are float64 dot products rounded once to float32; equal scores are in order of rising item.

    Parameters
    ----------
    queries, vectors
        float32 ``(rows, dim)`` and ``(n, dim)``; vectors that are searched often or are not in order of item are
        better given as :func:`item_vectors`.
    exclude
        One set of item indices a row that must not be returned.
    blocked
        Items that no row must be given.
    budget_mb
        Working memory besides inputs and answer, in MiB.

    Returns
    -------
    tuple of array
        Items int32 ``(rows, k)``, -1 where fewer are left, and scores float32 ``(rows, k)``, -inf there.

    Raises
    ------
    DataError
        If a query or a vector is not finite.
    ConfigError
        If k or the budget is below one.
    """
    table = vectors if isinstance(vectors, ItemVectors) else item_vectors(vectors)
    search = _Search(queries, table, k, exclude, blocked)
    return _matrix_topk(search, *tile_shape(search.capacity, budget_mb))


def tile_shape(capacity: int, budget_mb: int) -> tuple[int, int]:
    """Rows and items of one tile whose scores and running candidates fit the budget."""
    if budget_mb < 1:
        raise ConfigError(f"budget_mb = {budget_mb}; the search needs at least 1 MiB of working memory")
    rows = (budget_mb << 20) // (8 * capacity + 4 * _TILE_ITEMS)
    return int(np.clip(rows, 1, _TILE_ROWS)), _TILE_ITEMS


def _matrix_topk(search: _Search, tile_rows: int, tile_items: int) -> TopK:
    vectors = search.table.vectors
    scores = np.empty(tile_rows * tile_items, np.float32)
    for start in range(0, len(search.queries), tile_rows):
        rows = search.rows(start, start + tile_rows)
        for first in range(0, len(vectors), tile_items):
            part = vectors[first : first + tile_items]
            tile = scores[: len(rows.queries) * len(part)].reshape(-1, len(part))
            np.matmul(rows.queries, part.T, out=tile)
            in_threads(len(tile), partial(_absorb, tile, first, rows))
        search.finish(start, rows)
    return search.answer


def cells_topk(
    queries: Floats,
    vectors: ItemVectors,
    offsets: Ints,
    cells: Histories,
    k: int,
    *,
    exclude: Histories | None = None,
    blocked: Blocked = NOTHING,
    budget_mb: int = 256,
) -> TopK:
    """As :func:`exact_topk`, where each row sees only the vectors of its own cells.

    Parameters
    ----------
    offsets
        Cell ``c`` is ``vectors[offsets[c]:offsets[c + 1]]``, int64 ``(cells + 1,)``.
    cells
        The cells of each row, each named once.
    """
    search = _Search(queries, vectors, k, exclude, blocked)
    tile_rows, _ = tile_shape(search.capacity, budget_mb)
    for start in range(0, len(queries), tile_rows):
        rows = search.rows(start, start + tile_rows)
        visits = cells.take(slice(start, start + tile_rows)).compact()
        arrays = visits.values, visits.starts, visits.stops, frozen(offsets)
        in_threads(len(visits), partial(_visit, *arrays, rows))
        search.finish(start, rows)
    return search.answer


def merge_topk(one: TopK, other: TopK) -> TopK:
    """The best of two answers ``(rows, k)`` to the same queries over different items."""
    items, scores = np.hstack([one[0], other[0]]), np.hstack([one[1], other[1]])
    order = np.lexsort((np.where(items < 0, np.iinfo(np.int32).max, items), -scores))[:, : one[0].shape[1]]
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


class _Rows(NamedTuple):
    """A block of queries and its running candidates, as the kernels see them.

    ``keys[row, :counts[row]]`` are the candidates of a row, with *positions* in ``vectors`` as their indices.
    """

    queries: Floats
    vectors: Floats
    items: Items
    place: Items
    seen: Items
    seen_from: Ints
    seen_to: Ints
    blocked: Blocked
    margins: Floats
    thresholds: Floats
    counts: Ints
    keys: NDArray[np.int64]
    k: int


class _Search:
    """Checked inputs, and the answer that blocks of rows fill."""

    def __init__(
        self, queries: Floats, table: ItemVectors, k: int, exclude: Histories | None, blocked: Blocked = NOTHING
    ) -> None:
        if k < 1:
            raise ConfigError(f"k = {k}; ask for at least one candidate")
        self.queries, self.table, self.exclude = frozen(queries), table, exclude
        self.blocked = frozen_blocked(blocked)
        self.found = min(k, len(table.vectors))
        self.capacity = self.found + max(self.found, 64)
        self.margins = margins(self.queries, table.longest)
        self.answer: TopK = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -np.inf, np.float32)

    def rows(self, start: int, stop: int) -> _Rows:
        """A block of queries without candidates yet."""
        part = slice(start, min(stop, len(self.queries)))
        n = part.stop - start
        unwanted = empty_rows(n) if self.exclude is None else ordered_rows(self.exclude.take(part))
        return _Rows(
            self.queries[part],
            self.table.vectors,
            self.table.items,
            self.table.place,
            unwanted.values,
            unwanted.starts,
            unwanted.stops,
            self.blocked,
            self.margins[part],
            np.full(n, -np.inf, np.float32),
            np.zeros(n, np.int64),
            np.empty((n, self.capacity), np.int64),
            self.found,
        )

    def finish(self, start: int, rows: _Rows) -> None:
        """Write the answer of a block whose vectors have all been seen."""
        items, scores = (array[start : start + len(rows.queries)] for array in self.answer)
        in_threads(len(items), partial(_finish, items, scores, rows))


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous read-only view, so that arrays in memory and mapped ones share one compiled kernel."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def frozen_blocked(blocked: Blocked) -> Blocked:
    """The same for blocked items."""
    return Blocked(frozen(blocked.listed), frozen(blocked.bits))


def places(items: Items) -> Items:
    """Position of each item in ``items``, the inverse permutation."""
    place = np.empty_like(items)
    place[items] = np.arange(len(items), dtype=items.dtype)
    return place


def margins(queries: Floats, longest: float) -> Floats:
    """How far below the k-th fast score an answer can lie, float32 ``(rows,)``."""
    largest = _lengths(queries, "query vector") * longest
    if (largest > 1e37).any():
        raise DataError(f"dot products reach {largest.max():.1e}, beyond float32; scale the vectors down")
    dim = queries.shape[1]
    # The last term covers products and sums that fall below the normal range of float32.
    margins = 2 * (dim + 4) * 2.0**-24 * largest + (dim + 1) * 2.0**-120
    return np.asarray(margins, np.float32)


def _lengths(vectors: Floats, what: str) -> NDArray[np.float64]:
    """Euclidean lengths, ``(n,)``, in float64 block by block."""
    lengths = np.empty(len(vectors))
    for start in range(0, len(vectors), 1 << 16):
        block = vectors[start : start + (1 << 16)]
        lengths[start : start + len(block)] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise DataError(f"{what} {row} holds NaN or infinity; the model has diverged, train it again")
    return lengths


def in_threads(rows: int, work: Callable[[int, int], Result]) -> list[Result]:
    """What ``work(begin, end)`` gives for as many parts of the rows as there are cores; kernels hold no lock."""
    workers = min(_cores(), max(1, rows // 16))
    if workers == 1:
        return [work(0, rows)]
    edges = np.linspace(0, rows, workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@kernel
def _rescore(keys: Ints, n: int, row: int, r: _Rows) -> int:
    """Replace fast scores by exact ones and bring the best k by (score, item) to the front."""
    for i in range(n):
        position = index_of(keys[i])
        keys[i] = key_of(exact_dot(r.queries[row], r.vectors[position]), r.items[position])
    if n > r.k:
        select_largest(keys, n, r.k)
    n = min(n, r.k)
    for i in range(n):
        keys[i] = key_of(score_of(keys[i]), r.place[index_of(keys[i])])
    return n


@kernel
def _shrink(row: int, n: int, r: _Rows) -> tuple[int, float]:
    """Drop candidates that cannot be answers; how many are left, and the new threshold."""
    keys = r.keys[row]
    threshold = score_of(select_largest(keys, n, r.k)) - r.margins[row]
    left = 0
    for i in range(n):
        if score_of(keys[i]) >= threshold:
            keys[left] = keys[i]
            left += 1
    if 2 * left > len(keys) + r.k:  # too many near ties to tell apart by fast scores
        left = _rescore(keys, left, row, r)
        threshold = score_of(select_largest(keys, left, r.k)) - r.margins[row]
    return left, threshold


@kernel
def _any_from(scores: Floats, threshold: float) -> bool:
    count = 0  # a sum over a slice is vectorised, a loop that may stop early is not
    for i in range(len(scores)):
        count += scores[i] >= threshold
    return count > 0


@kernel
def _unwanted(r: _Rows, row: int, item: int) -> bool:
    return bool(contains(r.seen, r.seen_from[row], r.seen_to[row], item) or is_blocked(r.blocked, item))


@kernel
def _absorb(tile: Floats, first: int, r: _Rows, begin: int, end: int) -> None:
    """Add a tile of fast scores ``(rows, items from first on)`` to the running candidates."""
    for row in range(begin, end):
        n, threshold = r.counts[row], r.thresholds[row]
        scores = tile[row]
        for chunk in range(0, len(scores), _CHUNK):
            stop = min(chunk + _CHUNK, len(scores))
            if not _any_from(scores[chunk:stop], threshold):
                continue
            for i in range(chunk, stop):
                if scores[i] < threshold or _unwanted(r, row, r.items[first + i]):
                    continue
                r.keys[row, n] = key_of(scores[i], first + i)
                n += 1
                if n == r.keys.shape[1]:
                    n, threshold = _shrink(row, n, r)
        r.counts[row], r.thresholds[row] = n, threshold


@kernel
def _visit(cells: Items, cells_from: Ints, cells_to: Ints, offsets: Ints, r: _Rows, begin: int, end: int) -> None:
    """Score the cells of each row and add them to the running candidates."""
    for row in range(begin, end):
        n, threshold = r.counts[row], r.thresholds[row]
        query = r.queries[row]
        for visit in range(cells_from[row], cells_to[row]):
            for i in range(offsets[cells[visit]], offsets[cells[visit] + 1]):
                score = fast_dot(query, r.vectors[i])
                if score < threshold or _unwanted(r, row, r.items[i]):
                    continue
                r.keys[row, n] = key_of(score, i)
                n += 1
                if n == r.keys.shape[1]:
                    n, threshold = _shrink(row, n, r)
        r.counts[row], r.thresholds[row] = n, threshold


@kernel
def _finish(items: Items, scores: Floats, r: _Rows, begin: int, end: int) -> None:
    """Score the survivors exactly and write the best in order."""
    for row in range(begin, end):
        n = r.counts[row]
        if n > r.k:
            n, _ = _shrink(row, n, r)
        ranked = np.empty(n, np.int64)
        for i in range(n):
            position = index_of(r.keys[row, i])
            ranked[i] = key_of(exact_dot(r.queries[row], r.vectors[position]), r.items[position])
        ranked.sort()
        for rank in range(min(n, r.k)):
            items[row, rank] = index_of(ranked[n - 1 - rank])
            scores[row, rank] = score_of(ranked[n - 1 - rank])
