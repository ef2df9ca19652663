"""A small world of films with hostile titles, published as bundles that need no training."""

from __future__ import annotations

import numpy as np
import polars as pl

from tesserec.data.ids import IdMap
from tesserec.index.bundle import Bundle, publish
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, HistorySide, OnnxSide
from tests.index.world import LookupSide

ITEMS, CELLS, DIM = 150, 9, 6
HOSTILE = '<img src=x onerror="window.hacked = true"> & "film"'
DEAD = 4
KINDS = ("Drama", "Comedy", "Western")


def films(items=ITEMS, ids=None):
    """Item 0 has the hostile title; every third item is of one kind, years rise."""
    ids = pl.Series(range(100, 100 + items)) if ids is None else ids
    titles = [HOSTILE, *(f"Film {n}" for n in range(1, items))]
    table = pl.DataFrame(
        {
            "id": ids,
            "title": titles,
            "year": [1950 + n % 50 for n in range(items)],
            "kinds": [[KINDS[n % 3], KINDS[(n + 1) % 3]] if n % 2 else [KINDS[n % 3]] for n in range(items)],
        }
    )
    roles = {"title": "text", "year": "numeric", "kinds": "multi"}
    return Catalogue(IdMap(ids), table, roles, True, np.arange(items, 0, -1))


def cells_of_films(moved=0):
    """Cell of each film, none in the dead one; the first ``moved`` films lie in the next cell."""
    living = np.array([code for code in range(CELLS) if code != DEAD])
    cells = living[np.arange(ITEMS) % len(living)]
    cells[:moved] = living[(np.arange(moved) + 1) % len(living)]
    return cells


def film_postings(moved=0):
    rng = np.random.default_rng(7)
    cells = cells_of_films(moved)
    centres = 3 * rng.normal(size=(CELLS, DIM))
    return VectorPostings.build((centres[cells] + rng.normal(size=(ITEMS, DIM))).astype(np.float32), cells, CELLS)


def film_searcher(ids=None, **policy):
    """In memory, with a posterior looked up by the newest item."""
    rng = np.random.default_rng(3)
    posterior = rng.dirichlet(np.full(CELLS, 0.7), ITEMS).astype(np.float32)
    side = LookupSide(posterior, rng.normal(size=(ITEMS, CELLS, DIM)).astype(np.float32))
    return Searcher(films(ids=ids), side, film_postings(), Policy(**{"interests": 3, **policy}))


def without_interests(kind):
    """A searcher of a model without interests."""
    scores = np.arange(ITEMS, 0, -1, dtype=np.float32)
    everything = np.arange(ITEMS)
    if kind == "popularity":
        lists = ScorePostings.build(everything * 0, everything, scores, n_codes=1, size=ITEMS)
        return Searcher(films(), ConstantSide(), lists, Policy())
    if kind == "item-knn":
        lists = ScorePostings.build(
            everything, (everything + 1) % ITEMS, scores, n_codes=ITEMS, size=ITEMS, keyed_by_item=True
        )
        return Searcher(films(), HistorySide(), lists, Policy())
    rng = np.random.default_rng(1)
    slots = {"slots": 4, "one vector": 1}[kind]
    side = LookupSide(np.full((ITEMS, slots), 1 / slots, np.float32), rng.normal(size=(ITEMS, slots, DIM)))
    postings = VectorPostings.build(rng.normal(size=(ITEMS, DIM)).astype(np.float32), everything * 0, 1)
    return Searcher(films(), side, postings, Policy(interests=slots))


def in_memory(searcher, root):
    """A bundle that was never written; its root holds no generation."""
    path = root / "generation-000001"
    return Bundle(path, 1, {"model": "tiny"}, searcher, path, searcher)


def publish_films(root, moved=0):
    """Publish a generation whose network is exported; opened as a service would open it."""
    from tests.index import onnx_model

    postings = film_postings(moved)
    workbench = root.parent / "workbench"
    workbench.mkdir(exist_ok=True)
    onnx_model.write_network(workbench, codes=CELLS, dim=DIM)
    side = OnnxSide(workbench, postings.vectors_of)
    searcher = Searcher(films(), side, postings, Policy(interests=3, merge="quota"))
    publish(root, searcher, lambda folder: onnx_model.write_network(folder, codes=CELLS, dim=DIM), {"model": "tiny"})
    return Bundle.open(root)
