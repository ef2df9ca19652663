"""Generations change under requests: nothing fails, nothing is mixed, and what is damaged never serves."""

import threading

import numpy as np
import pytest

from tesserec.errors import ArtefactError
from tesserec.index.bundle import Bundle, publish
from tesserec.index.contract import Policy
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide
from tesserec.serving import swap
from tesserec.serving.swap import Generations, open_checked
from tests.cli.conftest import run_cli
from tests.index.test_bundle import FACTS, damage, publish_network, publish_popularity
from tests.index.world import catalogue
from tests.serving.conftest import AUTHORISED, client_of, wait_for

ASK = "/v1/recommend"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "bundles"


def served(client):
    return client.get("/v1/version").json()["served"]["generation"]


def test_a_new_generation_is_served_without_a_restart(root):
    publish_popularity(root, first=0)
    with client_of(root) as client:
        assert client.post(ASK, {"history": ["i5"], "k": 1}).json()["candidates"][0]["item"] == "i0"
        publish_popularity(root, first=2)
        wait_for(lambda: served(client) == 2)
        answer = client.post(ASK, {"history": ["i5"], "k": 1}).json()
        assert (answer["generation"], answer["candidates"][0]["item"]) == (2, "i2")


def test_swaps_under_load_fail_nothing_and_mix_nothing(root):
    publish_popularity(root, first=0)
    with client_of(root, poll=0.01) as client:
        stop, swaps = threading.Event(), 5

        def publish_some():
            for turn in range(1, swaps + 1):
                publish_popularity(root, first=turn % 5)
                wait_for(lambda turn=turn: client.service.generations.current.bundle.generation == turn + 1)
            stop.set()

        publisher = threading.Thread(target=publish_some)
        publisher.start()
        seen = []
        while not stop.is_set():
            for _ in range(20):
                answer = client.post(ASK, {"history": ["i5"], "k": 1})
                assert answer.status_code == 200
                found = answer.json()
                assert found["candidates"][0]["item"] == f"i{(found['generation'] - 1) % 5}"
                seen.append(found["generation"])
        publisher.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


@pytest.mark.parametrize("kind", ["flip", "half", "missing", "link"])
def test_a_damaged_generation_is_refused_and_the_old_one_goes_on(root, kind):
    publish_popularity(root, first=0)
    with client_of(root) as client:
        generations = client.service.generations
        with generations._busy:  # the watcher sees the new generation only once it is damaged
            path = publish_popularity(root, first=2)
            repair = damage(path / "postings" / "scores.npy", kind)
        wait_for(lambda: client.get("/v1/version").json()["refused"])
        assert served(client) == 1
        assert client.post(ASK, {"history": ["i5"], "k": 1}).json()["candidates"][0]["item"] == "i0"
        (refused,) = client.get("/v1/version").json()["refused"]
        assert refused["generation"] == path.name
        assert "scores.npy" in refused["reason"]
        assert str(root) not in refused["reason"]
        assert 'tesserec_generations_total{outcome="refused"} 1.0' in client.get("/metrics", headers=AUTHORISED).text
        assert client.get("/readyz").status_code == 200
        repair()
        publish_popularity(root, first=3)
        wait_for(lambda: served(client) == 3)


def test_what_the_system_refused_once_is_tried_again(root, monkeypatch):
    publish_popularity(root, first=0)
    with client_of(root) as client:
        tries = []

        def crowded(*given):
            tries.append(given)
            if len(tries) < 3:
                raise OSError(24, "Too many open files")
            return open_checked(*given)

        monkeypatch.setattr("tesserec.serving.swap.open_checked", crowded)
        publish_popularity(root, first=2)
        wait_for(lambda: served(client) == 2)
        (refused,) = client.get("/v1/version").json()["refused"]
        assert "Too many open files" in refused["reason"]


def test_a_first_generation_that_is_damaged_leaves_the_service_unready(root):
    path = publish_popularity(root)
    damage(path / "postings" / "scores.npy", "flip")
    with client_of(root, ready=False) as client:
        wait_for(lambda: client.get("/v1/version").json()["refused"])
        assert client.get("/healthz").status_code == 200
        for answer in (client.get("/readyz"), client.post(ASK, {"history": ["i5"]})):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/v1/version").json()["served"] is None
        publish_popularity(root)
        wait_for(lambda: client.get("/readyz").status_code == 200)


def test_a_rollback_is_taken_up_and_the_next_generation_has_a_new_number(root):
    for first in range(3):
        publish_popularity(root, first=first)
    with client_of(root) as client:
        for options, number in (([], 2), ([], 1), (["--to", 3], 3), (["--to", 2], 2)):
            run_cli("rollback", root, *options)
            wait_for(lambda number=number: served(client) == number)
            answer = client.post(ASK, {"history": ["i5"], "k": 1}).json()
            assert answer["candidates"][0]["item"] == f"i{number - 1}"
        run_cli("rollback", root)
        assert "nothing to go back to" in run_cli("rollback", root, code=2)
        assert "generation-000009 is missing" in run_cli("rollback", root, "--to", 9, code=2)
        damage(root / "generation-000003" / "postings" / "scores.npy", "flip")
        assert "scores.npy" in run_cli("rollback", root, "--to", 3, code=2)
        assert publish_popularity(root, first=4).name == "generation-000004"
        wait_for(lambda: served(client) == 4)


def test_a_generation_that_is_a_link_is_refused(root, tmp_path):
    path = publish_popularity(root)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match="link"):
        open_checked(root)


def publish_scores(root, scores):
    lists = ScorePostings.build(np.zeros(6, int), np.arange(6), np.ones(6, np.float32), n_codes=1, size=6)
    lists.scores[:] = scores
    searcher = Searcher(catalogue(6), ConstantSide(), lists, Policy())
    return publish(root, searcher, searcher.side.save, FACTS)


def test_impossible_answers_fail_the_self_check(root, monkeypatch):
    monkeypatch.setattr(ScorePostings, "verify", lambda lists: None)  # or it would not be published
    publish_scores(root, np.array([np.inf, 3, 2, 1, 1, 1], np.float32))
    with pytest.raises(ArtefactError, match="fails its self-check: a score is NaN"):
        open_checked(root)


def test_the_self_check_knows_impossible_probabilities(root, monkeypatch):
    publish_network(root)
    found = Bundle.open(root).searcher.retrieve(swap._questions(Bundle.open(root).searcher)[0], 5)
    assert swap._problem(found, 60) is None
    found.probability[0, 0] = 1.5
    assert "probability" in swap._problem(found, 60)
    found.items[0, 0] = 60
    assert "item 60" in swap._problem(found, 60)
    found.items[:] = -1
    assert "no history" in swap._problem(found, 60)


def test_a_watcher_that_stumbles_goes_on(root, monkeypatch, caplog):
    publish_popularity(root)
    taken = []
    generations = Generations(root, 0.01, lambda outcome, number: taken.append((outcome, number)))
    generations.start()
    try:
        real = swap.open_checked
        monkeypatch.setattr(swap, "open_checked", lambda *_: (_ for _ in ()).throw(RuntimeError("stumbled")))
        publish_popularity(root)
        wait_for(lambda: "stumbled" in caplog.text)
        monkeypatch.setattr(swap, "open_checked", real)
        wait_for(lambda: taken == [("served", 1), ("refused", 0), ("served", 2)])
    finally:
        generations.stop()
