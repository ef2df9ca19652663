"""The command in processes of its own: workers, signals, crashes, and what it refuses to start."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading

import httpx
import psutil
import pytest

from tests.cli.conftest import run_cli
from tests.faults import ROOT
from tests.index.test_bundle import publish_popularity
from tests.serving.conftest import AUTHORISED, TOKEN, Server, free_port, server_of, wait_for

ASK = "/v1/recommend"
WITH_TOKEN = {"TESSEREC_TOKEN": TOKEN}


def served_by_all(server, generation, times=20):
    """Whether many fresh connections all meet a generation."""
    return all(httpx.get(f"{server.url}/v1/version").json()["served"]["generation"] == generation for _ in range(times))


def test_workers_share_generations_events_and_metrics(tmp_path):
    root = tmp_path / "bundles"
    publish_popularity(root, first=0)
    with server_of(root, "--workers", 2, "--state", tmp_path / "events.sqlite", env=WITH_TOKEN) as server:
        wait_for(lambda: len(psutil.Process(server.process.pid).children(recursive=True)) >= 2)
        for number in range(20):
            event = {"id": str(number), "user": "ann", "item": "i5"}
            assert httpx.post(f"{server.url}/v1/events", json=event, headers=AUTHORISED).json()["stored"] == 1
            answer = httpx.post(f"{server.url}{ASK}", json={"user": "ann", "k": 1}, headers=AUTHORISED)
            assert answer.json()["candidates"][0]["item"] == "i0"
        publish_popularity(root, first=2)
        wait_for(lambda: served_by_all(server, 2))
        text = httpx.get(f"{server.url}/metrics", headers=AUTHORISED).text
        assert 'tesserec_requests_total{path="/v1/recommend",status="200"} 20.0' in text
        assert 'tesserec_events_total{outcome="stored"} 20.0' in text
        printed = server.stop()
        assert server.process.returncode == 0
    assert "ann" not in printed
    assert "Traceback" not in printed
    assert "generation 2 is in service" in printed


def test_connections_that_are_kept_are_spread_over_the_workers(network):
    with server_of(network, "--workers", 2) as server, contextlib.ExitStack() as stack:
        workers = [one for one in psutil.Process(server.process.pid).children() if "spawn_main" in str(one.cmdline())]
        wait_for(lambda: all(listens(one, server.port) for one in workers))
        for _ in range(64):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        wait_for(lambda: sum(taken_by(one, server.port) for one in workers) == 64)
        # Spread by a hash of addresses: that a worker of two gets fewer than 8 has a chance of 1 in 10 billion.
        assert min(taken_by(one, server.port) for one in workers) >= 8


def listens(process, port):
    return any(one.status == psutil.CONN_LISTEN for one in process.net_connections() if one.laddr.port == port)


def taken_by(process, port):
    found = [one for one in process.net_connections() if one.laddr.port == port]
    return sum(one.status == psutil.CONN_ESTABLISHED for one in found)


def test_a_server_needs_no_torch(network):
    with server_of(network) as server:
        mapped = {os.path.basename(one.path) for one in psutil.Process(server.process.pid).memory_maps()}
        assert any("onnxruntime" in name for name in mapped)
        assert not any("torch" in name for name in mapped)


def test_interrupted_it_answers_what_it_has_begun(network):
    with server_of(network) as server:
        assert httpx.post(f"{server.url}{ASK}", json={"history": ["i1"]}).status_code == 200
        server.stop(signal.SIGINT)
        assert server.process.returncode in (0, 130)


def test_killed_under_load_it_loses_no_acknowledged_event(tmp_path):
    root, state = tmp_path / "bundles", tmp_path / "events.sqlite"
    publish_popularity(root)
    acknowledged = set()
    for turn in range(2):
        with server_of(root, "--state", state, env=WITH_TOKEN) as server:
            writers = [
                threading.Thread(target=write_until_killed, args=(server, f"{turn}-{n}", acknowledged))
                for n in range(3)
            ]
            for writer in writers:
                writer.start()
            before = len(acknowledged)
            wait_for(lambda before=before: len(acknowledged) > before + 20)
            server.stop(signal.SIGKILL)
            for writer in writers:
                writer.join()
    with contextlib.closing(sqlite3.connect(state)) as connection:
        kept = {name for (name,) in connection.execute("SELECT id FROM events")}
    assert acknowledged <= kept


def write_until_killed(server, prefix, acknowledged):
    with httpx.Client(base_url=server.url, headers=AUTHORISED) as http, contextlib.suppress(httpx.TransportError):
        for number in range(100_000):
            event = {"id": f"{prefix}-{number}", "user": "u", "item": "i1"}
            if http.post("/v1/events", json=event).status_code == 200:
                acknowledged.add(event["id"])


def run(*options, **env):
    command = [sys.executable, "-m", "tesserec", "serve", *map(str, options)]
    given = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, env=given, cwd=ROOT, timeout=120)


def refused(*options):
    """What the command says in this process, where nothing would be served if it were not refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uvicorn.Server.run", lambda self, sockets: None)
        patch.setattr("uvicorn.supervisors.Multiprocess.run", lambda self: None)
        return run_cli("serve", *options, "--port", free_port(), code=2).replace("\n", " ")


def test_what_it_refuses_to_start(network, tmp_path):
    for options, says in (
        (["--host", "0.0.0.0"], "there is no token"),
        (["--token-file", tmp_path / "none"], "cannot be read"),
        (["--workers", 0], "workers = 0"),
        (["--retention", -1], "retention = -1"),
    ):
        assert says in refused(network, *options)
    for options, says in (
        ([tmp_path / "nothing"], "does not exist"),
        ([network, "--state", tmp_path], "cannot be used as an event store"),
    ):
        done = run(*options, "--port", free_port())
        assert (done.returncode, says in done.stderr.replace("\n", " ")) == (2, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_named(network):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for workers in (1, 2):
            done = run(network, "--port", port, "--workers", workers)
            assert done.returncode == 2
            assert f"cannot listen on 127.0.0.1:{port} (Address already in use" in done.stderr


def test_without_the_extra_it_is_named(network):
    code = "import sys; sys.modules['uvicorn'] = None; from tesserec.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", str(network)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "pip install 'tesserec[serve]'" in done.stderr.replace("\n", "")


def test_a_dead_worker_is_replaced(network):
    with server_of(network, "--workers", 2) as server:
        parent = psutil.Process(server.process.pid)

        def workers():
            found = set()
            for one in parent.children():
                with contextlib.suppress(psutil.NoSuchProcess):  # a zombie has no command any more
                    if "spawn_main" in " ".join(one.cmdline()):
                        found.add(one.pid)
            return found

        wait_for(lambda: len(workers()) == 2)
        before = workers()
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(workers() - before) == 1)
        wait_for(server.ready)


def test_the_url_of_a_server_is_printed(network):
    server = Server(network).wait()
    assert f"http://127.0.0.1:{server.port}" in server.stop()
