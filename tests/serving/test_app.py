"""The HTTP API: answers equal to the model's own, strict requests, limits, authentication, health and metrics."""

import asyncio
import json
from concurrent.futures import Future

import pytest

from tesserec.errors import ConfigError
from tesserec.index.bundle import Bundle
from tesserec.serving.settings import Settings, read_token
from tests.index.test_bundle import publish_popularity
from tests.serving.conftest import AUTHORISED, TOKEN, client_of

ASK = "/v1/recommend"


def test_candidates_are_those_of_the_model(network, client):
    bundle = Bundle.open(network)
    table = bundle.recommend([["i1", "i2"]], 9, explore=0.3, interests=2)
    asked = {"history": ["i1", "i2", "gone"], "k": 9, "policy": {"explore": 0.3, "interests": 2}}
    answer = client.post(ASK, asked).json()
    columns = ["item", "score", "interest", "probability", "explored"]
    got = [{name: one[name] for name in columns} for one in answer["candidates"]]
    wanted = json.loads(json.dumps(table.select(columns).to_dicts()))
    assert [one["item"] for one in got] == [one["item"] for one in wanted]
    for one, two in zip(got, wanted, strict=True):
        assert one == pytest.approx(two)
    assert any(one["explored"] for one in got)
    assert answer["unknown"] == ["gone"]
    assert (answer["generation"], answer["certified"]) == (1, True)
    assert answer["as_of"].endswith("Z")
    names = dict(zip(bundle.searcher.names["interest"], bundle.searcher.names["name"], strict=True))
    assert {one["interest"] for one in got} == {one["interest"] for one in answer["interests"]}
    assert all(one["name"] == names[one["interest"]] for one in answer["interests"])
    chances = [one["probability"] for one in answer["interests"]]
    assert chances == sorted(chances, reverse=True)


def test_drawn_interests_carry_the_propensity_that_the_model_states(network, client):
    asked = {"history": ["i1", "i2"], "k": 6}
    assert {one["propensity"] for one in client.post(ASK, asked).json()["candidates"]} == {1.0}
    drawn = {"interests": 1, "seed": 7, "temperature": 3.0, "top_p": 0.9, "repeats": 20}
    got = client.post(ASK, asked | {"policy": drawn}).json()["candidates"]
    table = Bundle.open(network).recommend([["i1", "i2"]], 6, **drawn)
    assert [one["item"] for one in got] == table["item"].to_list()
    assert [one["propensity"] for one in got] == pytest.approx(table["propensity"].to_list())
    assert min(one["propensity"] for one in got) < 1
    unknown = client.post(ASK, asked | {"policy": drawn | {"repeats": 0}}).json()["candidates"]
    assert client.post(ASK, asked | {"policy": drawn | {"repeats": 201}}).status_code == 422
    assert {one["propensity"] for one in unknown} == {None}


def test_a_part_of_the_posterior_is_not_certified(client):
    assert client.post(ASK, {"history": ["i1"], "policy": {"visit": 0.3}}).json()["certified"] is False


def test_filters_hold_inside_the_search(client):
    free = client.post(ASK, {"history": ["i1"], "k": 5}).json()["candidates"]
    first = free[0]["item"]
    denied = client.post(ASK, {"history": ["i1"], "k": 5, "filter": {"deny": [first, "gone"]}}).json()["candidates"]
    assert [one["item"] for one in denied[:2]] == [one["item"] for one in free[1:3]]
    assert len(denied) == 5
    some = {"history": ["i1"], "k": 5, "filter": {"allow": ["i7", "i8", "i9"], "where": {"title": ["T8", "T9"]}}}
    answer = client.post(ASK, some).json()
    assert {one["item"] for one in answer["candidates"]} == {"i8", "i9"}
    assert client.post(ASK, {"history": ["i1"], "filter": {"where": {"colour": "red"}}}).status_code == 422
    assert client.post(ASK, {"history": ["i1"], "filter": {"where": {"title": 3}}}).status_code == 422


def test_the_budget_of_a_request(client):
    whole = client.post(ASK, {"history": ["i1"], "k": 3}).json()
    assert (whole["certified"], whole["mass_left"]) == (True, pytest.approx(0.0, abs=1e-5))
    little = client.post(ASK, {"history": ["i1"], "k": 3, "policy": {"max_items": 1}}).json()
    assert little["items"] < whole["items"]
    assert little["mass_left"] > 0
    assert client.post(ASK, {"history": ["i1"], "policy": {"recall": 0.9}}).status_code == 422  # not calibrated


def test_a_batch_is_its_parts(client):
    histories = [["i1"], ["i2", "i3", "nobody"], ["i9"] * 3]
    batch = client.post("/v1/recommend/batch", {"histories": histories, "k": 7}).json()
    assert len(batch["users"]) == 3
    for history, user in zip(histories, batch["users"], strict=True):
        alone = client.post(ASK, {"history": history, "k": 7}).json()
        assert [one["item"] for one in user["candidates"]] == [one["item"] for one in alone["candidates"]]
        assert [one["interest"] for one in user["interests"]] == [one["interest"] for one in alone["interests"]]
    assert batch["users"][1]["unknown"] == ["nobody"]


def test_interests_and_neighbours_are_those_of_the_model(network, client):
    bundle = Bundle.open(network)
    rows = client.post("/v1/interests", {"history": ["i1"], "k": 4}).json()["interests"]
    wanted = bundle.interests([["i1"]], 4).drop("user", "rank").to_dicts()
    assert [(one["interest"], one["name"], one["known"]) for one in rows] == [
        (one["interest"], one["name"], one["known"]) for one in wanted
    ]
    similar = client.post("/v1/similar", {"items": ["i7", "i1"], "k": 4}).json()["items"]
    table = bundle.similar_items(["i7"], 4)
    assert [one["item"] for one in similar] == ["i7", "i1"]
    assert [one["item"] for one in similar[0]["similar"]] == table["similar"].to_list()


def test_an_event_changes_the_next_answer(client):
    event = {"id": "e1", "user": "ann", "item": "i4"}
    assert client.post(ASK, {"user": "ann"}).status_code == 404
    assert client.post("/v1/events", event).json() == {"stored": 1, "repeated": 0, "unknown": []}
    before = client.post(ASK, {"user": "ann", "k": 60}).json()["candidates"]
    assert "i4" not in {one["item"] for one in before}
    top = before[0]["item"]
    assert client.post("/v1/events", {"id": "e2", "user": "ann", "item": top}).json()["stored"] == 1
    after = client.post(ASK, {"user": "ann", "k": 60}).json()["candidates"]
    assert top not in {one["item"] for one in after}
    by_history = client.post(ASK, {"history": ["i4", top], "k": 60}).json()["candidates"]
    assert after == by_history
    assert client.post("/v1/events", event).json() == {"stored": 0, "repeated": 1, "unknown": []}
    assert client.post("/v1/users/delete", {"user": "ann"}).json() == {"events": 2}
    assert client.post(ASK, {"user": "ann"}).status_code == 404


def test_a_batch_of_events_says_what_is_new_and_what_is_unknown(client):
    events = [{"id": f"e{n % 3}", "user": "bob", "item": item} for n, item in enumerate(["i1", "i2", "later", "i5"])]
    stored = client.post("/v1/events/batch", {"events": events}).json()
    assert stored == {"stored": 3, "repeated": 1, "unknown": ["later"]}


def test_order_is_by_time_whatever_the_order_of_arrival(client):
    times = {"i1": "2026-01-03T00:00:00Z", "i2": "2026-01-01T00:00:00+05:00", "i3": "2026-01-02T00:00:00Z"}
    events = [{"id": item, "user": "cy", "item": item, "time": time} for item, time in times.items()]
    client.post("/v1/events/batch", {"events": events})
    assert client.service.history_of("cy") == ["i2", "i3", "i1"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (ASK, {"history": ["i1"], "kk": 3}, "unknown field `kk`"),
        (ASK, {"history": ["i1"], "k": 0}, "k"),
        (ASK, {"history": ["i1"], "k": 1001}, "k"),
        (ASK, {"history": ["i1"], "k": "3"}, "int"),
        (ASK, {"history": ["i1"] * 1001}, "length"),
        (ASK, {"history": []}, "length"),
        (ASK, {"history": "i1"}, "array"),
        (ASK, {"history": [None]}, "null"),
        (ASK, {"history": [["i1"]]}, "array"),
        (ASK, {"history": ["x"]}, "none of its 1 items"),
        (ASK, {}, "either a history or a user"),
        (ASK, {"history": ["i1"], "user": "u"}, "not both"),
        (ASK, {"history": ["i1"], "policy": {"merge": "mean"}}, "mean"),
        (ASK, {"history": ["i1"], "policy": {"explore": 1.5}}, "explore"),
        (ASK, {"history": ["i1"], "policy": {"interests": 65}}, "interests"),
        (ASK, {"history": ["i1"], "policy": {"select": "history", "explore": 0.5}}, "explore"),
        ("/v1/recommend/batch", {"histories": [["i1"]] * 257}, "length"),
        ("/v1/recommend/batch", {"histories": [["i1"], ["x"]]}, "history 1"),
        ("/v1/similar", {"items": ["x"]}, "not in the catalogue"),
        ("/v1/events", {"id": "1", "user": "u", "item": "i1", "time": "2026-01-01T00:00:00"}, "timezone"),
        ("/v1/events", {"id": "1", "user": "u", "item": "i1", "time": "2999-01-01T00:00:00Z"}, "yet to come"),
        ("/v1/events", {"id": "", "user": "u", "item": "i1"}, "length"),
    ],
)
def test_bad_requests_are_refused_by_name(client, path, body, says):
    answer = client.post(path, body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"history": ["\\ud800"]}', b'{"history": [1e999]}'])
def test_what_is_not_json_is_refused(client, body):
    headers = AUTHORISED | {"content-type": "application/json"}
    assert client.post(ASK, headers=headers, content=body).status_code == 422


def test_bodies_of_another_kind_or_too_long_are_refused(network):
    with client_of(network, body=200) as client:
        headers = {"content-type": "text/plain"}
        assert client.post(ASK, headers=headers, content=b'{"history": ["i1"]}').status_code == 415
        assert client.post(ASK, {"history": ["i1"] * 100}).status_code == 413

        async def endless():
            while True:
                yield b" " * 64

        headers = {"content-type": "application/json"}
        assert client.post(ASK, headers=headers, content=endless()).status_code == 413


def test_unknown_paths_and_methods(client):
    assert client.get("/v1/nothing").status_code == 404
    assert client.get(ASK).status_code == 405
    assert client.get(ASK).headers["allow"] == "POST"
    assert "error" in client.get("/v1/nothing").json()


GUARDED = [
    ("/v1/events", {"id": "1", "user": "u", "item": "i1"}),
    ("/v1/events/batch", {"events": [{"id": "1", "user": "u", "item": "i1"}]}),
    ("/v1/users/delete", {"user": "u"}),
    (ASK, {"user": "u"}),
    ("/v1/interests", {"user": "u"}),
]


@pytest.mark.parametrize(("path", "body"), GUARDED)
def test_writes_and_stored_users_need_the_token(client, path, body):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = client.post(path, body, headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post(path, body).status_code in (200, 404)
    assert client.get("/metrics").status_code == 401


def test_reading_by_history_needs_no_token(client):
    assert client.post(ASK, {"history": ["i1"]}, headers={}).status_code == 200


def test_without_a_token_nothing_is_written(network, tmp_path):
    with client_of(network, token=None, state=str(tmp_path / "events.sqlite")) as client:
        for path, body in GUARDED:
            assert client.post(path, body).status_code == 403
    with client_of(network, open_to_all=True, state=str(tmp_path / "events.sqlite")) as client:
        for path, body in GUARDED:
            assert client.post(path, body, {}).status_code in (200, 404)


def test_an_open_address_needs_a_token():
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ConfigError, match="no token"):
            Settings("bundles", host=host)
        Settings("bundles", host=host, token=TOKEN)
        Settings("bundles", host=host, open_to_all=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        Settings("bundles", host=host)
    with pytest.raises(ConfigError, match="5 characters"):
        Settings("bundles", token="short")
    with pytest.raises(ConfigError, match="choose one"):
        Settings("bundles", token=TOKEN, open_to_all=True)
    assert TOKEN not in repr(Settings("bundles", token=TOKEN))
    assert Settings.from_json(Settings("b", token=TOKEN).to_json()) == Settings("b", token=TOKEN)


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSEREC_TOKEN", "from-the-environment")
    assert read_token(None) == "from-the-environment"
    (tmp_path / "token").write_text("from-a-file\n")
    assert read_token(tmp_path / "token") == "from-a-file"
    with pytest.raises(ConfigError, match="gone"):
        read_token(tmp_path / "gone")


def test_users_need_a_store(network):
    with client_of(network) as client:
        answer = client.post(ASK, {"user": "u"})
        assert answer.status_code == 503
        assert "--state" in answer.json()["error"]


def test_a_full_queue_says_so_and_recovers(network):
    with client_of(network, queue=2) as client:
        gate = client.service.gate
        with gate.admit(1), gate.admit(1):
            answer = client.post(ASK, {"history": ["i1"]})
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert client.get("/healthz").status_code == 200
        assert client.post(ASK, {"history": ["i1"]}).status_code == 200
        # An idle service takes one request of any size.
        assert client.post("/v1/recommend/batch", {"histories": [["i1"]] * 5}).status_code == 200
        assert gate.inside == 0
        assert 'tesserec_requests_total{path="/v1/recommend",status="429"} 1.0' in metrics(client)


def test_repeats_of_a_drawn_list_count_as_searches(network):
    with client_of(network, queue=21) as client:
        drawn = {"seed": 1, "repeats": 20}
        one, many = {"history": ["i1"]}, {"histories": [["i1"]] * 48}
        with client.service.gate.admit(1):
            assert client.post(ASK, one | {"policy": drawn}).status_code == 429
            assert client.post(ASK, one | {"policy": drawn | {"repeats": 19}}).status_code == 200
            assert client.post(ASK, one | {"policy": {"repeats": 20}}).status_code == 200  # nothing is drawn
            new = drawn | {"repeats": 10, "new_share": 0.1}  # searched for alone, so each draw counts twice
            assert client.post(ASK, one | {"policy": new}).status_code == 429
        assert client.post("/v1/recommend/batch", many | {"policy": drawn | {"repeats": 19}}).status_code == 200
        refused = client.post("/v1/recommend/batch", many | {"policy": drawn})
        assert (refused.status_code, "1008 searches" in refused.json()["error"]) == (422, True)
        assert client.service.gate.inside == 0


def metrics(client):
    return client.get("/metrics", headers=AUTHORISED).text


def test_a_failure_inside_is_no_secret_and_no_leak(client, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("inner workings")

    monkeypatch.setattr("tesserec.serving.answers.recommend", fail)
    answer = client.post(ASK, {"history": ["i1"]})
    assert answer.status_code == 500
    assert "inner" not in answer.text
    assert "inner workings" in caplog.text
    assert client.service.gate.inside == 0


def test_a_store_that_fails_acknowledges_nothing(client, monkeypatch):
    def add(_):
        failed = Future()
        failed.set_exception(OSError("disk full"))
        return failed

    monkeypatch.setattr(client.service.store, "add", add)
    assert client.post("/v1/events", {"id": "1", "user": "u", "item": "i1"}).status_code == 500


def test_the_log_names_no_user_and_no_history(client, caplog):
    caplog.set_level("DEBUG")
    client.post("/v1/events", {"id": "1", "user": "secret-user", "item": "i7"})
    client.post(ASK, {"user": "secret-user"})
    client.post(ASK, {"history": ["secret-item"]})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("tesserec")]
    assert not any("secret" in message for message in ours)


def test_metrics_count_what_happened(client):
    client.post(ASK, {"history": ["i1"], "k": 5, "policy": {"explore": 0.4}})
    client.post(ASK, {"history": []})
    client.post("/v1/events", {"id": "1", "user": "u", "item": "i1"})
    text = metrics(client)
    for line in (
        'tesserec_requests_total{path="/v1/recommend",status="200"} 1.0',
        'tesserec_requests_total{path="/v1/recommend",status="422"} 1.0',
        'tesserec_candidates_total{explored="true"} 2.0',
        'tesserec_candidates_total{explored="false"} 3.0',
        'tesserec_events_total{outcome="stored"} 1.0',
        'tesserec_generations_total{outcome="served"} 1.0',
        "tesserec_generation 1.0",
        "tesserec_requests_inside 0.0",
    ):
        assert line in text


def test_models_without_interests_are_served_too(tmp_path):
    publish_popularity(tmp_path / "bundles", first=2)
    with client_of(tmp_path / "bundles") as client:
        answer = client.post(ASK, {"history": ["i5"], "k": 2}).json()
        assert [one["item"] for one in answer["candidates"]] == ["i2", "i3"]
        assert answer["interests"] == []
        assert answer["candidates"][0]["interest"] is None
        assert client.post("/v1/interests", {"history": ["i5"]}).status_code == 422
        assert client.post("/v1/similar", {"items": ["i5"]}).status_code == 422


def test_the_description_names_every_operation(client):
    described = client.get("/openapi.json").json()
    assert described["openapi"] == "3.1.0"
    assert {ASK, "/v1/recommend/batch", "/v1/interests", "/v1/similar", "/v1/events", "/healthz", "/metrics"} <= set(
        described["paths"]
    )
    responses = described["paths"][ASK]["post"]["responses"]
    assert set(responses) == {"200", "401", "403", "404", "408", "413", "415", "422", "429", "503"}
    asked = described["components"]["schemas"]["RecommendRequest"]
    assert asked["additionalProperties"] is False


def test_the_explorer_asks_for_the_token_as_a_password(network):
    with client_of(network) as client:
        answer = client.get("/explorer/")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="tesserec"')
        assert client.get("/explorer/api/map", auth=("me", "wrong")).status_code == 401
        assert client.get("/explorer/api/map", headers={"authorization": "Basic !"}).status_code == 401
        assert client.get("/explorer/", auth=("me", TOKEN)).status_code == 200
        model = client.get("/explorer/api/model", auth=("me", TOKEN)).json()
        assert (model["generation"], model["users"]) == (1, False)
    with client_of(network, token=None, state=None) as client:
        assert client.get("/explorer/").status_code == 200
    with client_of(network, explorer=False) as client:
        assert client.get("/explorer/", auth=("me", TOKEN)).status_code == 404


def test_the_explorer_shows_stored_users_and_traffic(client):
    client.post("/v1/events", {"id": "1", "user": "ann", "item": "i4"})
    client.post(ASK, {"user": "ann", "k": 5})
    asked = {"user": "ann"}
    page = client.post("/explorer/api/user", asked, auth=("me", TOKEN), headers=None)
    assert [one["id"] for one in page.json()["history"]] == ["i4"]
    cells = client.get("/explorer/api/map", auth=("me", TOKEN)).json()["cells"]
    assert sum(cell["traffic"] for cell in cells) == 5


def test_old_events_are_forgotten_while_it_runs(network, tmp_path):
    state = str(tmp_path / "events.sqlite")
    old = {"id": "1", "user": "ann", "item": "i4", "time": "2020-01-01T00:00:00Z"}
    with client_of(network, state=state) as client:
        client.post("/v1/events/batch", {"events": [old, {"id": "2", "user": "ann", "item": "i5"}]})
        assert client.service.history_of("ann") == ["i4", "i5"]
    with client_of(network, state=state, retention=30) as client:
        assert client.service.history_of("ann") == ["i5"]
        client.run(client.service.prune())
    with client_of(network, state=state) as client:
        assert client.service.history_of("ann") == ["i5"]


def test_a_body_that_does_not_come_is_not_waited_for(network, monkeypatch):
    monkeypatch.setattr("tesserec.serving.limits._SECONDS_TO_SEND", 0.05)

    async def slow():
        yield b'{"history"'
        await asyncio.sleep(5)

    with client_of(network) as client:
        headers = {"content-type": "application/json"}
        assert client.post(ASK, headers=headers, content=slow()).status_code == 408
