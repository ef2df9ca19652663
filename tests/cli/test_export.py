"""`tesserec export`: bundles into engines, and every mistake in one line."""

import json

import pytest

from tesserec.adapters.faiss import FaissEngine
from tesserec.adapters.milvus import MilvusEngine
from tesserec.adapters.search import ExternalSearcher
from tesserec.index.bundle import Bundle
from tests.cli.conftest import run_cli
from tests.index.test_bundle import publish_network, publish_popularity


@pytest.fixture
def network(tmp_path):
    publish_network(tmp_path / "bundles")
    return tmp_path / "bundles"


def test_faiss(network, tmp_path):
    pytest.importorskip("faiss")
    told = json.loads(run_cli("export", network, "--to", "faiss", "--out", tmp_path / "index", "--json"))
    assert told["engine"] == "faiss"
    assert told["place"] == str(tmp_path / "index")
    assert (told["generation"], told["model"], told["kind"], told["rows"]) == (1, "tiny", "vectors", 60)
    bundle = Bundle.open(network)
    found = ExternalSearcher(bundle, FaissEngine(tmp_path / "index")).recommend([["i1", "i2"]], 9)
    assert found["item"].to_list() == bundle.recommend([["i1", "i2"]], 9)["item"].to_list()
    publish_network(network, seed=1)
    refused = run_cli("export", network, "--to", "faiss", "--out", tmp_path / "index", code=2)
    assert "exists already and holds generation 1 of tiny" in refused
    run_cli("export", network, "--to", "faiss", "--out", tmp_path / "index", "--generation", 1)  # whole already
    run_cli("export", network, "--to", "faiss", "--out", tmp_path / "index", "--overwrite")
    assert FaissEngine(tmp_path / "index").held().contents.generation == 2


def test_a_collection_on_this_machine(network, tmp_path):
    pytest.importorskip("pymilvus")
    server = pytest.importorskip("milvus_lite.server_manager").server_manager_instance
    place = tmp_path / "lite.db"
    told = run_cli("export", network, "--to", "milvus", "--out", place, "--collection", "shop", "--json")
    assert json.loads(told)["place"] == "Milvus collection 'shop'"
    engine = MilvusEngine.connect(str(place), "shop")
    assert len(ExternalSearcher(Bundle.open(network), engine).recommend([["i1"]], 7)) == 7
    server.release_all()


def test_lists_on_this_machine(tmp_path):
    qdrant_client = pytest.importorskip("qdrant_client")
    publish_popularity(tmp_path / "bundles")
    run_cli("export", tmp_path / "bundles", "--to", "qdrant", "--out", tmp_path / "points")
    client = qdrant_client.QdrantClient(path=str(tmp_path / "points"))
    assert client.count("tesserec").count == 6
    client.close()
    refused = run_cli("export", tmp_path / "bundles", "--to", "faiss", "--out", tmp_path / "index", code=2)
    assert "export this model to qdrant or milvus" in refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "pinecone"], "'pinecone' is not an engine; choose faiss, qdrant, milvus"),
        (["--to", "faiss"], "give --out, without --url and --collection"),
        (["--to", "faiss", "--out", "x", "--collection", "y"], "without --url and --collection"),
        (["--to", "qdrant"], "either --url of a server, or --out"),
        (["--to", "qdrant", "--url", "http://localhost:1", "--out", "x"], "either --url of a server, or --out"),
        (["--to", "milvus", "--out", "shop"], "expected a name ending in .db"),
        (["--to", "milvus", "--out", "nowhere/shop.db"], ".db in a directory that exists"),
        (["--to", "milvus", "--url", "localhost:19530"], "'localhost:19530' is not an address"),
        (["--to", "faiss", "--out", "x", "--generation", "7"], "generation-000007 is missing"),
    ],
)
def test_mistakes(options, message, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in run_cli("export", network, *options, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_server_that_is_not_there(network):
    pytest.importorskip("qdrant_client")
    message = run_cli("export", network, "--to", "qdrant", "--url", "http://127.0.0.1:9", code=1)
    assert "check that the server runs" in message


def test_a_key_is_never_shown(network):
    pytest.importorskip("pymilvus")
    options = ["--to", "milvus", "--url", "http://127.0.0.1:9", "--key", "s3cret"]
    assert "s3cret" not in run_cli("export", network, *options, code=1)


def test_ctrl_c(network, tmp_path, monkeypatch):
    pytest.importorskip("faiss")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaissEngine, "add", interrupt)
    message = run_cli("export", network, "--to", "faiss", "--out", tmp_path / "index", code=130)
    assert "stopped, nothing was written; run the same command again" in message
    assert not (tmp_path / "index").exists()
