"""Processes: one worker a core, all behind one listening socket, each with its own event loop over the same files."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

from tesserec.errors import MissingExtra
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
    """
    try:
        import uvicorn

        from tesserec.serving import metrics
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "serve", "serving over HTTP") from None

    os.environ[_SETTINGS] = settings.to_json()
    shared = tempfile.mkdtemp(prefix="tesserec-metrics-") if settings.workers > 1 else None
    if shared is not None:
        os.environ[metrics.SHARED] = shared
    try:
        uvicorn.run(
            "tesserec.serving.server:app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            access_log=False,
            server_header=False,
            log_level="warning",
            ws="none",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_SECONDS_TO_FINISH,
        )
    finally:
        if shared is not None:
            shutil.rmtree(shared, ignore_errors=True)


def app() -> object:
    """The application of a worker process, from the settings that its parent left in the environment."""
    import logging

    from tesserec.serving.app import build_app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s")
    # A search and the event loop share the interpreter; the loop must not wait 5 ms for its turn.
    sys.setswitchinterval(_SWITCH_SECONDS)
    return build_app(Settings.from_json(os.environ[_SETTINGS]))
