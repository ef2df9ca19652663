"""The command line: one typer app over the same functions that Python users call."""

from __future__ import annotations

import os


def main() -> None:
    """Run ``tesserec``; set the thread environment first, since libraries read it when they are imported."""
    # Waiting OpenMP threads that spin slow every other process on the machine down.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Numba's first parallel call sets the thread count of torch too, so both have to mean the same number.
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(threads) <= (os.cpu_count() or 1):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    from tesserec.cli.app import app

    app()
