"""Threads for the whole suite: set before any library reads them, so that parallel workers share the cores."""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
