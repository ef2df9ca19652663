"""Collections: filled once, gone on with after a break, and never mistaken for another bundle's."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tesserec.adapters import export as exporting
from tesserec.adapters.engine import Contents, ListRows
from tesserec.adapters.export import contents_of, export
from tesserec.adapters.faiss import FaissEngine
from tesserec.adapters.milvus import MilvusEngine
from tesserec.adapters.qdrant import QdrantEngine
from tesserec.adapters.search import ExternalSearcher
from tesserec.errors import ArtefactError, ConfigError, EngineError, UserError
from tesserec.index.bundle import Bundle, publish
from tesserec.index.contract import Policy
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import HistorySide
from tests.adapters.conftest import DENSE, ITEMS, SPARSE, publish_lists, publish_vectors
from tests.faults import ROOT, sweep
from tests.index.world import catalogue


class Broken:
    """An engine whose connection breaks in the middle of a batch."""

    def __init__(self, engine, batches):
        self._engine, self._left = engine, batches

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def add(self, rows):
        if self._left == 0:
            self._engine.add(last_half(rows))
            raise EngineError("gone")
        self._left -= 1
        self._engine.add(rows)


def last_half(rows):
    half = len(rows.items) // 2
    if isinstance(rows, ListRows):
        return rows._replace(items=rows.items[half:], ids=rows.ids[half:], starts=rows.starts[half:])
    return rows._replace(**{name: getattr(rows, name)[half:] for name in rows._fields})


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(exporting, "BATCH", 100)


def added(engine, bundle):
    """How many rows an export adds."""
    counts = [engine.held().rows if engine.held() else 0]
    export(bundle, engine, progress=lambda done, _: counts.append(done))
    return counts[-1] - counts[0], len(counts) - 1


@pytest.mark.parametrize("name", ["qdrant", "milvus"])
def test_a_broken_upload_goes_on(name, engine, vectors, small_batches):
    filled = engine(name)
    with pytest.raises(EngineError, match="gone"):
        export(vectors, Broken(filled, 2))
    assert filled.held().rows == 250
    with pytest.raises(ArtefactError, match=f"holds 250 of {ITEMS} items; run the same"):
        ExternalSearcher(vectors, filled)
    assert added(filled, vectors) == (ITEMS - 250, 4)
    assert added(filled, vectors) == (0, 0)
    asked = [["i3", "i77"]]
    found = ExternalSearcher(vectors, filled).recommend(asked, 15)
    assert found["item"].to_list() == vectors.recommend(asked, 15)["item"].to_list()


def test_a_broken_faiss_index_leaves_nothing(engine, vectors, small_batches):
    filled = engine("faiss")
    with pytest.raises(EngineError, match="gone"):
        export(vectors, Broken(filled, 2))
    assert filled.held() is None
    with pytest.raises(ArtefactError, match="does not exist; fill it with `tesserec export`"):
        ExternalSearcher(vectors, filled)
    assert added(filled, vectors) == (ITEMS, 6)
    assert added(filled, vectors) == (0, 0)


@pytest.mark.parametrize("name", DENSE)
def test_another_bundle_is_refused_and_can_be_replaced(name, engine, vectors, tmp_path):
    other = publish_vectors(tmp_path / "other", seed=1, items=80)
    filled = engine(name)
    export(other, filled)
    with pytest.raises(UserError, match="exists already and holds generation 1 of tiny"):
        export(vectors, filled)
    with pytest.raises(ArtefactError, match=r"holds generation 1 of tiny.*80 vectors.*expected.*600 vectors"):
        ExternalSearcher(vectors, filled)
    assert (
        ExternalSearcher(other, filled)
        .recommend([["i3"]], 5)
        .equals(ExternalSearcher(other, engine(name, place_of(filled))).recommend([["i3"]], 5))
    )
    assert export(vectors, filled, overwrite=True) == contents_of(vectors)
    assert len(ExternalSearcher(vectors, filled).recommend([["i500"]], 5)) == 5


def place_of(filled):
    return filled._path.name if isinstance(filled, FaissEngine) else filled._collection


def test_what_others_made_is_left_alone(engine, clients, vectors, tmp_path):
    models = pytest.importorskip("qdrant_client").models
    vector = models.VectorParams(size=2, distance=models.Distance.DOT)
    clients("qdrant").create_collection("theirs", vectors_config=vector)
    clients("milvus").create_collection("theirs", dimension=2)
    for name in ("qdrant", "milvus"):
        with pytest.raises(ArtefactError, match="'theirs' exists and was not written by tesserec"):
            export(vectors, engine(name, "theirs"), overwrite=True)
    assert clients("qdrant").collection_exists("theirs")
    assert clients("milvus").has_collection("theirs")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("x")
    with pytest.raises(ArtefactError, match=r"theirs.*manifest.json is missing"):
        export(vectors, FaissEngine(tmp_path / "theirs"), overwrite=True)
    assert (tmp_path / "theirs" / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["qdrant", "milvus"])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"format": 1, "colour": "red"}, "says of itself what cannot be read"),
        ("text", "was not written by tesserec"),
    ],
)
def test_what_a_collection_says_of_itself_is_checked(name, facts, message, engine, vectors, monkeypatch):
    filled = engine(name)
    with monkeypatch.context() as patched:
        patched.setattr(Contents, "to_json", lambda _: facts)
        filled.create(contents_of(vectors))
    with pytest.raises(ArtefactError, match=message):
        export(vectors, filled)


@pytest.mark.parametrize("name", SPARSE)
def test_rows_that_nobody_exported_are_noticed(name, engine, clients, lists):
    filled = engine(name)
    export(lists, filled)
    client, more = clients(name), place_of(filled)
    if name == "milvus":
        client.upsert(more, [{"item": ITEMS + 7, "id": "x", "codes": {0: 1.0}}])
    else:
        from qdrant_client import models

        sparse = models.SparseVector(indices=[0], values=[1.0])
        client.upsert(more, [models.PointStruct(id=ITEMS + 7, vector={"codes": sparse})])
    for refused in (lambda: export(lists, filled), lambda: ExternalSearcher(lists, filled)):
        with pytest.raises(ArtefactError, match=r"something else was added"):
            refused()


@pytest.mark.parametrize("name", SPARSE)
def test_lists_that_name_nothing(name, engine, tmp_path):
    root = tmp_path / "bundles"
    nothing = ScorePostings.build(np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32), n_codes=4, size=4)
    searcher = Searcher(catalogue(4), HistorySide(), nothing, Policy(interests=1))
    publish(root, searcher, searcher.side.save, {"model": "nothing"})
    bundle, filled = Bundle.open(root), engine(name)
    export(bundle, filled)
    assert ExternalSearcher(bundle, filled).recommend([["i1"]], 3).is_empty()


@pytest.mark.parametrize("name", SPARSE)
def test_lists_hold_the_items_that_they_name(name, engine, lists, small_batches):
    filled = engine(name)
    named = len(np.unique(lists.searcher.postings.items))
    assert named < ITEMS
    with pytest.raises(EngineError, match="gone"):
        export(lists, Broken(filled, 1))
    export(lists, filled)
    assert filled.held() == (contents_of(lists), named)


def test_items_carry_the_users_own_ids(engine, clients, vectors):
    for name in ("qdrant", "milvus"):
        filled = engine(name)
        export(vectors, filled)
        cell = int(vectors.searcher.postings.cell_of[17])
        if name == "qdrant":
            (point,) = clients(name).retrieve(place_of(filled), [17])
            assert point.payload == {"item": "i17", "cell": cell}
        else:
            (row,) = clients(name).query(place_of(filled), ids=[17], output_fields=["id", "cell"])
            assert (row["id"], row["cell"]) == ("i17", cell)


def test_the_faiss_file_works_by_itself(engine, vectors):
    filled = engine("faiss")
    export(vectors, filled)
    import faiss

    index = faiss.read_index(f"{filled.place}/index.faiss")
    index.nprobe = index.nlist
    postings = vectors.searcher.postings
    query = np.ones((1, postings.dim), np.float32)
    _, items = index.search(query, 5)
    scores = postings.vectors_of(np.arange(ITEMS)) @ query[0]
    assert items[0].tolist() == np.argsort(-scores)[:5].tolist()
    index.nprobe = 1  # the coarse quantiser holds the means, so the best mean is probed first
    cells = postings.cell_of
    means = [postings.vectors_of(np.flatnonzero(cells == c)).mean(0) @ query[0] for c in np.unique(cells)]
    assert set(cells[index.search(query, 5)[1][0]]) == {np.unique(cells)[int(np.argmax(means))]}


def test_a_damaged_faiss_index_is_named(engine, vectors):
    filled = engine("faiss")
    export(vectors, filled)
    file = filled._path / "index.faiss"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"index\.faiss has .* bytes, expected"):
        ExternalSearcher(vectors, FaissEngine(filled._path))


def test_a_killed_replacement_leaves_no_half_index(tmp_path):
    pytest.importorskip("faiss")
    publish_vectors(tmp_path / "old", seed=1, items=60, cells=6)
    publish_vectors(tmp_path / "new", seed=2, items=60, cells=6)
    setup = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tesserec.adapters.export import contents_of, export
from tesserec.adapters.faiss import FaissEngine
from tesserec.adapters.search import ExternalSearcher
from tesserec.index.bundle import Bundle
old, new = (Bundle.open(Path({str(tmp_path)!r}) / name) for name in ("old", "new"))
place = Path({str(tmp_path)!r}) / "out" / "index"
export(old, FaissEngine(place))
"""
    check = """
held = FaissEngine(place).held()
if held is not None:
    ExternalSearcher(old if held.contents == contents_of(old) else new, FaissEngine(place))
"""
    action = "export(new, FaissEngine(place), overwrite=True)"
    assert sweep(setup=setup, action=action, check=check, root=tmp_path / "out").faults > 4


def test_a_server_that_is_not_there(vectors):
    pytest.importorskip("qdrant_client")
    with pytest.raises(EngineError, match="check that the server runs"):
        export(vectors, QdrantEngine.connect("http://127.0.0.1:9"))


def test_a_milvus_server_that_is_not_there():
    pytest.importorskip("pymilvus")
    with pytest.raises(EngineError, match="check that the server runs"):
        MilvusEngine.connect("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("package", "made", "extra"),
    [
        ("faiss", "from tesserec.adapters.faiss import FaissEngine as E; E('x')", "faiss"),
        ("qdrant_client", "from tesserec.adapters.qdrant import QdrantEngine as E; E.connect(':memory:')", "qdrant"),
        ("pymilvus", "from tesserec.adapters.milvus import MilvusEngine as E; E.connect('x.db')", "milvus"),
        ("milvus_lite", "from tesserec.adapters.milvus import MilvusEngine as E; E.connect('x.db')", "milvus"),
    ],
)
def test_a_missing_package_names_its_extra(package, made, extra, tmp_path):
    if package == "milvus_lite":
        pytest.importorskip("pymilvus")
    code = f"import sys; sys.modules[{package!r}] = None\ntry:\n    {made}\n"
    code += "except __import__('tesserec').errors.MissingExtra as error:\n    print(error)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"needs {package}, which is not installed; run: pip install 'tesserec[{extra}]'" in done.stdout


def test_changes_on_top_are_refused(engine, vectors):
    own = vectors.searcher
    nothing = np.zeros(0, int)
    changed = own.postings.with_delta(nothing, np.zeros((0, 8), np.float32), nothing, np.array([3]), own.postings.size)
    searcher = Searcher(own.catalogue, own.side, changed, own.policy)
    filled = engine("qdrant")
    with pytest.raises(ConfigError, match="has changes on top of its postings; export it after"):
        export(replace(vectors, searcher=searcher), filled)
    assert filled.held() is None


def test_lists_of_another_seed_are_another_bundle(engine, tmp_path):
    first, second = (publish_lists(tmp_path / f"b{seed}", seed, items=40) for seed in (0, 1))
    filled = engine("qdrant")
    export(first, filled)
    with pytest.raises(UserError, match="of lists"):
        export(second, filled)
