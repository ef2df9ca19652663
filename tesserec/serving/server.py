"""Processes: one worker a core, all behind one listening socket, each with its own event loop over the same files."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile

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
    with _listen(settings.host, settings.port) as listening, contextlib.ExitStack() as stack:
        if settings.workers == 1:
            uvicorn.Server(config).run([listening])
            return
        os.environ[metrics.SHARED] = stack.enter_context(tempfile.TemporaryDirectory(prefix="tesserec-metrics-"))
        Multiprocess(config, sockets=[listening]).run()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port or --host") from None
    # Connections inherit it; an answer in two packets would otherwise wait 40 ms for the caller's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def app() -> object:
    """The application of a worker process, from the settings that its parent left in the environment."""
    import logging

    from tesserec.serving.app import build_app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    # A search and the event loop share the interpreter; the loop must not wait 5 ms for its turn.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return build_app(Settings.from_json(os.environ[_SETTINGS]))
