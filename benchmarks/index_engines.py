"""The engines of ``index.py``: how each is built, kept, and asked for the best items of a user's vectors."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.index_world import DIM, EXACT, K, KnownUsers, User, World
from tesserec.data.histories import Histories
from tesserec.index.postings import VectorPostings
from tesserec.index.search import retrieve

Found = Any
Search = Callable[[Sequence[User]], Found]


class Engine(ABC):
    """An engine; users of one call are searched together."""

    settings: Sequence[str] = ()
    users = 500

    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, world: World, work: Path) -> tuple[Any, float]:
        """The index of the world's items, built unless it was kept, and the seconds that building took."""
        path = work / f"{self.name}-{world.size}.index"
        if not path.with_suffix(".json").exists():
            start = time.perf_counter()
            self.save(self.build(world), path)
            path.with_suffix(".json").write_text(json.dumps(time.perf_counter() - start))
        return self.open(path), json.loads(path.with_suffix(".json").read_text())

    @abstractmethod
    def build(self, world: World) -> Any: ...

    @abstractmethod
    def save(self, index: Any, path: Path) -> None: ...

    @abstractmethod
    def open(self, path: Path) -> Any: ...

    @abstractmethod
    def searcher(self, index: Any, setting: str, world: World, threads: int) -> Search: ...

    def bytes(self, index: Any, world: World) -> int:
        return self.size

    def merged(self, found: Found) -> list[NDArray[np.integer[Any]]]:
        """The best K items of each user from lists ``(vectors of all users, K)`` of scores and items."""
        scores, items = (np.asarray(part).reshape(-1, 8 * K) for part in found)
        return [list(dict.fromkeys(row[np.argsort(-s)].tolist()))[:K] for s, row in zip(scores, items, strict=True)]


class Faiss(Engine):
    def __init__(self, name: str, form: str, settings: Sequence[str], users: int = 500) -> None:
        super().__init__(name)
        self.form, self.settings, self.users = form, settings, users

    def build(self, world: World) -> Any:
        faiss.omp_set_num_threads(1)
        form = self.form.replace("CELLS", str(world.postings.cells))
        index = faiss.index_factory(DIM, form, faiss.METRIC_INNER_PRODUCT)
        if form.startswith("IVF"):
            index.train(world.vectors[: 64 * world.postings.cells])
        index.add(world.vectors)
        return index

    def save(self, index: Any, path: Path) -> None:
        faiss.write_index(index, str(path))

    def open(self, path: Path) -> Any:
        self.size = path.stat().st_size
        return faiss.read_index(str(path))

    def searcher(self, index: Any, setting: str, world: World, threads: int) -> Search:
        faiss.omp_set_num_threads(threads)
        if setting != "all":
            faiss.ParameterSpace().set_index_parameters(index, setting)
        return lambda users: index.search(np.concatenate([user.vectors for user in users]), K)


class Hnswlib(Engine):
    settings = ("ef=100", "ef=200", "ef=400")

    def build(self, world: World) -> Any:
        index = hnswlib.Index("ip", DIM)
        index.init_index(world.size, M=16, ef_construction=200, random_seed=1)
        index.add_items(world.vectors, num_threads=1)
        return index

    def save(self, index: Any, path: Path) -> None:
        index.save_index(str(path))

    def open(self, path: Path) -> Any:
        self.size = path.stat().st_size
        index = hnswlib.Index("ip", DIM)
        index.load_index(str(path))
        return index

    def searcher(self, index: Any, setting: str, world: World, threads: int) -> Search:
        index.set_ef(int(setting.removeprefix("ef=")))

        def search(users: Sequence[User]) -> Found:
            items, distances = index.knn_query(np.concatenate([u.vectors for u in users]), K, num_threads=threads)
            return -distances, items

        return search


class Usearch(Engine):
    settings = ("ef=100", "ef=200", "ef=400")

    def build(self, world: World) -> Any:
        index = Index(ndim=DIM, metric="ip", dtype="f32", connectivity=16, expansion_add=128)
        index.add(np.arange(world.size), world.vectors, threads=1)
        return index

    def save(self, index: Any, path: Path) -> None:
        index.save(str(path))

    def open(self, path: Path) -> Any:
        self.size = path.stat().st_size
        return Index.restore(str(path))

    def searcher(self, index: Any, setting: str, world: World, threads: int) -> Search:
        index.expansion_search = int(setting.removeprefix("ef="))

        def search(users: Sequence[User]) -> Found:
            found = index.search(np.concatenate([user.vectors for user in users]), K, threads=threads)
            return -found.distances, found.keys

        return search


class Tesserec(Engine):
    """Cells in falling probability until a mass is reached; the setting is that mass, or "exact" for a proof."""

    settings = ("mass 0.8", "mass 0.9", "mass 0.95", "mass 0.98", "exact")

    def load(self, world: World, work: Path) -> tuple[Any, float]:
        start = time.perf_counter()
        index = VectorPostings(world.postings.vectors, world.postings.items, world.postings.offsets)
        table, rounded = index.table, index.compact
        self.size = sum(part.nbytes for part in (*table[:3], *rounded[:2], index.offsets))
        return index, world.fit_seconds + time.perf_counter() - start

    def build(self, world: World) -> Any:
        raise NotImplementedError("cells are fitted with the world")

    def save(self, index: Any, path: Path) -> None:
        raise NotImplementedError("cells are kept with the world")

    def open(self, path: Path) -> Any:
        raise NotImplementedError("cells are kept with the world")

    def searcher(self, index: Any, setting: str, world: World, threads: int) -> Search:
        if setting == "exact":
            policy = replace(EXACT, exact=True)
        else:
            policy = replace(EXACT, visit=float(setting.removeprefix("mass ")))
        side = KnownUsers(world.users)

        def search(users: Sequence[User]) -> Found:
            numbers = Histories.from_lists([[user.number] for user in users])
            return retrieve(side, index, numbers, K, policy, exclude_seen=False)

        return search

    def merged(self, found: Found) -> Any:
        return found.items


ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Tesserec("tesserec"),
        Faiss("faiss-flat", "Flat", ("all",), users=50),
        Faiss("faiss-ivf-flat", "IVFCELLS,Flat", [f"nprobe={n}" for n in (4, 16, 64, 128)]),
        Faiss("faiss-ivf-sq8", "IVFCELLS,SQ8", [f"nprobe={n}" for n in (4, 16, 64, 128)]),
        Hnswlib("hnswlib"),
        Usearch("usearch"),
        Faiss("faiss-hnsw", "HNSW32", [f"efSearch={n}" for n in (100, 200, 400)]),
    )
}
