"""Items come and go through the service, and the next answer knows."""

import os

import pytest

pytest.importorskip("tests.index.onnx_model", reason="needs onnx")

from tests.index.test_living import N, publish_vectors
from tests.serving.conftest import AUTHORISED, client_of


@pytest.fixture
def client(tmp_path):
    publish_vectors(tmp_path / "bundles")
    with client_of(tmp_path / "bundles") as client:
        yield client


def found(client, history, k=N):
    answer = client.post("/v1/recommend", {"history": history, "k": k, "policy": {"visit": 1.0}}).json()
    return [one["item"] for one in answer["candidates"]], answer["generation"]


def test_an_item_is_recommended_in_the_answer_after_it_came_and_not_after_it_went(client):
    new = {"id": "new", "kind": "b", "price": 0.1, "title": "New"}
    done = client.post("/v1/items/add", {"items": [new]})
    assert done.json() == {"generation": 2, "added": 1, "updated": 0, "removed": 0, "items": N + 1}
    items, generation = found(client, ["i1"])
    assert "new" in items
    assert generation == 2
    assert client.post("/v1/recommend", {"history": ["new"]}).json()["unknown"] == []
    again = client.post("/v1/items/add", {"items": [new]})
    assert again.status_code == 422
    assert "'new' is in the catalogue already" in again.json()["error"]
    assert client.post("/v1/items/update", {"items": [{"id": "new", "price": 3}]}).json()["updated"] == 1
    assert client.post("/v1/items/remove", {"items": ["new"]}).json()["items"] == N
    assert "new" not in found(client, ["i1"])[0]


def test_new_items_have_the_share_of_the_list_that_the_policy_gives_them(client):
    rows = [{"id": f"n{n}", "kind": "b", "price": n / 10} for n in range(6)]
    client.post("/v1/items/add", {"items": rows})
    asked = {"history": ["i1"], "k": 10, "policy": {"new_share": 0.4}}
    candidates = client.post("/v1/recommend", asked).json()["candidates"]
    assert sum(one["new"] for one in candidates) >= 4
    assert all(one["new"] == one["item"].startswith("n") for one in candidates)
    assert client.post("/v1/recommend", asked | {"policy": {"new_share": 2}}).status_code == 422


def test_an_edit_that_does_not_come_into_service_is_no_success(client):
    answer = client.post("/v1/items/remove", {"items": [f"i{n}" for n in range(N)]})
    assert answer.status_code == 422
    assert "generation 2 holds the edit and is not in service" in answer.json()["error"]
    assert "no history has any candidate" in answer.json()["error"]
    assert found(client, ["i1"])[1] == 1


def test_an_item_is_like_others(client):
    assert client.post("/v1/items/add", {"items": [{"id": "x", "like": ["i3"]}]}).status_code == 200
    neighbours = client.post("/v1/similar", {"items": ["x"], "k": 1}).json()["items"][0]["similar"]
    assert neighbours[0]["item"] == "i3"


@pytest.mark.parametrize(
    ("what", "items", "message"),
    [
        ("add", [{"price": 1.0}], "no column that is known as the item"),
        ("add", [{"id": "x", "price": 1.0}, {"id": "y"}], "item 1 names"),
        ("add", [{"id": "x", "colour": "red"}], "'colour'"),
        ("add", [{"id": "x", "kind": ["a"]}], "'kind'"),
        ("add", [{"id": 3, "price": 1.0}], "one type"),
        ("add", [], "length"),
        ("update", [{"id": "nowhere", "price": 1.0}], "'nowhere' is not in the catalogue"),
        ("remove", ["nowhere"], "'nowhere' is not in the catalogue"),
        ("remove", ["i1", "i1"], "twice"),
        ("remove", [2.5], "are not String"),
    ],
)
def test_bad_edits_are_refused_and_change_nothing(client, what, items, message):
    answer = client.post(f"/v1/items/{what}", {"items": items})
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert found(client, ["i1"])[1] == 1


def test_edits_need_the_token(client):
    assert client.post("/v1/items/remove", {"items": ["i1"]}, headers={}).status_code == 401
    assert client.post("/v1/items/remove", {"items": ["i1"]}, headers=AUTHORISED).status_code == 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_bundle_that_cannot_be_written_is_said(client, tmp_path):
    (tmp_path / "bundles").chmod(0o500)
    answer = client.post("/v1/items/remove", {"items": ["i1"]})
    (tmp_path / "bundles").chmod(0o700)
    assert answer.status_code == 503
    assert "cannot be written" in answer.json()["error"]
