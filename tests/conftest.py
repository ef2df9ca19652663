"""What parallel workers of the suite share: the cores, by threads set before a library reads them, and files."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
# Exports and imports make millions of objects that stay; the default looks through all of them hundreds of times.
gc.set_threshold(50_000, 20, 50)


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of that name, the same for all workers of a run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    folder.mkdir(exist_ok=True)
    return folder
