"""A user's whole answer from our own index and through each engine, at the same cells visited.

Items are clustered unit vectors in k-means cells, a user is 8 vectors and a posterior over cells (see
``index_world.py``), and the search visits cells until the mass that finds 0.99 of the exact best 100 in validation.
Every row is the same :class:`Searcher` with its policy and merge, on one thread; only who scores the cells differs.
Qdrant and Milvus run in their embedded modes, which are Python and made for trying out: their times say nothing about
a server's. ``agreement`` is the share of our own index's items that came through the engine. Rows go to
``results/adapters.json``, one an engine.

    python benchmarks/adapters.py --items 100000
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import polars as pl

from benchmarks.index import machine
from benchmarks.index_ours import Ours
from benchmarks.index_world import INTERESTS, IndexWorld, make_world
from tesserec.adapters.engine import Engine
from tesserec.adapters.export import export
from tesserec.adapters.faiss import FaissEngine
from tesserec.adapters.milvus import MilvusEngine
from tesserec.adapters.qdrant import QdrantEngine
from tesserec.adapters.search import ExternalSearcher
from tesserec.data.histories import Histories
from tesserec.data.ids import IdMap
from tesserec.files import seal
from tesserec.index.bundle import KIND, Bundle
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Encoded, Policy
from tesserec.index.searcher import Searcher

RESULTS = Path(__file__).parent / "results" / "adapters.json"
K = 100
ASKED = {"tesserec": 100, "faiss": 100, "qdrant": 5, "milvus": 100}


class KnownUsers:
    """A user side whose histories are one number, that of a user of the world."""

    def __init__(self, world: IndexWorld, ours: Ours) -> None:
        self.world, self.ours = world, ours

    def encode(self, histories: Histories) -> Encoded:
        """Posteriors of users."""
        users = histories.values[histories.starts]
        return Encoded(np.stack([self.ours.posterior(self.world.users[user]) for user in users]), users)

    def read(self, encoded: Encoded, interests: Any) -> Any:
        """The vectors of users, whichever interests are asked for."""
        return self.world.users[encoded.state][:, : interests.shape[1]]


def main() -> None:
    """Measure all engines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--engine", action="append", choices=list(ASKED), help="engines (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="Local mode")
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), make_world(given.items), given.cells)
        for row in measure(bundle, Path(folder), given.engine or list(ASKED)):
            keep(given.results, row)
            print(json.dumps(row), flush=True)


def make_bundle(folder: Path, world: IndexWorld, cells: int) -> Bundle:
    """A bundle in memory; its directory holds the manifest alone, by which engines know it."""
    ours = Ours(world, cells)
    ids = pl.Series(np.arange(len(world.vectors)))
    catalogue = Catalogue(IdMap(ids), pl.DataFrame({"id": ids}), {}, False, np.ones(len(ids), np.int64))
    policy = Policy(interests=INTERESTS, merge="max", visit=ours.calibration.mass_for(0.99))
    (folder / "generation").mkdir()
    seal(folder / "generation", KIND, {})
    searcher = Searcher(catalogue, KnownUsers(world, ours), ours.postings, policy, names=pl.DataFrame())
    return Bundle(folder / "generation", 1, {"model": "clustered vectors"}, searcher)


def measure(bundle: Bundle, folder: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """One row an engine."""
    for name in names:
        begin = time.perf_counter()
        searcher = bundle.searcher if name == "tesserec" else through(bundle, engine_of(name, folder))
        export_s = time.perf_counter() - begin
        users = np.arange(1000, 1000 + ASKED[name])
        seconds, agreement, visits = np.empty((len(users), 2)), [], []
        searcher.retrieve(Histories.from_lists([users[:1]]), K)
        for place, user in enumerate(users):
            asked = Histories.from_lists([[user]])
            begin, busy = time.perf_counter(), time.process_time()
            found = searcher.retrieve(asked, K)
            seconds[place] = time.perf_counter() - begin, time.process_time() - busy
            agreement.append(len(np.intersect1d(found.items, bundle.searcher.retrieve(asked, K).items)) / K)
            visits.append((found.visits.cells[0], found.visits.items[0]))
        (p50, cpu50), (p99, cpu99) = np.percentile(seconds, [50, 99], axis=0) * 1e3
        cells, items = np.mean(visits, axis=0)
        yield {
            "engine": name,
            "package": PACKAGES[name][0] + " " + version(PACKAGES[name][0]),
            "mode": PACKAGES[name][1],
            "items": len(bundle.searcher.catalogue),
            "cells": bundle.searcher.postings.cells,
            "interests": INTERESTS,
            "k": K,
            "users": len(users),
            "cells_visited": round(float(cells), 1),
            "items_visited": round(float(items)),
            "agreement": round(float(np.mean(agreement)), 4),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "cpu_p50_ms": round(float(cpu50), 2),
            "cpu_p99_ms": round(float(cpu99), 2),
            "export_s": round(export_s, 1),
            "load": round(os.getloadavg()[0], 1),
            "machine": machine(),
        }


PACKAGES = {
    "tesserec": ("tesserec", "own index"),
    "faiss": ("faiss-cpu", "IndexIVFFlat, search_preassigned"),
    "qdrant": ("qdrant-client", "local mode, in memory"),
    "milvus": ("milvus-lite", "file"),
}


def engine_of(name: str, folder: Path) -> Engine:
    """An empty collection."""
    if name == "faiss":
        return FaissEngine(folder / "index")
    if name == "qdrant":
        return QdrantEngine.connect(":memory:")
    return MilvusEngine.connect(str(folder / "lite.db"))


def through(bundle: Bundle, engine: Engine) -> Searcher:
    """The bundle, searched in an engine."""
    export(bundle, engine)
    return ExternalSearcher(bundle, engine)


def keep(path: Path, row: dict[str, Any]) -> None:
    """Put a row in the place of an earlier one of the same engine and size."""
    rows = json.loads(path.read_text()) if path.exists() else []
    key = ("engine", "items")
    rows = [one for one in rows if any(one[name] != row[name] for name in key)]
    path.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
