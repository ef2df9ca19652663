"""Processes: one worker a core, each with an event loop and a listening socket of its own, over the same files.

The sockets share a port, and the kernel spreads new connections over them. Behind one socket the worker that wakes
first would take all connections that wait, and keep them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tesserec.errors import MissingExtra, UserError
from tesserec.serving.settings import Settings

_SETTINGS = "TESSEREC_SETTINGS"
_SWITCH_SECONDS = 0.0005
_BACKLOG = 512
_SECONDS_TO_FINISH = 30


def serve(settings: Settings) -> None:
    """Serve until interrupted; returns after the last request is answered.

    Raises
    ------
    MissingExtra
        If the ``serve`` extra is not installed.
    UserError
        If the address cannot be listened on.
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess

        from tesserec.serving import metrics
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "serve", "serving over HTTP") from None

    os.environ[_SETTINGS] = settings.to_json()
    config = uvicorn.Config(
        "tesserec.serving.server:app",
        factory=True,
        workers=settings.workers,
        access_log=False,
        server_header=False,
        log_level="warning",
        ws="none",
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    with _bind(settings.host, settings.port) as bound, contextlib.ExitStack() as stack:
        if settings.workers == 1:
            bound.listen(_BACKLOG)
            uvicorn.Server(config).run([bound])
            return
        # It never listens: it was bound alone, so that a port in use is noticed, and now lets the workers join.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        os.environ[metrics.SHARED] = stack.enter_context(tempfile.TemporaryDirectory(prefix="tesserec-metrics-"))
        sockets: Any = [_OneEach(settings.host, bound.getsockname()[1])]
        Multiprocess(config, sockets=sockets).run()


def _bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A bound socket that does not listen yet; ``shared`` ones may join others on their port."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it; an answer in two packets would otherwise wait 40 ms for the caller's acknowledgement.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host") from None
    return bound


@dataclass(frozen=True)
class _OneEach:
    """Stands for a listening socket in the parent; each worker that it is sent to gets a socket of its own."""

    host: str
    port: int

    def __reduce__(self) -> tuple[Callable[..., socket.socket], tuple[str, int]]:
        return _join, (self.host, self.port)


def _join(host: str, port: int) -> socket.socket:
    listening = _bind(host, port, shared=True)
    listening.listen(_BACKLOG)
    return listening


def app() -> object:
    """The application of a worker process, from the settings that its parent left in the environment."""
    import logging

    from tesserec.serving.app import build_app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    # A search and the event loop share the interpreter; the loop must not wait 5 ms for its turn.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return build_app(Settings.from_json(os.environ[_SETTINGS]))
