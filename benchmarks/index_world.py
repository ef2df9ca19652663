"""Clustered vectors and users of several interests, for the benchmark of the index.

Items are a hierarchical mixture of Gaussians: 100 topics, 4,000 clusters around them, Zipf sizes, a spectrum that
decays, unit length. A user has 8 vectors, each near another cluster, drawn with a wider spread than the items. Cells
are k-means of the items (Faiss); the posterior of a cell is ``softmax(log n_c + 60 (max_j u_j . centre_c + 4 s_c))``,
with ``s_c`` the spread of its items in one coordinate: the mass that a cell would have under the user's vectors if its
items lay where its best ones may lie. No model is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.index.postings import VectorPostings

DIM, INTERESTS, TOPICS, CLUSTERS = 64, 8, 100, 4000
_LARGE = 2_000_000
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class IndexWorld:
    """Vectors ``(items, 64)``, users' vectors ``(users, 8, 64)``; the first half of the users is for validation."""

    vectors: Floats
    users: Floats

    @property
    def facts(self) -> dict[str, Any]:
        """What describes the work in a row."""
        return {"world": "clusters", "items": len(self.vectors), "interests": INTERESTS}

    def read(self, user: Floats) -> Floats:
        """The vectors of a user, as a library is asked with them."""
        return user


def unit(vectors: NDArray[np.floating]) -> Floats:
    """Vectors of length one."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def make_world(items: int, users: int = 2000, seed: int = 0) -> IndexWorld:
    """Draw items and users."""
    rng = np.random.default_rng(seed)
    spectrum = np.exp(-np.arange(DIM) / 32) + 0.1
    spectrum /= np.linalg.norm(spectrum)
    topics = rng.normal(size=(TOPICS, DIM)) * spectrum
    clusters = topics[rng.integers(0, TOPICS, CLUSTERS)] + 0.7 * rng.normal(size=(CLUSTERS, DIM)) * spectrum
    share = 1.0 / (np.arange(CLUSTERS) + 10.0)
    share /= share.sum()
    vectors = np.empty((items, DIM), np.float32)
    for start in range(0, items, 1 << 18):
        n = min(1 << 18, items - start)
        around = clusters[rng.choice(CLUSTERS, n, p=share)]
        vectors[start : start + n] = unit(around + 0.8 * rng.normal(size=(n, DIM)) * spectrum)
    near = clusters[rng.choice(CLUSTERS, (users, INTERESTS), p=share)]
    return IndexWorld(vectors, unit(near + 1.0 * rng.normal(size=near.shape) * spectrum))


def make_cells(vectors: Floats, cells: int, seed: int = 0) -> NDArray[np.int64]:
    """The cell of each item, by k-means on at most 64 items a cell.

    Beyond two million items, on 16, and an item's cell is the nearest that an inverted index of the centres finds.
    """
    import faiss

    large = len(vectors) > _LARGE
    means = faiss.Kmeans(DIM, cells, niter=8, seed=seed, max_points_per_centroid=16 if large else 64)
    means.train(vectors)
    index = means.index
    if large:
        index = faiss.index_factory(DIM, "IVF128,Flat")
        index.train(means.centroids)
        index.add(means.centroids)
        index.nprobe = 8
    of_item = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), 1 << 18):
        of_item[start : start + (1 << 18)] = index.search(vectors[start : start + (1 << 18)], 1)[1][:, 0]
    return of_item


def exact_answers(world: Any, k: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The k items with the largest ``max_j u_j . v`` of some users, ``(users, k)``."""
    found = np.empty((len(rows), k), np.int64)
    for place, row in enumerate(rows):
        best, user = np.full(len(world.vectors), -np.inf, np.float32), world.read(world.users[row])
        for start in range(0, len(best), 1 << 18):
            part = slice(start, start + (1 << 18))
            best[part] = (user @ world.vectors[part].T).max(axis=0)
        found[place] = np.argpartition(-best, k - 1)[:k]
    return found


def make_postings(vectors: Floats, cells: NDArray[np.int64], n_cells: int) -> VectorPostings:
    """Postings of the items by cell."""
    return VectorPostings.build(vectors, cells, n_cells)
