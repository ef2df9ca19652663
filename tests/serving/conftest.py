"""A bundle, services over it in this process, and a real server in others."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tesserec.serving.app import build_app
from tesserec.serving.settings import Settings
from tests.faults import ROOT
from tests.index.test_bundle import publish_network

TOKEN = "a-token-for-the-tests"
AUTHORISED = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """Bundle root of a tiny network; nobody publishes there."""
    root = tmp_path_factory.mktemp("network") / "bundles"
    publish_network(root)
    return root


class Client:
    """Speaks to an application in this process, without sockets."""

    def __init__(self, app, loop):
        self.app, self.loop = app, loop
        self.service = app.state.service
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    def post(self, path, body=None, headers=AUTHORISED, **kwargs):
        sent = {"json": body} if body is not None else {}
        return self.run(self.http.post(path, headers=headers, **sent, **kwargs))

    def get(self, path, **kwargs):
        return self.run(self.http.get(path, **kwargs))

    def run(self, coroutine):
        return self.loop.run_until_complete(coroutine)


@contextlib.contextmanager
def client_of(root, ready=True, **settings):
    """A client of a service over ``root``."""
    if not settings.get("open_to_all"):
        settings.setdefault("token", TOKEN)
    app = build_app(Settings(str(root), **settings))
    loop = asyncio.new_event_loop()
    context = app.router.lifespan_context(app)
    loop.run_until_complete(context.__aenter__())
    try:
        client = Client(app, loop)
        if ready:
            wait_for(lambda: client.get("/readyz").status_code == 200)
        yield client
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def client(network, tmp_path):
    with client_of(network, state=str(tmp_path / "events.sqlite")) as client:
        yield client


def wait_for(condition, seconds=60.0):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """``tesserec serve`` in processes of its own."""

    def __init__(self, root, *options, env=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "tesserec", "serve", str(root), "--port", str(self.port), *map(str, options)]
        given = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait(self):
        wait_for(lambda: self.process.poll() is not None or self.ready())
        assert self.process.poll() is None, self.process.stdout.read()
        return self

    def ready(self):
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, how=signal.SIGTERM):
        """Ends the server and gives all that it has printed."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.communicate(timeout=60)[0]


@contextlib.contextmanager
def server_of(root, *options, **kwargs):
    server = Server(root, *options, **kwargs)
    try:
        yield server.wait()
    finally:
        server.stop()
