"""The scan of codes in the index benchmark: every item scored from its residual codes by table look-ups.

In the world of clusters codes are 8 levels of 256 by residual k-means of the items (Faiss), fitted to a sample. In the
world of a model they are the model's own, of as many levels as it learned. A user's vectors have a table for each
level; an item's rough score is the best over the vectors of its sum of look-ups, in one pass over all codes, and the
items with the best rough scores are scored exactly. The kernel is Numba, in blocks of items that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.index_engines import Answer
from tesserec.index.kernels import index_of, kernel, key_of, score_of, select_largest

LEVELS, WIDTH, FITTED = 8, 256, 1 << 17
_BLOCK = 4096


class CodeScan:
    """Codes ``(levels, items)``, codewords ``(levels, width, dim)`` and the vectors for exact scores.

    Coordinates that codewords lack are the same for all items, as the 1 in which a model's item vectors end.
    """

    by_vectors = True

    def __init__(self, world: Any) -> None:
        self.vectors, learned = world.vectors, getattr(world, "codebooks", None)
        levels = LEVELS if learned is None else len(learned)
        rest = self.vectors if learned is None else np.ascontiguousarray(self.vectors[:, : learned.shape[2]])
        codes, words = [], []
        for level in range(levels):
            book, nearest = _means(rest, level) if learned is None else (learned[level], _nearest(rest, learned[level]))
            words.append(book)
            codes.append(nearest)
            rest = rest - book[nearest]
        self.words = np.stack(words)
        self.codes = np.stack(codes).astype(np.uint8 if self.words.shape[1] <= WIDTH else np.uint16)
        self.bytes_per_item = levels * self.codes.itemsize + 4.0 * self.vectors.shape[1]
        self.facts: dict[str, Any] = {"levels": levels}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Lengths of the list that is scored exactly."""
        for length in (400, 1000, 3000):

            def answer(user: Any, length: int = length) -> Any:
                tables = np.einsum("ud,lwd->ulw", user[:, : self.words.shape[2]], self.words, optimize=True)
                tables[:, 0] += user[:, self.words.shape[2] :].sum(axis=1, keepdims=True)
                items = scan_codes(self.codes, np.ascontiguousarray(tables, np.float32), length)
                exact = (self.vectors[items] @ user.T).max(axis=1)
                return items[np.argpartition(-exact, k - 1)[:k]]

            yield f"shortlist={length}", answer


def _means(rest: Any, seed: int) -> tuple[Any, Any]:
    import faiss

    means = faiss.Kmeans(rest.shape[1], WIDTH, niter=10, seed=seed, max_points_per_centroid=FITTED // WIDTH)
    means.train(rest)
    return means.centroids, means.index.search(rest, 1)[1][:, 0]


def _nearest(rest: Any, book: Any) -> Any:
    import faiss

    index = faiss.IndexFlatL2(book.shape[1])
    index.add(np.ascontiguousarray(book))
    return index.search(rest, 1)[1][:, 0]


@kernel
def scan_codes(codes: Any, tables: Any, length: int) -> Any:
    """Items with the best rough scores, from codes ``(levels, items)`` and tables ``(vectors, levels, width)``."""
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
