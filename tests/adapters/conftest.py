"""Bundles of both kinds, and each engine in its embedded form."""

import itertools

import numpy as np
import pytest

from tesserec.errors import MissingExtra
from tesserec.index.bundle import Bundle, publish
from tesserec.index.contract import Policy
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import HistorySide, OnnxSide
from tests.index.world import catalogue, world

ITEMS, CELLS, DIM = 600, 20, 8
DENSE, SPARSE = ("faiss", "qdrant", "milvus"), ("qdrant", "milvus")


def publish_vectors(root, seed=0, items=ITEMS, cells=CELLS, **policy):
    """A bundle of vectors by cell, one of which is empty."""
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    _, postings = world(seed, items=items, cells=cells - 1, dim=DIM)
    vectors, of = postings.vectors_of(np.arange(items)), postings.cell_of
    postings = type(postings).build(vectors, of + (of >= 3), cells)  # cell 3 is empty

    def write(folder):
        onnx_model.write_network(folder, codes=cells, dim=DIM, seed=seed)

    folder = root.parent / f"{root.name}-network-{seed}"
    folder.mkdir(exist_ok=True)
    write(folder)
    side = OnnxSide(folder, postings.vectors_of)
    searcher = Searcher(catalogue(items), side, postings, Policy(interests=4, **policy))
    publish(root, searcher, write, {"model": "tiny", "seed": seed})
    return Bundle.open(root)


def publish_lists(root, seed=0, items=ITEMS, lowest=0.1):
    """A bundle of lists by item; the last items are in no list."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(items), 6)
    listed = np.concatenate([rng.choice(items - 5, 6, replace=False) for _ in range(items)])
    scores = rng.uniform(lowest, 1.0, len(codes)).astype(np.float32)
    lists = ScorePostings.build(codes, listed, scores, n_codes=items, size=items, keyed_by_item=True)
    searcher = Searcher(catalogue(items), HistorySide(), lists, Policy(interests=1))
    publish(root, searcher, searcher.side.save, {"model": "lists", "seed": seed})
    return Bundle.open(root)


def publish_slots(root):
    """A bundle of three slots that all search the only cell."""
    onnx_model = pytest.importorskip("tests.index.onnx_model", reason="needs onnx")
    _, postings = world(0, items=60, slots=3)
    folder = root.parent / f"{root.name}-network"
    folder.mkdir()
    onnx_model.write_network(folder, codes=3)
    searcher = Searcher(catalogue(60), OnnxSide(folder, postings.vectors_of), postings, Policy(interests=3))
    publish(root, searcher, lambda out: onnx_model.write_network(out, codes=3), {"model": "slots"})
    return Bundle.open(root)


@pytest.fixture(scope="session")
def vectors(tmp_path_factory):
    return publish_vectors(tmp_path_factory.mktemp("vectors") / "bundles")


@pytest.fixture(scope="session")
def lists(tmp_path_factory):
    return publish_lists(tmp_path_factory.mktemp("lists") / "bundles")


@pytest.fixture(scope="session")
def clients(tmp_path_factory):
    """Clients by name, made when first asked for: one in-memory Qdrant, one file of Milvus Lite."""
    made = {}

    def client(name):
        if name not in made:
            if name == "qdrant":
                made[name] = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
            else:
                pytest.importorskip("milvus_lite")
                folder = tmp_path_factory.mktemp("milvus")
                made[name] = pytest.importorskip("pymilvus").MilvusClient(str(folder / "lite.db"))
        return made[name]

    yield client
    for one in made.values():
        one.close()
    if "milvus" in made:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_all()


@pytest.fixture(scope="session")
def engine(clients, tmp_path_factory):
    """``engine(name)`` is a collection that nobody has used; ``engine(name, collection)`` a given one."""
    from tesserec.adapters.faiss import FaissEngine
    from tesserec.adapters.milvus import MilvusEngine
    from tesserec.adapters.qdrant import QdrantEngine

    folder, numbers = tmp_path_factory.mktemp("faiss"), itertools.count()

    def make(name, collection=None):
        collection = collection or f"collection_{next(numbers)}"
        if name == "faiss":
            try:
                return FaissEngine(folder / collection)
            except MissingExtra as error:
                pytest.skip(str(error))
        return {"qdrant": QdrantEngine, "milvus": MilvusEngine}[name](clients(name), collection)

    return make
