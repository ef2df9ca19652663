"""The scan of codes in the index benchmark: every item scored from its residual codes by table look-ups.

Codes are 8 levels of 256 by residual k-means of the items (Faiss), fitted to a sample; no model is trained. A user's 8
vectors have 8 tables each; an item's rough score is the best over the vectors of its sum of look-ups, in one pass over
all codes, and the items with the best rough scores are scored exactly. The kernel is Numba, in blocks of items that
stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.index_engines import Answer
from benchmarks.index_world import DIM
from tesserec.index.kernels import index_of, kernel, key_of, score_of, select_largest

LEVELS, WIDTH, FITTED = 8, 256, 1 << 17
_BLOCK = 4096


class CodeScan:
    """Codes ``(levels, items)``, codewords ``(levels, 256, dim)`` and the vectors for exact scores."""

    by_vectors = True

    def __init__(self, world: Any) -> None:
        import faiss

        self.vectors = world.vectors
        self.codes = np.empty((LEVELS, len(world.vectors)), np.uint8)
        self.words = np.empty((LEVELS, WIDTH, DIM), np.float32)
        rest = world.vectors.copy()
        for level in range(LEVELS):
            means = faiss.Kmeans(DIM, WIDTH, niter=10, seed=level, max_points_per_centroid=FITTED // WIDTH)
            means.train(rest)
            nearest = means.index.search(rest, 1)[1][:, 0]
            self.words[level], self.codes[level] = means.centroids, nearest
            rest -= means.centroids[nearest]
        self.bytes_per_item = LEVELS + 4.0 * DIM
        self.facts: dict[str, Any] = {"levels": LEVELS}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Lengths of the list that is scored exactly."""
        for length in (400, 1000, 3000):

            def answer(user: Any, length: int = length) -> Any:
                tables = np.einsum("ud,lwd->ulw", user, self.words, optimize=True).astype(np.float32)
                items = scan_codes(self.codes, tables, length)
                exact = (self.vectors[items] @ user.T).max(axis=1)
                return items[np.argpartition(-exact, k - 1)[:k]]

            yield f"shortlist={length}", answer


@kernel
def scan_codes(codes: Any, tables: Any, length: int) -> Any:
    """Items with the best rough scores, from codes ``(levels, items)`` and tables ``(vectors, levels, 256)``."""
    keys, n, bar = np.empty(length + 2 * _BLOCK, np.int64), 0, np.float32(-np.inf)
    best, sums = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for start in range(0, codes.shape[1], _BLOCK):
        size = min(_BLOCK, codes.shape[1] - start)
        best[:] = -np.inf
        for vector in range(len(tables)):
            sums[:] = 0
            for level in range(len(codes)):
                _look_up(codes[level, start : start + size], tables[vector, level], sums)
            _raise(best, sums)
        for i in range(size):
            if best[i] >= bar:
                keys[n] = key_of(best[i], start + i)
                n += 1
        if n > length + _BLOCK:
            bar, n = score_of(select_largest(keys, n, length)), length
    if n > length:
        select_largest(keys, n, length)
    out = np.empty(min(n, length), np.int64)
    for i in range(len(out)):
        out[i] = index_of(keys[i])
    return out


@kernel
def _look_up(codes: Any, table: Any, sums: Any) -> None:
    for i in range(len(codes)):
        sums[i] += table[codes[i]]


@kernel
def _raise(best: Any, sums: Any) -> None:
    for i in range(len(best)):
        best[i] = max(best[i], sums[i])
