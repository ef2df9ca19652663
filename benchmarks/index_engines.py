"""The engines of the index benchmark: each builds from a world and offers an answer function for each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from tesserec.index.kernels import index_of, kernel, key_of

Answer = Callable[[Any], Any]


class Engine(Protocol):
    """A built index, which can be pickled.

    Attributes
    ----------
    bytes_per_item
        What it holds in memory.
    facts
        More for its rows.
    """

    bytes_per_item: float | None
    facts: dict[str, Any]

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Names of settings, and for each a function from a user, or 8 vectors, to k items."""
        ...


@kernel
def merge(items: Any, scores: Any, k: int) -> Any:
    """The k best items of several lists, each item once, by its best score."""
    keys = np.empty(items.size, np.int64)
    for i in range(items.size):
        keys[i] = key_of(scores.flat[i], items.flat[i])
    keys.sort()
    out, n = np.empty(k, np.int64), 0
    for i in range(len(keys) - 1, -1, -1):
        item, new = index_of(keys[i]), True
        for j in range(n):
            if out[j] == item:
                new = False
                break
        if new:
            out[n] = item
            n += 1
            if n == k:
                break
    return out[:n]


class _Faiss:
    by_vectors = True  # asked with what the world reads of a user, rather than with the user

    def __init__(self, world: Any, recipe: str, knob: str, values: tuple[int, ...], inner: bool = True) -> None:
        import faiss

        faiss.omp_set_num_threads(2)
        metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        self.index = faiss.index_factory(world.vectors.shape[1], recipe, metric)
        self.index.train(world.vectors[: 64 * 4096])
        self.index.add(world.vectors)
        faiss.omp_set_num_threads(1)
        self.knob, self.values, self.facts, self.inner = knob, values, {}, inner
        self.bytes_per_item = len(faiss.serialize_index(self.index)) / len(world.vectors)

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        import faiss

        def answer(user: Any) -> Any:
            scores, items = self.index.search(user, k)
            return merge(items, scores if self.inner else -scores, k)

        for value in self.values:
            if self.knob:
                faiss.ParameterSpace().set_index_parameter(self.index, self.knob, value)
            yield f"{self.knob}={value}" if self.knob else "exact", answer


class _Hnswlib:
    by_vectors = True

    def __init__(self, world: Any) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", world.vectors.shape[1])
        self.index.init_index(len(world.vectors), M=16, ef_construction=200)
        self.index.add_items(world.vectors, num_threads=2)
        self.bytes_per_item, self.facts = self.index.index_file_size() / len(world.vectors), {}

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        def answer(user: Any) -> Any:
            items, distances = self.index.knn_query(user, k, num_threads=1)
            return merge(items.astype(np.int64), -distances, k)

        for ef in (100, 200, 400):
            self.index.set_ef(ef)
            yield f"ef={ef}", answer


class _Usearch:
    by_vectors = True

    def __init__(self, world: Any) -> None:
        from usearch.index import Index

        self.index = Index(ndim=world.vectors.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128)
        self.index.add(np.arange(len(world.vectors)), world.vectors, threads=2)
        self.bytes_per_item, self.facts = self.index.memory_usage / len(world.vectors), {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "index": bytes(self.index.save())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from usearch.index import Index

        vars(self).update(state, index=Index.restore(state["index"]))

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        def answer(user: Any) -> Any:
            found = self.index.search(user, k, threads=1)
            return merge(found.keys.astype(np.int64), -found.distances.astype(np.float32), k)

        for ef in (100, 200, 400):
            self.index.expansion_search = ef
            yield f"ef={ef}", answer


def _cells(world: Any) -> int:
    return 1024 if len(world.vectors) <= 200_000 else 4096 if len(world.vectors) <= 2_000_000 else 16384


def _faiss(recipe: str, knob: str = "", values: tuple[int, ...] = (0,)) -> Callable[[Any], Engine]:
    return lambda world: _Faiss(world, recipe.format(cells=_cells(world)), knob, values)


def _ours(world: Any) -> Engine:
    from benchmarks.index_ours import Ours, Published

    return Ours(world, _cells(world)) if world.facts["world"] == "clusters" else Published(world)


def _code_scan(world: Any) -> Engine:
    from benchmarks.index_codes import CodeScan

    return CodeScan(world)


ENGINES: dict[str, Callable[[Any], Engine]] = {
    "tesserec": _ours,
    "code-scan": _code_scan,
    "hnswlib": _Hnswlib,
    "faiss-hnsw": _faiss("HNSW32,Flat", "efSearch", (100, 200, 400)),
    "usearch": _Usearch,
    "faiss-ivf": _faiss("IVF{cells},Flat", "nprobe", (16, 32, 64)),
    "faiss-ivf-sq8": _faiss("IVF{cells},SQ8", "nprobe", (16, 32, 64)),
    "faiss-ivf-pq": _faiss("IVF{cells},PQ16", "nprobe", (16, 64)),
    "faiss-flat": _faiss("Flat"),
}
