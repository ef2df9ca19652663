"""Exact top-k by dot product: blocked, bounded in memory, and the same bits for any blocking.

A fast float32 product proposes, a float64 product in a fixed order decides. With unit roundoff ``u = 2^-24`` any
float32 summation of ``d`` products is within ``d u / (1 - d u) |q||v|`` of the true dot product (Higham, Accuracy and
Stability, section 3.1, with Cauchy-Schwarz), and the score that decides, rounded once to float32, within ``u |q||v|``.
So two scores whose fast values differ by more than twice the sum are in their true order: dropping what lies further
than that below the k-th fast value never drops an answer. :func:`_margins` adds room for rounding the threshold itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index.kernels import (
    contains,
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
TopK = tuple[Items, Floats]

_TILE_ITEMS = 4096
_TILE_ROWS = 512
_CHUNK = 64


def exact_topk(
    queries: Floats,
    vectors: Floats,
    k: int,
    *,
    items: Items | None = None,
    exclude: Histories | None = None,
    budget_mb: int = 256,
) -> TopK:
    """The ``k`` vectors with the largest dot product of each query.

    Scores are float64 dot products rounded once to float32; equal scores are in order of rising item.

    Parameters
    ----------
    queries, vectors
        float32 ``(rows, dim)`` and ``(n, dim)``.
    items
        Item index of each vector, int32 ``(n,)``, each of 0 to n - 1 once; by default its position.
    exclude
        One set of item indices a row that must not be returned.
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
    keep = _capacity(min(k, len(vectors)))
    rows, width = tile_shape(keep, budget_mb)
    return _matrix_topk(queries, vectors, k, items, exclude, rows, width)


def tile_shape(capacity: int, budget_mb: int) -> tuple[int, int]:
    """Rows and items of one tile whose scores and running candidates fit the budget."""
    if budget_mb < 1:
        raise ConfigError(f"budget_mb = {budget_mb}; the search needs at least 1 MiB of working memory")
    rows = (budget_mb << 20) // (8 * capacity + 4 * _TILE_ITEMS)
    return int(np.clip(rows, 1, _TILE_ROWS)), _TILE_ITEMS


def _matrix_topk(
    queries: Floats,
    vectors: Floats,
    k: int,
    items: Items | None,
    exclude: Histories | None,
    tile_rows: int,
    tile_items: int,
) -> TopK:
    search = _Search(queries, vectors, k, items, exclude)
    scores = np.empty((tile_rows, tile_items), np.float32)
    for start in range(0, len(queries), tile_rows):
        rows = slice(start, min(start + tile_rows, len(queries)))
        state = search.state(rows)
        for first in range(0, len(vectors), tile_items):
            part = vectors[first : first + tile_items]
            tile = scores[: rows.stop - start, : len(part)]
            np.matmul(search.queries[rows], part.T, out=tile)
            in_threads(len(tile), lambda a, b, tile=tile, first=first, state=state: _absorb(a, b, tile, first, *state))
        search.finish(rows, state)
    return search.answer


def cells_topk(
    queries: Floats,
    vectors: Floats,
    offsets: NDArray[np.int64],
    cells: Histories,
    k: int,
    *,
    items: Items,
    exclude: Histories | None = None,
) -> TopK:
    """As :func:`exact_topk`, where each row sees only the vectors of its own cells.

    Parameters
    ----------
    offsets
        Cell ``c`` is ``vectors[offsets[c]:offsets[c + 1]]``, ``(cells + 1,)``.
    cells
        The cells of each row, each named once.
    """
    search = _Search(queries, vectors, k, items, exclude)
    for start in range(0, len(queries), _TILE_ROWS):
        rows = slice(start, min(start + _TILE_ROWS, len(queries)))
        state = search.state(rows)
        visits = cells.take(rows).compact()
        work = lambda a, b, v=visits, s=state: _visit(a, b, v.values, v.starts, v.stops, offsets, *s)  # noqa: E731
        in_threads(rows.stop - start, work)
        search.finish(rows, state)
    return search.answer


class _Search:
    """Checked inputs, and the answer that blocks of rows fill."""

    def __init__(
        self, queries: Floats, vectors: Floats, k: int, items: Items | None, exclude: Histories | None
    ) -> None:
        if k < 1:
            raise ConfigError(f"k = {k}; ask for at least one candidate")
        own = np.arange(len(vectors), dtype=np.int32)
        self.queries = _frozen(queries)
        self.vectors = _frozen(vectors)
        self.items = _frozen(own if items is None else items)
        self.place = _frozen(own if items is None else places(items))
        self.exclude = exclude
        self.found = min(k, len(vectors))
        self.margins = _margins(self.queries, self.vectors)
        self.answer: TopK = (
            np.full((len(queries), k), -1, np.int32),
            np.full((len(queries), k), -np.inf, np.float32),
        )

    def state(self, rows: slice) -> tuple[Any, ...]:
        """Arguments that the kernels share for a block of rows."""
        n = rows.stop - rows.start
        unwanted = Histories.from_lists([[]] * n) if self.exclude is None else ordered_rows(self.exclude.take(rows))
        return (
            self.items,
            self.place,
            self.queries[rows],
            self.vectors,
            unwanted.values,
            unwanted.starts,
            unwanted.stops,
            self.margins[rows],
            np.full(n, -np.inf, np.float32),
            np.zeros(n, np.int64),
            np.empty((n, _capacity(self.found)), np.int64),
            self.found,
        )

    def finish(self, rows: slice, state: tuple[Any, ...]) -> None:
        items, scores = (a[rows] for a in self.answer)
        in_threads(len(items), lambda a, b: _finish(a, b, items, scores, *state))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous read-only view, so that arrays in memory and mapped ones share one compiled kernel."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def places(items: Items) -> Items:
    """Position of each item in ``items``, the inverse permutation."""
    place = np.empty_like(items)
    place[items] = np.arange(len(items), dtype=items.dtype)
    return place


def _capacity(k: int) -> int:
    return k + max(k, 64)


def _margins(queries: Floats, vectors: Floats) -> Floats:
    """How far below the k-th fast score an answer can lie, float32 ``(rows,)``."""
    longest = 0.0
    for start in range(0, len(vectors), 1 << 16):
        block = vectors[start : start + (1 << 16)]
        longest = max(longest, float(np.einsum("ij,ij->i", block, block, dtype=np.float64).max(initial=0.0)))
        if not np.isfinite(longest) or not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise DataError(f"item vector {row} holds NaN or infinity; the model has diverged, train it again")
    lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise DataError(f"query vector {row} holds NaN or infinity; the model has diverged, train it again")
    largest = lengths * np.sqrt(longest)
    if (largest > 1e37).any():
        raise DataError(f"dot products reach {largest.max():.1e}, beyond float32; scale the vectors down")
    dim = vectors.shape[1]
    # The last term covers products and sums that fall below the normal range of float32.
    return (2 * (dim + 4) * 2.0**-24 * largest + (dim + 1) * 2.0**-120).astype(np.float32)


def in_threads(rows: int, work: Callable[[int, int], None]) -> None:
    """Split rows over the cores; the kernels hold no lock and rows are independent."""
    workers = min(_cores(), max(1, rows // 16))
    if workers == 1:
        work(0, rows)
        return
    edges = np.linspace(0, rows, workers + 1).astype(int)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@kernel
def _rescore(keys, n, k, query, vectors, items, place):  # type: ignore[no-untyped-def]
    """Replace fast scores by exact ones and bring the best ``k`` by (score, item) to the front."""
    for i in range(n):
        position = index_of(keys[i])
        keys[i] = key_of(exact_dot(query, vectors[position]), items[position])
    if n > k:
        select_largest(keys, n, k)
    n = min(n, k)
    for i in range(n):
        keys[i] = key_of(score_of(keys[i]), place[index_of(keys[i])])
    return n


@kernel
def _shrink(keys, n, k, margin, query, vectors, items, place):  # type: ignore[no-untyped-def]
    """Drop candidates that cannot be answers; returns how many are left and the new threshold."""
    threshold = score_of(select_largest(keys, n, k)) - margin
    left = 0
    for i in range(n):
        if score_of(keys[i]) >= threshold:
            keys[left] = keys[i]
            left += 1
    if 2 * left > len(keys) + k:  # too many near ties to tell apart by fast scores
        left = _rescore(keys, left, k, query, vectors, items, place)
        threshold = score_of(select_largest(keys, left, k)) - margin
    return left, threshold


@kernel
def _count_from(scores, start, stop, threshold):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(start, stop):
        count += scores[i] >= threshold
    return count


@kernel
def _absorb(
    begin, end, tile, first, items, place, queries, vectors, seen, seen_from, seen_to, margins, thresholds, counts, keys, k
):  # type: ignore[no-untyped-def]
    """Add a tile of fast scores ``(rows, items from first on)`` to the running candidates."""
    for row in range(begin, end):
        n, threshold = counts[row], thresholds[row]
        scores = tile[row]
        for chunk in range(0, len(scores), _CHUNK):
            stop = min(chunk + _CHUNK, len(scores))
            if _count_from(scores, chunk, stop, threshold) == 0:
                continue
            for i in range(chunk, stop):
                if scores[i] < threshold or contains(seen, seen_from[row], seen_to[row], items[first + i]):
                    continue
                keys[row, n] = key_of(scores[i], first + i)
                n += 1
                if n == keys.shape[1]:
                    n, threshold = _shrink(keys[row], n, k, margins[row], queries[row], vectors, items, place)
        counts[row], thresholds[row] = n, threshold


@kernel
def _visit(
    begin,
    end,
    cells,
    cells_from,
    cells_to,
    offsets,
    items,
    place,
    queries,
    vectors,
    seen,
    seen_from,
    seen_to,
    margins,
    thresholds,
    counts,
    keys,
    k,
):  # type: ignore[no-untyped-def]
    """Score the cells of each row and add them to the running candidates."""
    for row in range(begin, end):
        n, threshold = counts[row], thresholds[row]
        query = queries[row]
        for visit in range(cells_from[row], cells_to[row]):
            for i in range(offsets[cells[visit]], offsets[cells[visit] + 1]):
                score = fast_dot(query, vectors[i])
                if score < threshold or contains(seen, seen_from[row], seen_to[row], items[i]):
                    continue
                keys[row, n] = key_of(score, i)
                n += 1
                if n == keys.shape[1]:
                    n, threshold = _shrink(keys[row], n, k, margins[row], query, vectors, items, place)
        counts[row], thresholds[row] = n, threshold


@kernel
def _finish(
    begin,
    end,
    out_items,
    out_scores,
    items,
    place,
    queries,
    vectors,
    seen,
    seen_from,
    seen_to,
    margins,
    thresholds,
    counts,
    keys,
    k,
):  # type: ignore[no-untyped-def]
    """Score the survivors exactly and write the best in order."""
    for row in range(begin, end):
        row_keys = keys[row]
        n = counts[row]
        if n > k:
            n, _ = _shrink(row_keys, n, k, margins[row], queries[row], vectors, items, place)
        for i in range(n):
            position = index_of(row_keys[i])
            row_keys[i] = key_of(exact_dot(queries[row], vectors[position]), items[position])
        ranked = np.sort(row_keys[:n])[::-1]
        for rank in range(min(n, k)):
            out_items[row, rank] = index_of(ranked[rank])
            out_scores[row, rank] = score_of(ranked[rank])
