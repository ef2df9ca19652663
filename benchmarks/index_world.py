"""Clustered item vectors, and users with several vectors and a posterior over fitted cells."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.index.contract import Codes, Encoded, Floats, Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.search import retrieve

DIM, K, INTERESTS, USERS = 64, 100, 8, 500
TOPICS, CLUSTERS = 100, 4000
TEMPERATURE = 0.05
"""Of the half of the posterior that goes by the centres of the cells."""
EXACT = Policy(interests=INTERESTS, merge="max")


class User(NamedTuple):
    """Number, vectors ``(interests, dim)``, their home cells and the posterior over cells."""

    number: int
    vectors: Floats
    homes: Codes
    posterior: Floats


class KnownUsers:
    """A user side that has the users at hand: a history holds the number of its user."""

    def __init__(self, users: list[User]) -> None:
        self.posterior = np.stack([user.posterior for user in users])
        self.homes = np.stack([user.homes for user in users])
        self.vectors = np.stack([user.vectors for user in users])

    def encode(self, histories: Histories) -> Encoded:
        rows = histories.values[histories.starts].astype(np.int64)
        return Encoded(self.posterior[rows], rows)

    def read(self, encoded: Encoded, interests: Codes) -> Floats:
        rows = encoded.state[:, None]
        return self.vectors[rows, (self.homes[rows] == interests[..., None]).argmax(axis=-1)]


@dataclass(frozen=True, eq=False)
class World:
    """Items, the cells that k-means fits to them, users, and the exact best items of each user, ``(users, k)``."""

    vectors: Floats
    postings: VectorPostings
    users: list[User]
    best: NDArray[np.int32]
    fit_seconds: float

    @property
    def size(self) -> int:
        return len(self.vectors)

    @classmethod
    def draw(cls, items: int, work: Path) -> World:
        """Draw, or read what was drawn into ``work`` before."""
        path = work / f"world-{items}.npz"
        if not path.exists():
            np.savez(path, **_draw(items))
        held = np.load(path)
        postings = VectorPostings.build(held["vectors"], held["cell"], len(held["centres"]))
        users = [
            User(*parts) for parts in zip(range(USERS), held["queries"], held["homes"], held["posterior"], strict=True)
        ]
        return cls(held["vectors"], postings, users, held["best"], float(held["fit_seconds"]))


def _draw(items: int) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    spread = (1 / np.sqrt(1 + np.arange(DIM))).astype(np.float32)
    spread *= np.float32(np.sqrt(DIM) / np.linalg.norm(spread))

    def normal(n: int) -> Floats:
        return rng.normal(size=(n, DIM)).astype(np.float32) * spread

    topics = normal(TOPICS)
    clusters = topics[rng.integers(0, TOPICS, CLUSTERS)] + 0.7 * normal(CLUSTERS)
    sizes = 1 / (1 + np.arange(CLUSTERS)) ** 0.7
    of_item = rng.choice(CLUSTERS, items, p=sizes / sizes.sum())
    vectors = _unit(clusters[of_item] + 0.8 * normal(items))
    start = time.perf_counter()
    cells = int(np.clip(4 * np.sqrt(items), 256, 16384))
    means = faiss.Kmeans(DIM, cells, niter=8, spherical=True, seed=1, max_points_per_centroid=64)
    means.train(vectors[rng.permutation(items)[: 64 * cells]])
    cell = np.concatenate(
        [means.index.search(part, 1)[1][:, 0] for part in np.array_split(vectors, 1 + items // 100_000)]
    )
    seconds = time.perf_counter() - start
    users = []
    while len(users) < USERS:
        queries = _unit(clusters[rng.choice(CLUSTERS, INTERESTS, replace=False)] + 0.9 * normal(INTERESTS))
        homes = means.index.search(queries, 1)[1][:, 0].astype(np.int32)
        posterior = _posterior(queries, homes, means.centroids)
        if set(np.argsort(-posterior)[:INTERESTS]) == set(homes.tolist()):  # each vector is an interest of its own
            users.append(User(len(users), queries, homes, posterior))
    postings = VectorPostings.build(vectors, cell, cells)
    numbers = Histories.from_lists([[row] for row in range(USERS)])
    best = retrieve(KnownUsers(users), postings, numbers, K, EXACT, exclude_seen=False).items
    drawn = {"vectors": vectors, "cell": cell, "centres": means.centroids, "best": best}
    of_users = {"queries": [user.vectors for user in users], "homes": [user.homes for user in users]}
    of_users["posterior"] = [user.posterior for user in users]
    return drawn | of_users | {"fit_seconds": seconds}


def _posterior(queries: Floats, homes: Codes, centres: Floats) -> Floats:
    fit = (centres @ queries.T).max(axis=1) / TEMPERATURE
    chances = np.exp(fit - fit.max())
    chances *= 0.5 / chances.sum()
    np.add.at(chances, homes, 0.5 / INTERESTS)
    return np.asarray(chances / chances.sum(), np.float32)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
