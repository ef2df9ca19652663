"""A live explorer and a headless Chromium to look at it; tests and screenshots share both."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time

NEEDED = ("starlette", "uvicorn", "playwright")


def chromium() -> str | None:
    """Path of a Chromium that the system has."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def serving(get_bundle, **options):
    """Serve the explorer of a bundle on a free port; gives its address."""
    import uvicorn
    from starlette.applications import Starlette

    from tesserec.serving.explorer.web import routes

    app = Starlette(routes=routes(get_bundle, **options))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/explorer/"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


@contextlib.contextmanager
def browsing():
    """A headless Chromium of the system; a ``FileNotFoundError`` where there is none."""
    if (path := chromium()) is None:
        raise FileNotFoundError("no Chromium found; run tests/system-packages.sh, or name one in CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()
