"""`tesserec items`: what a shell does to a published catalogue."""

import json

import polars as pl
import pytest

from tesserec.index.bundle import Bundle
from tests.cli.conftest import run_cli

pytest.importorskip("tests.index.onnx_model", reason="needs onnx")

from tests.index.test_living import N, publish_vectors, table


@pytest.fixture
def root(tmp_path):
    publish_vectors(tmp_path / "bundles")
    return tmp_path / "bundles"


def test_items_come_change_and_go(root, tmp_path):
    rows = tmp_path / "new.csv"
    table(["x", "y"]).rename({"id": "sku"}).write_csv(rows)
    added = json.loads(run_cli("items", "add", root, rows, "--json"))
    assert (added["added"], added["items"], set(added["placed"])) == (2, N + 2, {"x", "y"})
    pl.DataFrame({"id": ["x"], "title": ["X"]}).write_csv(rows)
    assert json.loads(run_cli("items", "update", root, rows, "--json"))["updated"] == 1
    gone = tmp_path / "gone.txt"
    gone.write_text("y\n\n")
    removed = json.loads(run_cli("items", "remove", root, "i1", "--from", gone, "--json"))
    assert (removed["removed"], removed["items"]) == (2, N)
    run_cli("items", "compact", root)
    catalogue = Bundle.open(root).searcher.catalogue
    assert len(catalogue) == N
    assert catalogue.titles[int(catalogue.items.encode(["x"])[0])] == "X"


def test_new_items_can_have_a_share_of_the_list(root, tmp_path):
    rows = tmp_path / "new.parquet"
    table([f"n{n}" for n in range(8)]).write_parquet(rows)
    run_cli("items", "add", root, rows)
    ask = ["recommend", root, "--history", "i1,i2", "-k", "10", "--new-share", "0.5"]
    answer = json.loads(run_cli(*ask, "--json"))["candidates"]
    assert sum(one["new"] for one in answer) >= 5
    assert {one["new"] for one in answer if one["item"].startswith("i")} == {False}
    assert "new" in run_cli(*ask).split("\n")[0] + run_cli(*ask).split("\n")[1]


def test_several_ids_of_likeness_in_a_csv(root, tmp_path):
    rows = tmp_path / "new.csv"
    rows.write_text("id,like\nx,i1|i2\n")
    run_cli("items", "add", root, rows)
    assert Bundle.open(root).similar_items(["x"], 2)["similar"].is_in(["i1", "i2"]).any()


def test_drift_is_said(root, tmp_path):
    quiet = json.loads(run_cli("items", "drift", root, "--json"))
    assert (quiet["changed"], quiet["compact"], quiet["retrain"], quiet["reasons"]) == (0, False, False, [])
    rows = tmp_path / "new.parquet"
    table([f"n{n}" for n in range(N)]).write_parquet(rows)
    run_cli("items", "add", root, rows)
    loud = json.loads(run_cli("items", "drift", root, "--json"))
    assert (loud["items"], loud["later"], loud["changed"], loud["compact"]) == (2 * N, 0.5, 1.0, True)
    assert loud["misfit"] > 0
    assert "compact it" in loud["reasons"][0]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["remove"], "no item is named"),
        (["remove", "nowhere"], "'nowhere' is not in the catalogue"),
        (["add", "missing.csv"], "missing.csv does not exist"),
    ],
)
def test_mistakes_are_named(root, args, message):
    assert message in run_cli("items", args[0], root, *args[1:], code=2)
